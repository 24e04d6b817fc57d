"""``cases.csv``, ``lesions.csv`` and ``summary.json`` of an evaluation folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.errors import UsageError
from medseg3d.files import whole_or_not_at_all, write_json

__all__ = ["read_cases", "write_evaluation", "write_table"]

LESION_TABLE = (
    "case", "patient", "label", "lesion", "kind", "reference_ml", "predicted_ml", "dice", "x_mm", "y_mm", "z_mm",
)  # fmt: skip
COUNTS = ("lesions_reference", "lesions_predicted", "lesions_detected", "lesion_false_positives")
TEXTS = {"case": str, "patient": str, "label_id": str, "label": str, "status": str}


def write_evaluation(
    folder: Path, *, table: pd.DataFrame, lesions: Sequence[Mapping[str, Any]] | None, summary: Mapping[str, Any]
) -> None:
    """Write the files; ``summary.json`` comes last, so that with it the others are there and of the same evaluation."""
    for name in ("report.html", "summary.json"):
        (folder / name).unlink(missing_ok=True)
    write_table(folder / "cases.csv", table)
    if lesions is None:
        (folder / "lesions.csv").unlink(missing_ok=True)  # of an earlier evaluation: it would pass for this one's
    else:
        write_table(folder / "lesions.csv", pd.DataFrame(lesions, columns=list(LESION_TABLE)))
    write_json(folder / "summary.json", summary)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write CSV: NaN is an empty field, infinity ``inf``; counts stay whole numbers where some rows have none."""
    table = table.astype({column: "Int64" for column in COUNTS if column in table})
    with whole_or_not_at_all(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_cases(folder: Path) -> pd.DataFrame:
    """``cases.csv`` of an evaluation folder; names stay text, whatever they look like.

    Raises:
        UsageError: it is not there, cannot be read, or lacks columns.
    """
    path = folder / "cases.csv"
    try:
        # An empty field is NaN in numbers, and a case called "NA" is not.
        table = pd.read_csv(path, dtype=TEXTS, keep_default_na=False, na_values={"dice": ""} | _empty(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): it is written by `medseg3d evaluate`.") from error
    missing = [name for name in (*TEXTS, "dice") if name not in table.columns]
    if missing:
        raise UsageError(f"{path} has no column {', '.join(missing)}: evaluate again, with this version.")
    return table


def _empty(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as file:
        columns = file.readline().strip().split(",")
    return {column: "" for column in columns if column not in TEXTS}
