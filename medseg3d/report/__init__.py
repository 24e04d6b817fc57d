"""Pictures and reports of segmentations. No torch."""

from medseg3d.report.comparison import write_comparison_report
from medseg3d.report.evaluation import write_evaluation_report

__all__ = ["write_comparison_report", "write_evaluation_report"]
