"""Transforms of 2D images, in MONAI's dictionary style: loading, normalising, resizing, augmentation.

Images are float32 tensors (channel, row, column), masks integer tensors (1 or one a label, row, column), boxes float32
(n, 4): left, top, right, bottom in pixels. Random geometry is one for all of them. An image carries its ``value_range``
(least and greatest value, one column a channel) in its ``meta``, so that normalising and augmentation may come in any
order.
"""

from medseg3d.transforms2d.augmenting import RandAugment2Dd
from medseg3d.transforms2d.loading import LoadImage2Dd
from medseg3d.transforms2d.normalising import IMAGENET_MEAN, IMAGENET_STD, NormalizeImaged
from medseg3d.transforms2d.patches import RandPatch2Dd
from medseg3d.transforms2d.resizing import Resize2Dd, to_original_boxes, to_original_size

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LoadImage2Dd",
    "NormalizeImaged",
    "RandAugment2Dd",
    "RandPatch2Dd",
    "Resize2Dd",
    "to_original_boxes",
    "to_original_size",
]
