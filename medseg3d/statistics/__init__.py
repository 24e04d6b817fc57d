"""Statistics of evaluation: intervals over patients, paired comparisons, agreement. Arrays in, numbers out; no torch.

The unit of inference is the patient: scans of one patient resemble each other, so resampling images would make
intervals too narrow. Values may be NaN (not defined, left out and counted) or infinite (a distance to a structure that
was missed: ranked last, never averaged).
"""

from medseg3d.statistics.agreement import BlandAltman, Icc, bland_altman, icc_agreement
from medseg3d.statistics.bootstrap import (
    FEW_PATIENTS,
    FEWEST_PATIENTS,
    LEVEL,
    RESAMPLES,
    Clusters,
    Interval,
    few_patients,
    mean_intervals,
    mean_of_means_interval,
    median_intervals,
)
from medseg3d.statistics.describe import MetricSummary, describe
from medseg3d.statistics.paired import PairedTest, holm, paired_test
from medseg3d.statistics.ranking import Ranking, rank_methods

__all__ = [
    "FEWEST_PATIENTS",
    "FEW_PATIENTS",
    "LEVEL",
    "RESAMPLES",
    "BlandAltman",
    "Clusters",
    "Icc",
    "Interval",
    "MetricSummary",
    "PairedTest",
    "Ranking",
    "bland_altman",
    "describe",
    "few_patients",
    "holm",
    "icc_agreement",
    "mean_intervals",
    "mean_of_means_interval",
    "median_intervals",
    "paired_test",
    "rank_methods",
]
