"""What a network costs: :class:`Cost`, and the facts of every metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.errors import BudgetError, unknown_name


@dataclass(frozen=True)
class Metric:
    """Facts of one cost metric.

    Attributes:
        name: its key in :data:`autoprune.costs.COSTS` and its field in :class:`Cost`.
        unit: what one of it is.
        units: suffixes a budget may carry, each with its size in ``unit``.
        measured: ``True`` when it takes a running network; ``False`` when a plan's counts are enough.
        counts: one sentence on what is counted.
    """

    name: str
    unit: str
    units: Mapping[str, float]
    measured: bool
    counts: str


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        params: parameters that are left; weights that a mask holds at zero are not counted.
        macs: multiply-accumulates that run for one sample; a mask saves none.
        bytes: size of the safetensors file that stores the network; a mask saves none.
        latency_ms: median time of one forward pass, ``None`` where it was not measured.
    """

    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None

    def value(self, metric: str) -> float:
        """The value of ``metric``.

        Raises:
            UnknownNameError: no such metric.
            BudgetError: the latency was not measured.
        """
        known = self.__dataclass_fields__
        if metric not in known:
            raise unknown_name("cost metric", metric, known)
        value = getattr(self, metric)
        if value is None:
            raise BudgetError("the latency of this network was not measured; pass latency=LatencySettings()")
        return float(value)

    def ratios(self, dense: Cost) -> dict[str, float]:
        """Each metric as a fraction of ``dense``'s; metrics without a value in both are left out."""
        pairs = {name: (getattr(self, name), getattr(dense, name)) for name in self.__dataclass_fields__}
        return {name: mine / base for name, (mine, base) in pairs.items() if mine is not None and base}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        """Read what :meth:`to_dict` wrote.

        Raises:
            BudgetError: a missing field, or a value that is not a number.
        """
        try:
            latency = data.get("latency_ms")
            cost = cls(int(data["params"]), int(data["macs"]), int(data["bytes"]), latency)
        except (KeyError, TypeError, ValueError):
            raise BudgetError(f"a cost must hold whole numbers params, macs and bytes, but got {data!r}") from None
        if latency is not None and (not isinstance(latency, (int, float)) or not math.isfinite(latency)):
            raise BudgetError(f"latency_ms of a cost must be a number or null, but got {latency!r}")
        return cost
