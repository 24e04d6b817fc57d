"""``report.html`` of a cross-validation: what was tried, what was chosen and why, beside the evaluation of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.errors import UsageError
from medseg3d.report.charts import calibration_chart, layout
from medseg3d.report.colours import palette_of
from medseg3d.report.evaluation import provenance_facts
from medseg3d.report.page import render, write_page
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.verdict import Verdict
from medseg3d.report.words import count, interval, number, p_value

__all__ = ["crossval_html", "write_crossval_report"]

KINDS = {"largest": "largest component", "min_size": "smallest volume", "fill_holes": "hole filling"}
NAMED_CASES = 6


def write_crossval_report(folder: str | Path) -> Path:
    """Write ``folder/report.html`` from its ``crossval.json``; opens without a network.

    Raises:
        UsageError: the file is missing, damaged or of another schema.
    """
    path = Path(folder) / "crossval.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}). Run `medseg3d crossval` again.") from error
    if not isinstance(content, dict) or content.get("schema") != "medseg3d.crossval/1":
        raise UsageError(f"{path}: is no cross-validation of this version. Run `medseg3d crossval` again.")
    return write_page(Path(folder) / "report.html", crossval_html(content))


def crossval_html(content: Mapping[str, Any]) -> str:
    """The page as text. Pure."""
    calibration, confidence = content["calibration"], content["confidence"]
    palette = palette_of([{"name": name, "ids": [i]} for i, name in enumerate(calibration["ece"], 1)])
    chart = calibration_chart({name: {"bins": bins} for name, bins in calibration["bins"].items()}, palette)
    view: dict[str, Any] = {
        "title": f"Cross-validation of {content['study']}",
        "kicker": f"{content['bundle']} · {count(len(content['folds']), 'fold')} · each case by a network new to it",
        "verdict": _verdict(content),
        "candidate_table": _candidates(content["candidates"]),
        "candidate_rule": content["candidate_rule"],
        "correction_table": _corrections(content["corrections"]),
        "correction_rule": content["correction_rule"],
        "calibration_table": _calibration(calibration),
        "calibration_lead": _calibration_lead(calibration),
        "confidence_lead": _confidence_lead(confidence),
        "confidence_table": _quarters(confidence),
        "shipped_table": _shipped(content["shipped"]),
        "shipped": content["shipped"],
        "provenance": provenance_facts(content["provenance"]),
        "command": content["provenance"].get("command") or "",
    }  # fmt: skip
    sections = [("verdict", "Verdict"), ("candidates", "Candidates"), ("corrections", "Corrections"),
                ("calibration", "Calibration"), ("confidence", "Confidence"), ("bundle", "Bundle"),
                ("provenance", "Provenance")]  # fmt: skip
    payloads = {"chart-data": {"layout": layout(), "fixed": {"calibration-chart": chart}}}
    return render("crossval.html.j2", payloads=payloads, sections=sections, **view)


def _verdict(content: Mapping[str, Any]) -> Verdict:
    chosen = next(c for c in content["candidates"] if c["chosen"])
    others = [c for c in content["candidates"] if not c["chosen"]]
    taken = [trial for trial in content["corrections"] if trial["taken"]]
    structures = ", ".join(f"{name} {number(value)}" for name, value in content["dice"].items())
    sentences = [
        f"{count(content['cases'], 'case')} were segmented by networks that had not seen them: {structures}.",
        f"{chosen['name']} was chosen out of {count(len(others) + 1, 'candidate')}.",
        "No correction of the masks helps." if not taken
        else f"Corrections that help: {'; '.join(_named(trial) for trial in taken)}.",
        f"The bundle holds {count(len(content['shipped']['weights']), 'network')}.",
    ]  # fmt: skip
    return Verdict(
        number(content["mean_dice"]),
        f"mean Dice over {count(len(content['dice']), 'structure')}, out of fold",
        f"95 % interval {interval(content['interval'])}" if content["interval"] else "no interval",
        tuple(sentences),
        ("The choice was made on the cases that it is scored on, and each network is that of the epoch with the best "
         "validation on them (best.pt). With few candidates and rules that ask for a gain this flatters little, but "
         "only other cases can tell.",),
    )  # fmt: skip


def _named(trial: Mapping[str, Any]) -> str:
    size = "" if trial["min_volume_ml"] is None else f" {trial['min_volume_ml']:g} ml"
    return f"{KINDS[trial['kind']]}{size} of {trial['label']}"


def _candidates(candidates: Sequence[Mapping[str, Any]]) -> Table:
    names = list(candidates[0]["dice"])
    columns = (
        Column("Candidate"), Column("Mean Dice", True), *(Column(name, True) for name in names),
        Column("Passes a window", True, help="Through one network; the ensemble of folds multiplies it."),
    )  # fmt: skip
    ranked = sorted(candidates, key=lambda c: -(c["mean_dice"] or 0))
    rows = tuple(
        Row((
            Cell(c["name"], note="chosen" if c["chosen"] else "", tone="good" if c["chosen"] else ""),
            amount(c["mean_dice"], 4), *(amount(c["dice"][name], 4) for name in names), amount(c["passes"], 0),
        ))
        for c in ranked
    )  # fmt: skip
    return Table("candidate-table", columns, rows, "Before any correction; means over the held-out cases.")


def _corrections(trials: Sequence[Mapping[str, Any]]) -> Table:
    columns = (Column("Structure"), Column("Correction"), Column("Dice before", True), Column("after", True),
               Column("Better", True), Column("Worse", True), Column("Worst loss", True), Column("Taken"))  # fmt: skip
    rows = tuple(
        Row((
            Cell(t["label"]),
            Cell(KINDS[t["kind"]], note="" if t["min_volume_ml"] is None else f"{t['min_volume_ml']:g} ml"),
            amount(t["before"], 4), amount(t["after"], 4),
            amount(len(t["better"]), 0, note=_cases(t["better"])), amount(len(t["worse"]), 0, note=_cases(t["worse"])),
            amount(t["worst_loss"], 4), Cell("yes" if t["taken"] else "no", tone="good" if t["taken"] else "muted"),
        ))
        for t in trials
    )  # fmt: skip
    return Table("correction-table", columns, rows, "Cases that no side has a structure in count as 1.")


def _cases(names: Sequence[str]) -> str:
    shown = "\n".join(names[:NAMED_CASES])
    return f"{shown}\n…" if len(names) > NAMED_CASES else shown


def _calibration(calibration: Mapping[str, Any]) -> Table:
    columns = (Column("Structure"), Column("ECE before", True), Column("ECE after", True))
    rows = [Row((Cell(name), amount(old, 4), amount(new, 4))) for name, (old, new) in calibration["ece"].items()]
    return Table("ece-table", columns, tuple(rows), compact=True)


def _calibration_lead(calibration: Mapping[str, Any]) -> str:
    (before, after), (loss_before, loss_after) = calibration["mean_ece"], calibration["log_loss"]
    return (
        f"Temperature {number(calibration['temperature'])}, fitted on {count(calibration['voxels'], 'voxel')} of "
        "and near the structures. Measured with temperatures fitted without the case's own fold: expected calibration "
        f"error {number(before, 4)} before and {number(after, 4)} after, log loss {number(loss_before, 4)} and "
        f"{number(loss_after, 4)}; where that does not fall, the temperature stays 1. The entropy tells wrong "
        "voxels from right ones with an AUROC of "
        f"{number(calibration['error_auroc'])}. Members are averaged first and calibrated then; the temperature is "
        "that of a single fold's answer, so the average of all folds is, if anything, less certain than it could be."
    )


def _confidence_lead(confidence: Mapping[str, Any]) -> str:
    if confidence["rank_correlation"] is None:
        return f"{confidence['definition']} Too few cases, or all alike: it was not compared with the Dice."
    return (
        f"{confidence['definition']} Over {count(confidence['cases'], 'case')} its rank correlation with the Dice "
        f"(Spearman) is {number(confidence['rank_correlation'])} (p {p_value(confidence['p_value'])}); "
        f"it tells the worst fifth (Dice up to {number(confidence['poor_below'])}) from the others with an AUROC "
        f"of {number(confidence['poor_auroc'])}."
    )


def _quarters(confidence: Mapping[str, Any]) -> Table | None:
    if not confidence["quarters"]:
        return None
    columns = (Column("Confidence"), Column("Mean Dice", True))
    shares = len(confidence["quarters"])
    names = ["lowest quarter", "second quarter", "third quarter", "highest quarter"] if shares == 4 else [
        f"{place} of {shares}" for place in range(1, shares + 1)]  # fmt: skip
    rows = tuple(Row((Cell(name), amount(v))) for name, v in zip(names, confidence["quarters"], strict=True))
    return Table("confidence-table", columns, rows, compact=True)


def _shipped(shipped: Mapping[str, Any]) -> Table:
    columns = (Column("File"), Column("Network"))
    rows = tuple(Row((Cell(file), Cell(network))) for file, network in shipped["weights"].items())
    return Table("shipped-table", columns, rows, compact=True)
