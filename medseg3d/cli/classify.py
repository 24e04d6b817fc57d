"""``medseg3d classify``: classes of 2D images by a bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["classify"]

ALL_VIEWS = 6


class _Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def classify(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="An image, a folder of images, or a list of images.", show_default=False),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for predictions.csv; made if absent.", show_default=False)],
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.", show_default=False)],
    device: Annotated[
        _Device | None, typer.Option(help="Where to compute.", show_default="cuda if there is one")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to use.", show_default="the bundle's models/model.pt")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Temperature and thresholds.",
            show_default="calibration.json beside the weights, if there",
        ),
    ] = None,
    config_file: Annotated[
        list[Path] | None,
        typer.Option(help="YAML or JSON over the bundle's inference.yaml; may be repeated."),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over a closer look and small shifts of each image.")
    ] = False,
    overlays: Annotated[
        int, typer.Option(help="Draw what spoke for the class of so many images; -1 for all.", show_default="none")
    ] = 0,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a bundle even if it holds code that `medseg3d bundle check` shows.")
    ] = False,
) -> None:
    """Tell 2D images apart: X-rays, photographs, microscopy, single DICOM frames.

    INPUT is a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image, a folder of them, or a list of images (.json), of which the
    testing images are taken. OUTPUT gets predictions.csv with case, p_<class> of every class and the class that is
    called; predictions.json with the weights, the calibration and what failed; and, on request, overlays/<case>.png:
    Grad-CAM, or the attention of vision transformers.

    An image that fails is reported, the others are done, and the exit status is 1.

    A bundle that would run code outside the libraries that it is made for is refused with a list of it, until --trust
    says that somebody has read it.

    The same run without this command: python -m monai.bundle run --config_file BUNDLE/configs/inference.yaml
    --bundle_root BUNDLE --dataset_dir INPUT --output_dir OUTPUT

    [bold]Examples[/]

      medseg3d classify xrays/ answers/ --bundle image_classification_2d --weights runs/fold0/best.pt

      medseg3d classify chest.dcm answers/ --bundle image_classification_2d --weights best.pt --tta --overlays -1

      medseg3d classify xray.json answers/ --bundle bundles/my_bundle --device cpu
    """
    from medseg3d.bundles import find_bundle
    from medseg3d.inference.run import run_inference

    overrides: dict[str, Any] = {"overlays": overlays}
    if tta:
        overrides["views"] = ALL_VIEWS
    if calibration is None and weights is not None:
        calibration = weights.with_name("calibration.json")
    if calibration is not None:
        overrides["calibration"] = str(calibration)
    run_inference(
        find_bundle(bundle),
        source,
        output,
        device=device.value if device else None,
        weights=weights,
        config_files=config_file or (),
        overrides=overrides,
        evaluator="Classifier",
        trust=trust,
    )
