"""2D images: read from PNG, JPEG, TIFF, BMP, DICOM and NIfTI, and listed with their classes, masks or boxes.

``read_image`` and ``read_mask`` read one file; ``read_image_list`` and ``write_image_list`` are for lists in JSON;
``build_image_list`` makes one from folders, tables and boxes, ``check_image_list`` opens every image;
``training_items`` and its siblings are what a bundle's data sets are made of. No torch, no MONAI.
"""

from medseg3d.images.build import Split, build_image_list
from medseg3d.images.check import ImageReport, check_image_list
from medseg3d.images.image import Image2D, count_pages, read_image
from medseg3d.images.items import evaluation_items, testing_items, training_items, validation_items
from medseg3d.images.mask import read_mask
from medseg3d.images.model import Box, ImageItem, ImageList, ImageRef
from medseg3d.images.reading import is_image_list, read_image_list, write_image_list

__all__ = [
    "Box",
    "Image2D",
    "ImageItem",
    "ImageList",
    "ImageRef",
    "ImageReport",
    "Split",
    "build_image_list",
    "check_image_list",
    "count_pages",
    "evaluation_items",
    "is_image_list",
    "read_image",
    "read_image_list",
    "read_mask",
    "testing_items",
    "training_items",
    "validation_items",
    "write_image_list",
]
