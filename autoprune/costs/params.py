"""Parameters: the entries of every parameter that is left."""

from __future__ import annotations

from autoprune.costs.base import Metric
from autoprune.costs.sizes import Counts, Sizes

METRIC = Metric(
    name="params",
    unit="parameters",
    units={"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
    measured=False,
    counts="entries of all parameters that are left, biases and norms too; masked weights are not counted",
)


def count(sizes: Sizes, counts: Counts) -> int:
    """Parameters of the network whose tensors have ``counts``."""
    saved = (sizes.numel - counts.numel) * sizes.param_weight
    return sizes.dense_params - int(saved.sum())
