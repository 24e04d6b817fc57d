"""Methods compared from evaluation folders: hand-made tables, so that every number can be worked out."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.cli.compare import pair_table
from medseg3d.errors import UsageError
from medseg3d.evaluation import compare_runs, comparison
from medseg3d.evaluation.files import write_table
from medseg3d.evaluation.tables import METRICS
from medseg3d.statistics import holm

INF, NAN = math.inf, math.nan


def folder(
    path: Path, dice: dict[str, list[float]], *, patients=None, first=0, tolerance=2.0, lesion_overlap=None, **metrics
) -> Path:
    """An evaluation folder whose Dice is given by label, of cases c<first>, c<first + 1>, …."""
    path.mkdir()
    rows = []
    for number, (label, values) in enumerate(dice.items(), start=1):
        for i, value in enumerate(values):
            case = f"c{first + i}"
            row = dict.fromkeys(METRICS, 1.0) | {"reference_ml": 5.0 + i + first, "volume_difference_ml": -0.5}
            row |= {"dice": value} | {name: column[i] for name, column in metrics.items()}
            patient = patients[i] if patients else f"p{first + i}"
            rows.append(
                {"case": case, "patient": patient, "label_id": number, "label": label, "status": "scored"} | row
            )
    write_table(path / "cases.csv", pd.DataFrame(rows))
    summary = {"schema": "medseg3d.evaluation/1", "name": path.name, "tolerance_mm": dict.fromkeys(dice, tolerance)}
    summary["provenance"] = {"settings": {"lesion_overlap_iou": lesion_overlap}}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def strict(path: Path) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def only(content: dict, **wanted: str) -> dict:
    (pair,) = [p for p in content["pairs"] if all(p[key] == value for key, value in wanted.items())]
    return pair


@pytest.fixture
def two(tmp_path) -> list[Path]:
    rng = np.random.default_rng(0)
    a = {"liver": rng.uniform(0.7, 0.9, 20).tolist(), "tumour": rng.uniform(0.3, 0.9, 20).tolist()}
    b = {"liver": (np.array(a["liver"]) + rng.uniform(0.01, 0.1, 20)).tolist(), "tumour": a["tumour"]}
    return [folder(tmp_path / "A", a), folder(tmp_path / "B", b)]


def test_the_pairs_and_their_files(two, tmp_path):
    found = compare_runs(two, output_dir=tmp_path / "out")
    content = strict(tmp_path / "out" / "comparison.json")
    assert content == json.loads(json.dumps(found.content))
    assert (content["methods"], content["cases"], content["patients"]) == (["A", "B"], 20, 20)
    a, b = (pd.read_csv(path / "cases.csv") for path in two)
    liver = only(content, label="liver", metric="dice")
    difference = (a.dice - b.dice)[a.label == "liver"]
    assert liver["difference"] == pytest.approx(difference.mean())
    assert liver["interval"][0] < difference.mean() < liver["interval"][1] < 0
    assert liver["wilcoxon_p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert (liver["wins_a"], liver["ties"], liver["wins_b"]) == (0, 0, 20)
    tumour = only(content, label="tumour", metric="dice")
    assert (tumour["wilcoxon_p"], tumour["status"], tumour["significant"]) == (1.0, "equal", False)
    assert [liver["p_holm"], tumour["p_holm"]] == pytest.approx(holm([liver["wilcoxon_p"], 1.0]))
    assert liver["significant"] is True
    assert content["ranking"]["dice"]["mean_rank"] == {"A": 1.75, "B": 1.25}
    assert content["ranking"]["dice"]["rank_share"]["B"] == [1.0, 0.0]
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["pairs"])
    assert float(rows[0]["interval_low"]) == pytest.approx(liver["interval"][0])
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_lower_distance_wins_and_a_miss_is_the_worst(tmp_path):
    dice = {"liver": [0.9] * 7}
    a = folder(tmp_path / "A", dice, hd95_mm=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    b = folder(tmp_path / "B", dice, hd95_mm=[2.0, 4.0, 6.0, 8.0, 10.0, 12.0, INF])
    content = compare_runs([a, b], output_dir=tmp_path / "out").content
    pair = only(content, metric="hd95_mm")
    assert (pair["wins_a"], pair["wins_b"], pair["infinite"], pair["status"]) == (7, 0, 1, "infinite")
    assert (pair["mean_a"], pair["difference"], pair["interval"]) == (None, None, None)
    assert pair["median_difference"] == -4.0
    assert pair["wilcoxon_p"] == pytest.approx(2 / 2**7)
    assert content["ranking"]["hd95_mm"]["mean_rank"] == {"A": 1.0, "B": 2.0}
    row = next(r for r in content["cases_table"] if r["metric"] == "hd95_mm" and r["case"] == "c6")
    assert (row["values"], row["infinite"]) == ({"A": 7.0, "B": None}, ["B"])


def test_the_sides_of_infinite_intervals_are_kept(tmp_path):
    """B misses 4 of 10: a third of the draws have five misses or more, so that the interval reaches to -infinity."""
    dice = {"liver": [0.9] * 10}
    a = folder(tmp_path / "A", dice, hd95_mm=[1.0 + i for i in range(10)])
    b = folder(tmp_path / "B", dice, hd95_mm=[3.0 + i for i in range(6)] + [INF] * 4)
    content = compare_runs([a, b], output_dir=tmp_path / "out", metric="hd95_mm").content
    pair = only(content, metric="hd95_mm")
    assert (pair["infinite_a"], pair["infinite_b"]) == (0, 4)
    assert (pair["median_difference"], pair["median_difference_infinite"]) == (-2.0, None)
    assert (pair["median_interval"], pair["median_interval_infinite"]) == ([None, -2.0], ["-inf", None])
    row = pd.read_csv(tmp_path / "out" / "comparison.csv").query("metric == 'hd95_mm'").iloc[0]
    assert (row.median_interval_low, row.median_interval_high) == (-INF, -2.0)
    swapped = only(compare_runs([b, a], output_dir=tmp_path / "out", metric="hd95_mm").content, metric="hd95_mm")
    assert swapped["median_interval_infinite"] == [None, "inf"]
    result = CliRunner().invoke(app, ["compare", str(a), str(b), "--out", str(tmp_path / "out"), "--metric", "hd95_mm"])
    assert "median -2.000 (-∞ to -2.000)" in result.stdout
    assert "infinite for B in 4 of 10 (liver)" in result.stdout


def test_labels_that_only_one_has_are_named(tmp_path):
    a = folder(tmp_path / "A", {"liver": [0.5] * 6, "cyst": [0.5] * 6})
    b = folder(tmp_path / "B", {"liver": [0.6] * 6})
    content = compare_runs([a, b], output_dir=tmp_path / "out").content
    assert content["left_out_labels"] == {"A": ["cyst"], "B": []}
    result = CliRunner().invoke(app, ["compare", str(a), str(b), "--out", str(tmp_path / "out")])
    assert "Labels only in A and some others: left out (cyst)." in result.stdout


def test_a_comparison_that_stops_leaves_none_of_an_earlier_one(two, tmp_path, monkeypatch):
    compare_runs(two, output_dir=tmp_path / "out")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        compare_runs(two, output_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comparison.csv"]


def test_the_table_is_whole_at_80_columns(two, tmp_path):
    content = compare_runs(two, output_dir=tmp_path / "out", names=["nnunet", "transformer_large"]).content
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(pair_table(content))
    text = console.export_text()
    assert "…" not in text
    assert "nnunet" in text and "< 0.001 *" in text


def test_only_shared_cases_count_and_the_others_are_named(tmp_path):
    a = folder(tmp_path / "A", {"liver": [0.5, 0.6, 0.7, 0.8]})
    b = folder(tmp_path / "B", {"liver": [0.9, 0.9, 0.9]}, first=2)
    content = compare_runs([a, b], output_dir=tmp_path / "out").content
    assert (content["cases"], content["left_out"]) == (2, {"A": ["c0", "c1"], "B": ["c4"]})
    pair = only(content, metric="dice")
    assert (pair["n"], pair["mean_a"], pair["status"]) == (2, pytest.approx(0.75), "too_few")


def test_an_undefined_score_leaves_its_case_out_of_the_pair(tmp_path):
    a = folder(tmp_path / "A", {"liver": [0.5, NAN, 0.7]})
    b = folder(tmp_path / "B", {"liver": [0.6, 0.0, 0.9]})
    pair = only(compare_runs([a, b], output_dir=tmp_path / "out").content, metric="dice")
    assert (pair["n"], pair["undefined"]) == (2, 1)


def test_three_methods_make_three_pairs_and_one_family(tmp_path):
    rng = np.random.default_rng(1)
    runs = [folder(tmp_path / name, {"liver": rng.uniform(0.5, 0.9, 15).tolist()}) for name in "ABC"]
    content = compare_runs(runs, output_dir=tmp_path / "out", metric="nsd", names=["x", "y", "z"]).content
    pairs = [p for p in content["pairs"] if p["metric"] == "dice"]
    assert [(p["a"], p["b"]) for p in pairs] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [p["p_holm"] for p in pairs] == pytest.approx(holm([p["wilcoxon_p"] for p in pairs]))
    assert content["pairs"][0]["metric"] == content["metric"] == "nsd"
    shares = np.array(list(content["ranking"]["dice"]["rank_share"].values()))
    assert shares.sum(axis=1) == pytest.approx([1, 1, 1])


def test_what_cannot_be_compared_is_refused(tmp_path):
    good = folder(tmp_path / "A", {"liver": [0.5, 0.6]})

    def refused(other: Path, message: str, **options) -> None:
        with pytest.raises(UsageError, match=message):
            compare_runs([good, other], output_dir=tmp_path / "out", **options)

    refused(tmp_path / "nowhere", "nowhere is no evaluation folder")
    refused(folder(tmp_path / "B", {"liver": [0.5]}, first=9), r"no case and label in common: A has c0, c1 \(liver\)")
    refused(
        folder(tmp_path / "C", {"liver": [0.5, 0.5]}, tolerance=1.0), "NSD tolerance of 2.0 mm in A and of 1.0 mm in C"
    )
    refused(folder(tmp_path / "D", {"liver": [0.5, 0.5]}, patients=["q", "q"]), "other patients for the same cases")
    other = folder(tmp_path / "E", {"liver": [0.5, 0.5]}, reference_ml=[5.0, 6.5])
    refused(other, r"against other references: liver of c1 has 6.000 and 6.500 ml \(1 rows differ\)")
    overlap = folder(tmp_path / "G", {"liver": [0.5, 0.5]}, lesion_overlap=0.5)
    with pytest.raises(UsageError, match=r"IoU of 0.1 in H and of 0.5 in G: evaluate both with the same --lesion-ov"):
        compare_runs([folder(tmp_path / "H", {"liver": [0.5, 0.5]}, lesion_overlap=0.1), overlap], output_dir=tmp_path)
    compare_runs([good, overlap], output_dir=tmp_path / "fine")  # one without lesions: they are not compared
    refused(good, "Methods are called A, A")
    refused(good, "2 folders: give one each", names=["x"])
    refused(folder(tmp_path / "F", {"liver": [0.5, 0.5]}), "--metric taste: not in all folders", metric="taste")
    with pytest.raises(UsageError, match="needs two or more"):
        compare_runs([good], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_references_of_structures_under_a_microscope(tmp_path):
    """A quarter of a micrometre a pixel: 300 pixels are 1.875e-8 ml."""
    truths = {"A": [1.875e-8, 0.0], "B": [1.625e-8, 0.0]}
    runs = [folder(tmp_path / name, {"cell": [0.5, 0.5]}, reference_ml=sizes) for name, sizes in truths.items()]
    message = r"against other references: cell of c0 has 1.875e-08 and 1.625e-08 ml \(1 rows differ\)"
    with pytest.raises(UsageError, match=message):
        compare_runs(runs, output_dir=tmp_path / "out")


def test_the_command_prints_the_table(two, tmp_path):
    result = CliRunner().invoke(app, ["compare", *map(str, two), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any("liver" in line and "< 0.001 *" in line and "0 / 0 / 20" in line for line in lines)
    assert "20 cases of 20 patients compared. Report:" in result.stdout
