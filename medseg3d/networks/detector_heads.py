"""Parts of torchvision's detectors that differ here: heads that end in float32, and no resizing.

Under autocast torchvision would decode boxes in bfloat16, whose 8 bits place a corner at 300 only to within 2 pixels.
The parameters keep torchvision's names, and everything can be scripted.
"""

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.ssd import SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

__all__ = [
    "AsGiven",
    "Float32BoxPredictor",
    "Float32FcosHead",
    "Float32RetinaNetHead",
    "Float32RpnHead",
    "Float32SsdHead",
    "Float32SsdLiteHead",
    "NoExtraLevel",
]


class AsGiven(GeneralizedRCNNTransform):
    """torchvision's batching (padding to a multiple of 32) without its resizing: images are on their grid already."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class NoExtraLevel(ExtraFPNBlock):
    """A pyramid that ends with the backbone's last level; torchvision's own default adds one."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return results, names


def _without_background(logits: Tensor, training: bool) -> Tensor:
    """Logits (image, anchor, class) whose channel 0 is never found: FCOS and RetinaNet have no background class."""
    if training:
        return logits
    return torch.cat([torch.full_like(logits[:, :, :1], -1e4), logits[:, :, 1:]], dim=2)


class Float32FcosHead(FCOSHead):
    """FCOS's head."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        classes = self.classification_head(x)
        boxes, centreness = self.regression_head(x)
        return {
            "cls_logits": _without_background(classes.float(), self.training),
            "bbox_regression": boxes.float(),
            "bbox_ctrness": centreness.float(),
        }


class Float32RetinaNetHead(RetinaNetHead):
    """RetinaNet's head."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {
            "cls_logits": _without_background(self.classification_head(x).float(), self.training),
            "bbox_regression": self.regression_head(x).float(),
        }


class Float32SsdHead(SSDHead):
    """SSD300's head."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {
            "bbox_regression": self.regression_head(x).float(),
            "cls_logits": self.classification_head(x).float(),
        }


class Float32SsdLiteHead(SSDLiteHead):
    """SSDLite's head."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {
            "bbox_regression": self.regression_head(x).float(),
            "cls_logits": self.classification_head(x).float(),
        }


class Float32RpnHead(RPNHead):
    """The head of Faster R-CNN that proposes regions."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits: list[Tensor] = []
        boxes: list[Tensor] = []
        for level in x:
            shared = self.conv(level)
            logits.append(self.cls_logits(shared).float())
            boxes.append(self.bbox_pred(shared).float())
        return logits, boxes


class Float32BoxPredictor(FastRCNNPredictor):
    """The head of Faster R-CNN that judges regions."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(start_dim=1)
        return self.cls_score(x).float(), self.bbox_pred(x).float()
