"""VGG with batch norm for images of 32x32.

K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015. As is usual on
CIFAR-10, one linear layer takes the place of the three large ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoprune.models.common import conv_norm, image_shape, initialise, scaled

_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
_CHANNELS = (64, 128, 256, 512, 512)


def vgg11_bn(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """VGG-11 with batch norm: 8 convolutions (9.2 million parameters at full width)."""
    return _vgg(11, input_shape, num_classes, width)


def vgg16_bn(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """VGG-16 with batch norm: 13 convolutions (14.7 million parameters at full width)."""
    return _vgg(16, input_shape, num_classes, width)


def _vgg(depth: int, input_shape: Sequence[int], num_classes: int, width: float) -> nn.Module:
    inputs, _, _ = image_shape(f"vgg{depth}_bn", input_shape, 32)
    network = nn.Sequential()
    for stage, (repeats, channels) in enumerate(zip(_STAGES[depth], _CHANNELS, strict=True), 1):
        for place in range(1, repeats + 1):
            outputs = scaled(channels, width)
            network.add_module(f"conv{stage}_{place}", conv_norm(inputs, outputs))
            inputs = outputs
        network.add_module(f"pool{stage}", nn.MaxPool2d(2))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))  # nothing at 32x32; larger images come down to one position
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(inputs, num_classes))
    initialise(network)
    return network
