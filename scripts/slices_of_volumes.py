"""Axial slices of labelled volumes as a list of 2D images, and masks of slices stacked to volumes again.

    python scripts/slices_of_volumes.py list hippocampus.json slices.json
    python scripts/slices_of_volumes.py stack slices.json runs/fold0/evaluation volumes/
    medseg3d evaluate volumes/ hippocampus.json

The first takes a data list of NIfTI volumes with one channel (``medseg3d datalist build`` or ``split``). A slice is
called ``volume.nii.gz#page=12``, and nothing is copied where all volumes are stored alike; otherwise a left and a right
kidney would change places from one to the next, so copies in one orientation are written beside the list. Folds and
patients are those of the volumes, so that slices of one patient are never on both sides. The second writes a mask
wherever there is one of every slice of a volume, on the volume's own grid; so a 2D bundle is scored by the same command
on the same files as a 3D one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from medseg3d.datalist import read_datalist
from medseg3d.datalist.model import Case
from medseg3d.errors import CaseError, MedsegError
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.images import ImageItem, ImageList, ImageRef, count_pages, read_image_list, read_mask, write_image_list

UPRIGHT = "LPS"  # columns to the patient's left, rows to the back: as axial pictures are looked at
SOURCES = "sources.json"


def list_slices(volumes: Path, output: Path) -> ImageList:
    """Write a list of all axial slices of a data list of volumes."""
    source = read_datalist(volumes)
    cases = (*source.training, *source.testing)
    if len({_stored_as(case) for case in cases}) > 1:
        folder = output.absolute().parent / f"{output.stem}_upright"
        turned = {case.case: _turned(case, folder) for case in cases}
        write_json(folder / SOURCES, {case.case: str(case.image[0]) for case in cases})
    else:
        turned = {case.case: case for case in cases}
    images = ImageList(
        path=output.absolute(),
        name=f"{source.name}, axial slices",
        task="segmentation_2d",
        labels=source.labels,
        training=tuple(item for case in source.training for item in _slices(turned[case.case])),
        testing=tuple(item for case in source.testing for item in _slices(turned[case.case])),
    )
    write_image_list(images, output)
    return images


def stack(slices: Path, masks: Path, output: Path) -> list[Path]:
    """Write the masks ``<case>.png`` of slices as label maps of their volumes, as these are stored."""
    images = read_image_list(slices)
    pages: dict[Path, dict[int, Path]] = defaultdict(dict)
    names: dict[Path, str] = {}
    for item in (*images.training, *images.testing):
        mask = masks / f"{item.case}.png"
        if mask.is_file() and item.image.page is not None:
            pages[item.image.path][item.image.page] = mask
            names[item.image.path] = re.sub(r"_z\d+$", "", item.case)
    return [_stacked(volume, found, output / f"{names[volume]}.nii.gz") for volume, found in pages.items()]


def _stored_as(case: Case) -> str:
    if len(case.image) > 1:
        raise CaseError(f"{case.case} has {len(case.image)} channels; slices of one channel can be listed.")
    return "".join(nibabel.aff2axcodes(nibabel.load(case.image[0]).affine))


def _turned(case: Case, folder: Path) -> Case:
    """The case with copies of its volumes that all lie alike."""
    image = _upright(case.image[0], folder / "images" / f"{case.case}.nii")
    label = None if case.label is None else _upright(case.label, folder / "labels" / f"{case.case}.nii")
    return replace(case, image=(image,), label=label)


def _upright(volume: Path, copy: Path) -> Path:
    stored = nibabel.load(volume)
    turn = ornt_transform(io_orientation(stored.affine), axcodes2ornt(UPRIGHT))
    with whole_or_not_at_all(copy) as temporary:
        nibabel.save(stored.as_reoriented(turn), temporary)
    return copy


def _slices(case: Case) -> list[ImageItem]:
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
    sources = volume.parent.parent / SOURCES
    if sources.is_file():
        image = nibabel.load(json.loads(sources.read_text(encoding="utf-8"))[volume.stem])
        turn = ornt_transform(axcodes2ornt(UPRIGHT), io_orientation(image.affine))
        labels = np.ascontiguousarray(apply_orientation(labels, turn))
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
