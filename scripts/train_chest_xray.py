"""Pneumonia in chest X-rays: the 2D classifier in patient-grouped folds, beside a logistic regression on thumbnails.

Each fold is held out once, a network is trained on the others from random weights, and its last epoch (none is chosen
on the held-out images) answers them. The answers of all folds together give the AUROC, with an interval over patients::

    python scripts/train_chest_xray.py $MEDSEG3D_DATA/chest_xray runs/xray

It takes some 12 minutes on 2 cores. A fold that is done is not repeated. Beside it, in the same folds: logistic
regression on thumbnails of 24×24 pixels, on the thumbnails' borders alone (3 pixels at each side), and without these
borders; and the network with the borders hidden from it, at the test alone or, with ``--retrain``, in training too.
What can be told from the border alone is no pneumonia: it is how and where the picture was taken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.evaluation.classification import evaluate_classification
from medseg3d.images import read_image, validation_items
from medseg3d.statistics.bootstrap import Clusters, cluster_intervals
from medseg3d.statistics.curves import weighted_areas

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "image_classification_2d"
THUMBNAIL, BORDER = 24, 3
HIDDEN = BORDER / THUMBNAIL
POSITIVE = "Pneumonia"
PENALTY = 0.01  # C of the logistic regression: the best of 0.1, 0.01 and 0.001 on these folds, in its favour


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    datalist = options.out / "xray.json"
    if not datalist.is_file():
        run("-m", "medseg3d", "datalist", "build", options.data, "-o", datalist, "--folds", options.folds)
    folds = [validation_items(datalist, fold=fold) for fold in range(options.folds)]

    answers = {"network": trained(options, datalist, "network", border=0.0)}
    answers["network, border hidden at the test"] = answered(options, datalist, "network", border=HIDDEN)
    if options.retrain:
        answers["network, border hidden in training too"] = trained(options, datalist, "hidden", border=HIDDEN)
    answers |= baselines(folds)

    items = [item for fold in folds for item in fold]
    rows = [scored(options.out, name, scores, folds, items) for name, scores in answers.items()]
    gain = difference(answers["network"], answers["thumbnails"], items)
    content = {"images": len(items), "patients": len({item["patient"] for item in items}), "seed": options.seed,
               "folds": options.folds, "results": rows, "network_minus_thumbnails": gain}  # fmt: skip
    (options.out / "xray_results.json").write_text(json.dumps(content, indent=2) + "\n")
    print(table(content))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with a folder a class and metadata.csv")
    parser.add_argument("out", type=Path, help="folder for runs and results")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retrain", action="store_true", help="also train with the borders hidden: twice the time")
    parser.add_argument("--set", nargs="*", default=[], metavar="ID VALUE", help="further overrides of train.yaml")
    return parser.parse_args()


def run(*arguments: Any) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def bundle(options: argparse.Namespace, action: str, files: list[str], **overrides: Any) -> None:
    configs = [str(BUNDLE / "configs" / f"{file}.yaml") for file in files]
    typed = [part for key, value in overrides.items() for part in (f"--{key}", value)]
    further = [f"--{part}" if i % 2 == 0 else part for i, part in enumerate(options.set)]
    run("-m", "monai.bundle", "run", action, "--config_file", str(configs), "--bundle_root", BUNDLE, *typed, *further)


def trained(options: argparse.Namespace, datalist: Path, name: str, *, border: float) -> NDArray[np.float64]:
    """Scores of the held-out images of each fold, in order, by networks trained without them."""
    for fold in range(options.folds):
        folder = options.out / f"{name}{fold}"
        if (folder / "seconds.txt").is_file():
            continue
        started = time.perf_counter()
        bundle(options, "training", ["train"], datalist=datalist, fold=fold, output_dir=folder, seed=options.seed,
               border=border, resume=True)  # fmt: skip
        (folder / "seconds.txt").write_text(f"{time.perf_counter() - started:.0f}\n")
    return answered(options, datalist, name, border=border)


def answered(options: argparse.Namespace, datalist: Path, name: str, *, border: float) -> NDArray[np.float64]:
    scores = []
    for fold in range(options.folds):
        folder = options.out / f"{name}{fold}"
        out = folder / f"evaluation_border{border:g}"
        if not (out / "report.html").is_file():
            bundle(options, "evaluating", ["train", "evaluate"], datalist=datalist, fold=fold, output_dir=folder,
                   border=border, weights=folder / "last.pt", evaluation_dir=out, overlays=-1)  # fmt: skip
        table = pd.read_csv(out / "predictions.csv", dtype={"case": str}).set_index("case")
        cases = [item["case"] for item in validation_items(datalist, fold=fold)]
        scores.append(table.loc[cases, f"p_{POSITIVE}"].to_numpy())
    return np.concatenate(scores)


def baselines(folds: list[list[dict[str, Any]]]) -> dict[str, NDArray[np.float64]]:
    """Scores of the same images by logistic regressions on thumbnails."""
    thumbnails = [np.stack([thumbnail(item["image"]) for item in fold]) for fold in folds]
    inner = np.zeros((THUMBNAIL, THUMBNAIL), dtype=bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    parts = {"thumbnails": inner | True, "thumbnails, border alone": ~inner, "thumbnails without border": inner}
    return {name: logistic([t[:, part] for t in thumbnails], folds) for name, part in parts.items()}


def thumbnail(path: str) -> NDArray[np.float64]:
    from PIL import Image

    image = Image.fromarray(read_image(path).pixels).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def logistic(features: list[NDArray[np.float64]], folds: list[list[dict[str, Any]]]) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = [np.array([item["label"] for item in fold]) for fold in folds]
    scores = []
    for held_out in range(len(folds)):
        others = [i for i in range(len(folds)) if i != held_out]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000))
        model.fit(np.concatenate([features[i] for i in others]), np.concatenate([labels[i] for i in others]))
        scores.append(model.predict_proba(features[held_out])[:, 1])
    return np.concatenate(scores)


def scored(
    out: Path, name: str, scores: NDArray[np.float64], folds: list[list[dict[str, Any]]], items: list[dict[str, Any]]
) -> dict[str, Any]:
    """The pooled AUROC with its interval, and that of each fold; the whole evaluation lies in a folder of its own."""
    from sklearn.metrics import roc_auc_score

    folder = out / name.replace(", ", "_").replace(" ", "_")
    folder.mkdir(exist_ok=True)
    cases, truth = [item["case"] for item in items], np.array([item["label"] for item in items])
    names = np.array(["none", POSITIVE])[truth]
    pd.DataFrame({"case": cases, "score": scores}).to_csv(folder / "predictions.csv", index=False)
    references = {"case": cases, "patient": [item["patient"] for item in items], "label": names}
    pd.DataFrame(references).to_csv(folder / "references.csv", index=False)
    summary = evaluate_classification(
        folder / "predictions.csv",
        folder / "references.csv",
        folder,
        name=name,
        positive=POSITIVE,
        images={item["case"]: Path(item["image"]) for item in items},
    )
    ends = np.cumsum([len(fold) for fold in folds])[:-1]
    of_folds = [float(roc_auc_score(t, s)) for t, s in zip(np.split(truth, ends), np.split(scores, ends), strict=True)]
    return {"name": name, "auroc": summary["headline"]["value"], "interval": summary["headline"]["interval"],
            "folds": of_folds}  # fmt: skip


def difference(first: NDArray[np.float64], second: NDArray[np.float64], items: list[dict[str, Any]]) -> dict[str, Any]:
    """AUROC of one less that of the other, on the same images, with an interval over patients."""
    truth = np.array([item["label"] for item in items], dtype=bool)
    clusters = Clusters.of([item["patient"] for item in items])

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = weights[:, clusters.index]
        return weighted_areas(first, truth, drawn)[:, :1] - weighted_areas(second, truth, drawn)[:, :1]

    (interval,) = cluster_intervals(statistic, clusters.size)
    value = float(statistic(np.ones((1, clusters.size)))[0, 0])
    return {"value": value, "interval": interval}


def table(content: dict[str, Any]) -> str:
    lines = [f"{content['images']} images of {content['patients']} patients, {content['folds']} folds, seed "
             f"{content['seed']}; AUROC with a 95 % interval over patients", "",
             "| | AUROC, all folds | folds |", "|---|---|---|"]  # fmt: skip
    for row in content["results"]:
        low, high = row["interval"]
        folds = ", ".join(f"{value:.3f}" for value in row["folds"])
        lines.append(f"| {row['name']} | {row['auroc']:.3f} ({low:.3f} to {high:.3f}) | {folds} |")
    gain = content["network_minus_thumbnails"]
    low, high = gain["interval"]
    return "\n".join([*lines, "", f"network − thumbnails: {gain['value']:+.3f} ({low:+.3f} to {high:+.3f})"])


if __name__ == "__main__":
    main()
