"""From a data set to the values that a bundle is trained with, each with its reason.

``extract_fingerprint`` reads a data set once; ``make_plan`` works out spacing, patch, network and the rest;
``write_study`` puts both into a folder, whose ``plan.yaml`` is one more file for ``--config_file``.
"""

from medseg3d.plan.anatomy import case_weights
from medseg3d.plan.case import CaseFingerprint, fingerprint_case, measure_case
from medseg3d.plan.fingerprint import Fingerprint, Intensity, LabelFacts, extract_fingerprint
from medseg3d.plan.memory import parse_memory, training_bytes
from medseg3d.plan.model import Configuration, Plan, Value
from medseg3d.plan.overrides import Overrides, parse_overrides
from medseg3d.plan.planning import make_plan
from medseg3d.plan.template import Template, read_template
from medseg3d.plan.topology import Topology, topology

__all__ = [
    "CaseFingerprint",
    "Configuration",
    "Fingerprint",
    "Intensity",
    "LabelFacts",
    "Overrides",
    "Plan",
    "Template",
    "Topology",
    "Value",
    "case_weights",
    "extract_fingerprint",
    "fingerprint_case",
    "make_plan",
    "measure_case",
    "parse_memory",
    "parse_overrides",
    "read_template",
    "topology",
    "training_bytes",
]
