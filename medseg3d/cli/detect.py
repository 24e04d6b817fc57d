"""``medseg3d detect``: objects in 2D images by a bundle: boxes and counts."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["detect"]


class _Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def _tile_size(text: str) -> list[int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise typer.BadParameter(f"{text!r} is no size: give rows and columns, such as 480x640.")
    return [int(match[1]), int(match[2])]


def detect(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="An image, a folder of images, or a list of images.", show_default=False),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for boxes and counts; made if absent.", show_default=False)],
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.", show_default=False)],
    device: Annotated[
        _Device | None, typer.Option(help="Where to compute.", show_default="cuda if there is one")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to use.", show_default="the bundle's models/model.pt")
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Scores from which objects count.",
            show_default="thresholds.json beside the weights, if there",
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(metavar="ROWSxCOLUMNS", help="Cut large images into tiles of the size of the training's images."),
    ] = "",
    config_file: Annotated[
        list[Path] | None,
        typer.Option(help="YAML or JSON over the bundle's inference.yaml; may be repeated."),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Draw the boxes of so many images; -1 for all.")] = -1,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a bundle even if it holds code that `medseg3d bundle check` shows.")
    ] = False,
) -> None:
    """Find and count objects in 2D images: cells, lesions, instruments.

    INPUT is a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image, a folder of them, or a list of images (.json), of which the
    testing images are taken. OUTPUT gets detections.json in COCO's format; detections.csv, a row a box; counts.csv, how
    many objects of each class an image has; and pictures/ with the boxes that count. Scores are rescaled so that an
    object counts from 0.5 on, whatever its class. Boxes are left, top, right, bottom in pixels of the image.

    An image that fails is reported, the others are done, and the exit status is 1.

    A bundle that would run code outside the libraries that it is made for is refused with a list of it, until --trust
    says that somebody has read it.

    The same run without this command: python -m monai.bundle run --config_file BUNDLE/configs/inference.yaml
    --bundle_root BUNDLE --dataset_dir INPUT --output_dir OUTPUT

    [bold]Examples[/]

      medseg3d detect smears/ cells/ --bundle image_detection_2d --weights runs/fold0/best.pt

      medseg3d detect slide.tif cells/ --bundle image_detection_2d --weights runs/fold0/best.pt --tile 480x640

      medseg3d detect cells.json found/ --bundle bundles/my_bundle --pictures 10 --device cpu
    """
    size = _tile_size(tile) if tile else None

    from medseg3d.bundles import find_bundle
    from medseg3d.inference.run import run_inference

    folder = find_bundle(bundle)
    files = list(config_file or ())
    overrides: dict[str, Any] = {"pictures": pictures}
    if size is not None:
        files.insert(0, folder / "configs" / "tiled.yaml")
        overrides["tile_size"] = size
    if thresholds is None and weights is not None:
        thresholds = weights.with_name("thresholds.json")
    if thresholds is not None:
        overrides["thresholds"] = str(thresholds)
    run_inference(
        folder,
        source,
        output,
        device=device.value if device else None,
        weights=weights,
        config_files=files,
        overrides=overrides,
        trust=trust,
    )
