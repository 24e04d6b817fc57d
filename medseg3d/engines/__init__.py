"""Training and validation engines: MONAI's, with what every bundle of this project wants attached.

Bundles name ``trainer`` and ``evaluator``; the argument names are MONAI's.
"""

from medseg3d.engines.detection import BoxPrecision, DetectionValidation, collate_images, detection_step
from medseg3d.engines.device import autocast, default_device
from medseg3d.engines.masks2d import MaskDice
from medseg3d.engines.offering import offer_weights, set_aside
from medseg3d.engines.parallel import bare_network, distribute, join_processes, leave_processes, process_device
from medseg3d.engines.provenance import record_run
from medseg3d.engines.step import named_out_of_memory, take_step
from medseg3d.engines.training import ResumableTrainer, require_free, require_unseen, trainer
from medseg3d.engines.validation import LabelDice, evaluator
from medseg3d.engines.warm_start import WarmStart, start_from
from medseg3d.processes import own_share

__all__ = [
    "BoxPrecision",
    "DetectionValidation",
    "LabelDice",
    "MaskDice",
    "ResumableTrainer",
    "WarmStart",
    "autocast",
    "bare_network",
    "collate_images",
    "default_device",
    "detection_step",
    "distribute",
    "evaluator",
    "join_processes",
    "leave_processes",
    "named_out_of_memory",
    "offer_weights",
    "own_share",
    "process_device",
    "record_run",
    "require_free",
    "require_unseen",
    "set_aside",
    "start_from",
    "take_step",
    "trainer",
]
