"""Where and in which precision networks run."""

from __future__ import annotations

import torch

__all__ = ["amp_dtype", "autocast", "default_device"]


def default_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def amp_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on GPUs that lack it (before Ampere)."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def autocast(device: torch.device | str, *, enabled: bool = True) -> torch.autocast:
    """Mixed precision for ``device``. MONAI's engines autocast "cuda" whatever the device, which is fp32 on a CPU."""
    device = torch.device(device)
    return torch.autocast(device.type, dtype=amp_dtype(device), enabled=enabled)
