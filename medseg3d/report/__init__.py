"""Pictures and reports of segmentations. No torch."""

from medseg3d.report.evaluation import write_evaluation_report

__all__ = ["write_evaluation_report"]
