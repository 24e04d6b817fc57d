"""Classifiers of 2D images: backbones of torchvision, timm and MONAI by name, with a head for the classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from medseg3d.errors import ConfigError
from medseg3d.freezing import frozen_modules

__all__ = ["ImageClassifier"]

LIBRARIES = ("torchvision", "timm", "monai")
# How MONAI's networks call what all of them take.
MONAI_NAMES = {"in_channels": ("in_channels", "n_input_channels"), "out_channels": ("out_channels", "num_classes")}
# Networks whose layers are made for one size of image.
SIZED = ("vit", "swin", "maxvit", "deit", "beit")


class ImageClassifier(torch.nn.Module):
    """A backbone of one of the libraries under one name, from images to logits.

    Its weights are random: :func:`medseg3d.networks.pretrained.load_initial_weights` puts published ones in, so that
    the same definition serves training and inference, which needs no network for it.

    Args:
        backbone: ``torchvision/resnet18``, ``timm/convnext_tiny``, ``monai/DenseNet121``, …: any classifier that
            torchvision and timm list, and MONAI's classes that take ``spatial_dims`` and a number of classes.
        in_channels: of the images; the first convolution is made for them.
        out_channels: logits, one a class.
        image_size: (height, width); only networks that are made for one size, such as ViT, look at it.
        dropout: before the last layer, where the backbone has a place for it.
        options: further arguments of the library's own function or class.

    Raises:
        ConfigError: the library, backbone or an option is unknown.

    >>> small = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 8, 16, 32]}
    >>> ImageClassifier("monai/ResNet", options=small)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: str,
        *,
        in_channels: int = 1,
        out_channels: int = 2,
        image_size: Sequence[int] = (224, 224),
        dropout: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        library, _, name = backbone.partition("/")
        if library not in LIBRARIES or not name:
            raise ConfigError(
                f"backbone is {backbone!r}; write library/name, such as torchvision/resnet18, timm/convnext_tiny or "
                "monai/DenseNet121."
            )
        self.library, self.name = library, name
        self.in_channels, self.out_channels = in_channels, out_channels
        self.image_size = (int(image_size[0]), int(image_size[1]))
        make: Callable[..., torch.nn.Module] = {"torchvision": _torchvision, "timm": _timm, "monai": _monai}[library]
        try:
            self.model = make(name, in_channels, out_channels, self.image_size, dropout, dict(options or {}))
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{backbone}: cannot be built ({error}).") from error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, h, w) to logits (batch, class)."""
        output: torch.Tensor = self.model(image)
        return output

    def train(self, mode: bool = True) -> ImageClassifier:
        """As usual, but normalisation in frozen parts keeps its statistics: they would drift, though nothing learns."""
        super().train(mode)
        for module in frozen_modules(self):
            module.eval()
        return self


def first_convolution(model: torch.nn.Module) -> str:
    """Name of the layer that sees the image."""
    return next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))


def last_layer(model: torch.nn.Module) -> str:
    """Name of the layer that gives the logits: the last linear one, or of networks without any the last convolution."""
    kinds: tuple[type[torch.nn.Module], ...]
    for kinds in ((torch.nn.Linear,), (torch.nn.Conv2d,)):
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        if names:
            return names[-1]
    raise ConfigError(f"{type(model).__name__} has no layer that could give logits.")


def _torchvision(
    name: str, in_channels: int, out_channels: int, size: tuple[int, int], dropout: float, options: dict[str, Any]
) -> torch.nn.Module:
    import torchvision

    _require_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    if name in ("inception_v3", "googlenet"):  # the auxiliary heads are for training from random weights at their size
        options = {"aux_logits": False, "init_weights": True} | options
    if name.startswith("vit_"):
        options = {"image_size": _one_side(name, size)} | options
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None, **options)
    if name == "inception_v3":
        # It would shift images to another range, and wants three channels for it.
        model.transform_input = False  # type: ignore[assignment]
    for module in model.modules():
        if dropout and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    _replace_input(model, in_channels)
    _replace_output(model, out_channels)
    return model


def _timm(
    name: str, in_channels: int, out_channels: int, size: tuple[int, int], dropout: float, options: dict[str, Any]
) -> torch.nn.Module:
    import timm

    if not timm.is_model(name):
        _require_known(name, timm.list_models(), "timm")
    if name.startswith(SIZED):
        options = {"img_size": size} | options
    model: torch.nn.Module = timm.create_model(
        name, pretrained=False, in_chans=in_channels, num_classes=out_channels, drop_rate=dropout, **options
    )
    return model


def _monai(
    name: str, in_channels: int, out_channels: int, size: tuple[int, int], dropout: float, options: dict[str, Any]
) -> torch.nn.Module:
    from monai.networks import nets

    _require_known(name, [n for n in dir(nets) if n[0].isupper()], "MONAI")
    made: Any = getattr(nets, name)
    accepted = set(inspect.signature(made).parameters)
    accepted |= {p for base in getattr(made, "__mro__", ()) for p in inspect.signature(base.__init__).parameters}
    given: dict[str, Any] = {"spatial_dims": 2}
    if "pretrained" in accepted:
        given["pretrained"] = False  # EfficientNetBN downloads weights unless it is told not to
    for value, ours in ((in_channels, "in_channels"), (out_channels, "out_channels")):
        given |= {theirs: value for theirs in MONAI_NAMES[ours] if theirs in accepted}
    if dropout and "dropout_prob" in accepted:
        given["dropout_prob"] = dropout
    model: torch.nn.Module = made(**(given | options))
    return model


def _require_known(name: str, names: Sequence[str], library: str) -> None:
    from medseg3d.bundles.problems import did_you_mean

    if name not in names:
        remedy = did_you_mean(name, names, otherwise="Look for its name in the library's list of models.")
        raise ConfigError(f"{library} has no model {name!r}. {remedy}")


def _one_side(name: str, size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise ConfigError(f"{name} takes square images; image_size is {size[0]}×{size[1]}.")
    return size[0]


def _replace_input(model: torch.nn.Module, in_channels: int) -> None:
    name = first_convolution(model)
    old = model.get_submodule(name)
    if not isinstance(old, torch.nn.Conv2d) or old.in_channels == in_channels:
        return
    if old.groups != 1 or old.padding_mode != "zeros":
        raise ConfigError(f"The first convolution of {type(model).__name__} cannot be made for {in_channels} channels.")
    new = torch.nn.Conv2d(
        in_channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    _set(model, name, new)


def _replace_output(model: torch.nn.Module, out_channels: int) -> None:
    name = last_layer(model)
    old = model.get_submodule(name)
    if isinstance(old, torch.nn.Conv2d):
        _set(model, name, torch.nn.Conv2d(old.in_channels, out_channels, kernel_size=1))
    elif isinstance(old, torch.nn.Linear):
        _set(model, name, torch.nn.Linear(old.in_features, out_channels))


def _set(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
