"""Cross-validation of a planned study, from trainings to one bundle.

``read_study`` reads what ``medseg3d plan`` made, ``cross_validate`` does everything after it: it trains the folds,
predicts every case by networks that have not seen it, chooses plan or ensemble, mirroring and corrections on these
predictions, calibrates, evaluates, and packs what was chosen.
"""

from __future__ import annotations

from medseg3d.crossval.run import CrossValidation, cross_validate
from medseg3d.crossval.study import Configuration, FoldRun, Study, read_study
from medseg3d.crossval.training import fold_state, train_folds

__all__ = [
    "Configuration",
    "CrossValidation",
    "FoldRun",
    "Study",
    "cross_validate",
    "fold_state",
    "read_study",
    "train_folds",
]
