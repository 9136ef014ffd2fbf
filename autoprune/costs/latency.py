"""Latency: the time of one forward pass in the form in which the network would be deployed.

That form is float32, batch norm folded, channels-last for images; threads and batch are stated with every figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.costs.base import Metric
from autoprune.errors import SettingsError

METRIC = Metric(
    name="latency_ms",
    unit="milliseconds of one forward pass",
    units={"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3},
    measured=True,
    counts="median time of a forward pass at the stated batch size and threads",
)
_BLOCK_S = 0.002  # a measurement is a block of runs at least this long, so that the clock's grain does not show


@dataclass(frozen=True)
class LatencySettings:
    """How latency is measured.

    Attributes:
        batch: samples in one forward pass.
        threads: CPU threads.
        repeats: measurements; the median and the interquartile range are over these.
    """

    batch: int = 1
    threads: int = 1
    repeats: int = 15

    def __post_init__(self) -> None:
        for name, low in (("batch", 1), ("threads", 1), ("repeats", 3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise SettingsError(f"latency setting {name!r} must be a whole number from {low} on, but got {value!r}")


@dataclass(frozen=True)
class Latency:
    """A measured latency and how it was measured; ``repeats`` blocks of ``runs`` forward passes each."""

    median_ms: float
    iqr_ms: float
    batch: int
    threads: int
    repeats: int
    runs: int
    form: str

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.3g} ms (IQR {self.iqr_ms:.2g} ms, batch {self.batch}, {self.threads} threads, "
            f"{self.repeats} x {self.runs} runs; {self.form})"
        )


def measure_latency(module: nn.Module, example: Tensor, settings: LatencySettings) -> Latency:
    """Median time of ``module(x)`` with ``torch.utils.benchmark``.

    Args:
        module: as it would be deployed, in eval mode (:func:`autoprune.evaluation.deployed`).
        example: ``[1 or more, ...]``; its first sample is repeated to the batch size.
        settings: batch, threads, repeats.
    """
    from torch.utils.benchmark import Timer

    x = example[:1].expand(settings.batch, *example.shape[1:])
    images = x.dim() == 4
    x = x.contiguous(memory_format=torch.channels_last) if images else x.contiguous()
    timer: Any = Timer("module(x)", globals={"module": module, "x": x}, num_threads=settings.threads)
    with torch.inference_mode():
        once = timer.timeit(1).median  # warms up as well
        runs = max(1, math.ceil(_BLOCK_S / max(once, 1e-9)))
        times = torch.tensor([timer.timeit(runs).median for _ in range(settings.repeats)], dtype=torch.float64)
    low, median, high = (times.quantile(q).item() * 1e3 for q in (0.25, 0.5, 0.75))
    form = "float32, batch norm folded" + (", channels-last" if images else "")
    return Latency(median, high - low, settings.batch, settings.threads, settings.repeats, runs, form)
