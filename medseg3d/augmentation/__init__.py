"""Augmentation of whole batches on the training device: nnU-Net's set, and artefacts of MRI.

A bundle hands ``BatchAugmentation`` with a list of transforms to ``medseg3d.engines.trainer(batch_transform=…)``. Where
a patch is read, how it is turned, scaled, bent and mirrored is ``medseg3d.spatial.RandSpatialPatchd``'s part, which
sees the whole volume; here its intensities change.
"""

from medseg3d.augmentation.artefacts import BiasField, Ghosting, Motion, Spike
from medseg3d.augmentation.base import ChannelTransform, SampleTransform
from medseg3d.augmentation.batch import BatchAugmentation
from medseg3d.augmentation.dropout import DropChannels
from medseg3d.augmentation.intensity import Brightness, Contrast, Gamma, GaussianNoise
from medseg3d.augmentation.masks import RemoveComponent, ReshapeMask
from medseg3d.augmentation.mirror import Mirror
from medseg3d.augmentation.sharpness import GaussianBlur, LowResolution

__all__ = [
    "BatchAugmentation",
    "BiasField",
    "Brightness",
    "ChannelTransform",
    "Contrast",
    "DropChannels",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "Ghosting",
    "LowResolution",
    "Mirror",
    "Motion",
    "RemoveComponent",
    "ReshapeMask",
    "SampleTransform",
    "Spike",
]
