"""Synthetic studies in CT and MRI: data to learn the tools on, and to test them with.

Most are torsos, and ``mri_tumor`` is a brain with a tumour in four channels (``medseg3d.phantom.brain``). A torso is a
cartoon, made from implicit shapes in millimetres: body wall and ribs, spine, lungs, heart, liver, spleen, kidneys,
aorta, and what lies between them (stomach, bowel, muscle, fat). Organs share their intensities with each other and with
their neighbours, and their size, place and field of view differ by case, so a threshold or an atlas does not find them:
a network has to look at shapes and borders.

Nobody was imaged: nothing here says how well a method works on patients.
"""

from medseg3d.phantom.case import make_case
from medseg3d.phantom.model import (
    LABELS,
    MIN_SIZE,
    TUMOUR_CHANNELS,
    TUMOUR_LABELS,
    TUMOUR_REGIONS,
    Modality,
    PhantomCase,
)
from medseg3d.phantom.study import write_study

__all__ = [
    "LABELS",
    "MIN_SIZE",
    "TUMOUR_CHANNELS",
    "TUMOUR_LABELS",
    "TUMOUR_REGIONS",
    "Modality",
    "PhantomCase",
    "make_case",
    "write_study",
]
