"""Axial slices of labelled volumes as a list of 2D images, and masks of slices stacked to volumes again.

    python scripts/slices_of_volumes.py list hippocampus.json slices.json
    python scripts/slices_of_volumes.py stack slices.json runs/fold0/evaluation volumes/
    medseg3d evaluate volumes/ hippocampus.json

The first takes a data list of NIfTI volumes with one channel (``medseg3d datalist build`` or ``split``). Nothing is
copied: a slice is called ``volume.nii.gz#page=12``. Folds and patients are those of the volumes, so that slices of one
patient are never on both sides. The second writes a mask wherever there is one of every slice of a volume, on the
volume's grid; so a 2D bundle is scored by the same command on the same files as a 3D one.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np

from medseg3d.datalist import read_datalist
from medseg3d.datalist.model import Case
from medseg3d.errors import CaseError, MedsegError
from medseg3d.files import whole_or_not_at_all
from medseg3d.images import ImageItem, ImageList, ImageRef, count_pages, read_image_list, read_mask, write_image_list


def list_slices(volumes: Path, output: Path) -> ImageList:
    """Write a list of all axial slices of a data list of volumes."""
    source = read_datalist(volumes)
    images = ImageList(
        path=output.absolute(),
        name=f"{source.name}, axial slices",
        task="segmentation_2d",
        labels=source.labels,
        training=tuple(item for case in source.training for item in _slices(case)),
        testing=tuple(item for case in source.testing for item in _slices(case)),
    )
    write_image_list(images, output)
    return images


def stack(slices: Path, masks: Path, output: Path) -> list[Path]:
    """Write the masks ``<case>.png`` of slices as label maps of their volumes."""
    images = read_image_list(slices)
    pages: dict[Path, dict[int, Path]] = defaultdict(dict)
    names: dict[Path, str] = {}
    for item in (*images.training, *images.testing):
        mask = masks / f"{item.case}.png"
        if mask.is_file() and item.image.page is not None:
            pages[item.image.path][item.image.page] = mask
            names[item.image.path] = re.sub(r"_z\d+$", "", item.case)
    return [_stacked(volume, found, output / f"{names[volume]}.nii.gz") for volume, found in pages.items()]


def _slices(case: Case) -> list[ImageItem]:
    if len(case.image) > 1:
        raise CaseError(f"{case.case} has {len(case.image)} channels; slices of one channel can be listed.")
    return [
        ImageItem(
            case=f"{case.case}_z{page:04d}",
            patient=case.patient,
            image=ImageRef(case.image[0], page),
            fold=case.fold,
            masks=None if case.label is None else (ImageRef(case.label, page),),
        )
        for page in range(count_pages(case.image[0]))
    ]


def _stacked(volume: Path, pages: dict[int, Path], output: Path) -> Path:
    image = nibabel.load(volume)
    missing = sorted(set(range(image.shape[2])) - set(pages))
    if missing:
        raise CaseError(
            f"{volume.name}: {len(missing)} of {image.shape[2]} slices have no mask, the first is {missing[0]}."
        )
    # A picture's rows are the volume's second axis, its columns the first.
    labels = np.stack([read_mask(pages[page]).pixels.T for page in range(image.shape[2])], axis=2)
    header = image.header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    with whole_or_not_at_all(output) as temporary:
        nibabel.save(nibabel.Nifti1Image(labels, image.affine, header), temporary)
    return output


def main() -> int:
    """Run one of the two commands; a refusal is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="volumes to a list of slices")
    listing.add_argument("volumes", type=Path)
    listing.add_argument("output", type=Path)
    stacking = commands.add_parser("stack", help="masks of slices to volumes")
    stacking.add_argument("slices", type=Path)
    stacking.add_argument("masks", type=Path)
    stacking.add_argument("output", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "list":
            images = list_slices(arguments.volumes, arguments.output)
            print(f"{arguments.output}: {len(images.training)} slices to train on, {len(images.testing)} to test on")
        else:
            written = stack(arguments.slices, arguments.masks, arguments.output)
            print(f"{arguments.output}: {len(written)} volumes")
    except MedsegError as error:
        print(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
