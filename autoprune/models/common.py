"""Parts that several networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from autoprune.errors import ModelError


def image_shape(name: str, input_shape: Sequence[int], least: int) -> tuple[int, int, int]:
    """``(channels, height, width)``, checked.

    Raises:
        ModelError: not an image, or smaller than ``least`` pixels on a side.
    """
    shape = tuple(int(s) for s in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(f"{name} takes images (channels, height, width), but input_shape is {list(input_shape)!r}")
    if min(shape[1:]) < least:
        raise ModelError(
            f"{name} needs images of at least {least}x{least} pixels, but input_shape is {list(shape)!r}; "
            "choose a smaller network (digits_cnn, mlp)"
        )
    return shape[0], shape[1], shape[2]


def scaled(channels: int, width: float) -> int:
    """``channels * width`` to the nearest multiple of 4, at least 4.

    Raises:
        ModelError: a width that is not above zero.
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not math.isfinite(width) or width <= 0:
        raise ModelError(f"width must be a number above 0, but got {width!r}")
    return channels if width == 1 else max(4, 4 * math.floor(channels * width / 4 + 0.5))


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation (ReLU unless given; ``nn.Identity()`` for none)."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    act = nn.ReLU(inplace=True) if activation is None else activation
    if not isinstance(act, nn.Identity):
        layers.append(act)
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """He's normal weights for convolutions, small normal ones for linear layers, ones and zeros for norms.

    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
