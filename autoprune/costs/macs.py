"""Multiply-accumulates for one sample; a multiply and the add after it are one.

A weight entry of a convolution is used once for each output position, of a linear layer once for each row of its input.
Norms, activations and biases are not counted; attention products stand in ``LayerGraph.fixed_macs``.
"""

from __future__ import annotations

from autoprune.costs.base import Metric
from autoprune.costs.sizes import Counts, Sizes

METRIC = Metric(
    name="macs",
    unit="multiply-accumulates for one sample",
    units={"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12},
    measured=False,
    counts="multiply-accumulates that run for one sample; a masked weight still runs",
)


def count(sizes: Sizes, counts: Counts) -> int:
    """Multiply-accumulates of the network whose tensors have ``counts``."""
    saved = (sizes.numel - counts.numel) * sizes.mac_weight
    return sizes.dense_macs - int(saved.sum())
