"""Networks that benchmarks need beside those of ``autoprune list models``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoprune.models.common import conv_norm, initialise


def small_vgg(input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """Six convolutions of 3x3 with batch norm (32, 32, 64, 64, 128, 128 filters), pooled after every second one.

    ``width`` is a factor on the filters.
    """
    network, inputs = nn.Sequential(), int(input_shape[0])
    for stage, filters in enumerate((32, 64, 128), 1):
        channels = max(1, round(width * filters))
        for place in (1, 2):
            network.add_module(f"conv{stage}_{place}", conv_norm(inputs, channels))
            inputs = channels
        network.add_module(f"pool{stage}", nn.MaxPool2d(2))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(inputs, num_classes))
    initialise(network)
    return network
