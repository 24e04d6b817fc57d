"""Networks that bundles name with ``_target_`` beside MONAI's own."""

from medseg3d.networks.anchors import fit_anchors
from medseg3d.networks.classifiers import ImageClassifier
from medseg3d.networks.detector_weights import load_detector_weights
from medseg3d.networks.detectors import detector
from medseg3d.networks.pretrained import load_initial_weights
from medseg3d.networks.previous import WithPrevious
from medseg3d.networks.priors import start_rare
from medseg3d.networks.residual_encoder import ResidualEncoderUNet
from medseg3d.networks.segmenter_weights import load_segmenter_weights
from medseg3d.networks.segmenters2d import segmenter2d
from medseg3d.networks.slicewise import SliceWise

__all__ = [
    "ImageClassifier",
    "ResidualEncoderUNet",
    "SliceWise",
    "WithPrevious",
    "detector",
    "fit_anchors",
    "load_detector_weights",
    "load_initial_weights",
    "load_segmenter_weights",
    "segmenter2d",
    "start_rare",
]
