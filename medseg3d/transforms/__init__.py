"""Transforms that MONAI and TorchIO lack, in MONAI's dictionary style."""

from medseg3d.transforms.artefacts import RandTorchIOd
from medseg3d.transforms.label_maps import LabelIndicesd, ToFileLabelsd
from medseg3d.transforms.loading import LoadStudyd, LoadVolumed, is_volume_file
from medseg3d.transforms.previous import AddPreviousd

__all__ = [
    "AddPreviousd",
    "LabelIndicesd",
    "LoadStudyd",
    "LoadVolumed",
    "RandTorchIOd",
    "ToFileLabelsd",
    "is_volume_file",
]
