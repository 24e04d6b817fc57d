"""Scores of masks against references: from files to an evaluation folder, and folders compared with each other.

``pair`` finds what belongs together, ``run_evaluation`` scores it and writes ``cases.csv``, ``summary.json`` and
``report.html``; ``evaluate`` is the short form that bundles call. ``compare_runs`` holds evaluation folders of the
same cases against each other.
"""

from medseg3d.evaluation.attributes import read_attributes
from medseg3d.evaluation.comparison import Comparison, compare_runs
from medseg3d.evaluation.masks2d import evaluate_masks2d
from medseg3d.evaluation.model import EvaluationCase, LabelScore, Problem, Scoring
from medseg3d.evaluation.pairing import (
    Pairing,
    find_labels,
    match_images,
    method_name,
    pair,
    patients_of,
    run_of,
    with_patients,
)
from medseg3d.evaluation.run import Summary, evaluate, make_scoring, run_evaluation, score_case

__all__ = [
    "Comparison",
    "EvaluationCase",
    "LabelScore",
    "Pairing",
    "Problem",
    "Scoring",
    "Summary",
    "compare_runs",
    "evaluate",
    "evaluate_masks2d",
    "find_labels",
    "make_scoring",
    "match_images",
    "method_name",
    "pair",
    "patients_of",
    "read_attributes",
    "run_evaluation",
    "run_of",
    "score_case",
    "with_patients",
]
