"""Data lists: which images, labels, patients and folds a data set has.

``read_datalist`` reads the project's own JSON, the Medical Segmentation Decathlon's, Auto3DSeg's and nnU-Net's;
``build_datalist`` makes one from a folder; ``check_datalist`` opens every case; ``split`` makes folds;
``training_items`` and its siblings are what a bundle's data sets are made of.
"""

from medseg3d.datalist.build import Built, build_datalist
from medseg3d.datalist.cases import CaseFacts, Finding
from medseg3d.datalist.check import CheckReport, check_datalist
from medseg3d.datalist.folds import check_folds, split
from medseg3d.datalist.items import testing_items, training_items, validation_items
from medseg3d.datalist.model import Case, DataList, write_datalist
from medseg3d.datalist.reading import read_datalist

__all__ = [
    "Built",
    "Case",
    "CaseFacts",
    "CheckReport",
    "DataList",
    "Finding",
    "build_datalist",
    "check_datalist",
    "check_folds",
    "read_datalist",
    "split",
    "testing_items",
    "training_items",
    "validation_items",
    "write_datalist",
]
