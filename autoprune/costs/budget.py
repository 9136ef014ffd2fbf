"""Budgets: what a network may cost, as fractions of the dense network or as absolute values, several at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from autoprune.costs.base import Cost
from autoprune.costs.registry import COSTS
from autoprune.errors import BudgetError, unknown_name

_AMOUNT = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
_BASE_UNIT = {"bytes": "B", "latency_ms": "ms"}
_SLACK = 1e-12  # a limit of 0.1 * 30 must not refuse 3


@dataclass(frozen=True)
class Limit:
    """One limit: ``amount`` of ``metric``, a fraction of the dense network's value if ``relative``."""

    metric: str
    amount: float
    relative: bool

    def value(self, dense: Cost) -> float:
        """The largest value allowed, in the metric's own unit."""
        return self.amount * dense.value(self.metric) if self.relative else self.amount

    @property
    def text(self) -> str:
        """The amount as :meth:`Budget.parse` reads it, exactly: ``0.5``, ``20000000``, ``0.8ms``."""
        if self.relative:
            return repr(self.amount)
        whole = self.amount == int(self.amount)
        return f"{int(self.amount) if whole else self.amount!r}{_BASE_UNIT.get(self.metric, '')}"

    def __str__(self) -> str:
        return f"{self.metric} <= {f'{self.amount * 100:g}% of dense' if self.relative else self.text}"


class Budget:
    """Limits on costs, for example ``Budget(macs=0.5, latency_ms="0.8ms")``.

    A number in (0, 1] is a fraction of the dense network, a number above 1 is absolute. Text may carry a percent sign
    (``"50%"``) or a unit (``"20M"`` multiply-accumulates, ``"300kB"``, ``"0.8ms"``); with a unit it is always absolute.

    Raises:
        UnknownNameError: a metric that does not exist, with near misses.
        BudgetError: an amount that cannot be read, is not above zero, or is a fraction above 100 %.
    """

    __slots__ = ("_limits",)

    def __init__(self, **limits: float | str) -> None:
        self._limits = tuple(_limit(metric, limits[metric]) for metric in _in_order(limits))

    @classmethod
    def parse(cls, texts: str | Iterable[str]) -> Budget:
        """Read ``"macs=0.5"``, or several, also in one text: ``"macs=0.5,params=50%"``.

        Raises:
            BudgetError: a text without ``=``, or a metric named twice; and as the class.
        """
        limits: dict[str, float | str] = {}
        for text in [texts] if isinstance(texts, str) else texts:
            for part in text.split(","):
                metric, equals, amount = (piece.strip() for piece in part.partition("="))
                if not equals or not metric or not amount:
                    raise BudgetError(f"a budget must read metric=amount, for example macs=0.5, but got {part!r}")
                if metric in limits:
                    raise BudgetError(f"two budgets for {metric!r}: {limits[metric]} and {amount}; keep one of them")
                limits[metric] = amount
        return cls(**limits)

    @property
    def limits_given(self) -> tuple[Limit, ...]:
        """The limits as they were given."""
        return self._limits

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that are limited."""
        return tuple(limit.metric for limit in self._limits)

    @property
    def analytic(self) -> Budget:
        """The part that a plan's counts alone decide: all but latency."""
        return self._only(lambda metric: not COSTS[metric].measured)

    @property
    def measured(self) -> Budget:
        """The part that needs a running network: latency."""
        return self._only(lambda metric: COSTS[metric].measured)

    def limits(self, dense: Cost) -> dict[str, float]:
        """The largest value allowed of each metric, for a network whose dense cost is ``dense``."""
        return {limit.metric: limit.value(dense) for limit in self._limits}

    def violations(self, cost: Cost, dense: Cost) -> dict[str, float]:
        """``value / limit - 1`` of each metric: at most 0 where it fits (the form of an Optuna constraint).

        Raises:
            BudgetError: latency is limited, but was not measured (see :attr:`analytic`).
        """
        return {limit.metric: _excess(cost.value(limit.metric), limit.value(dense)) for limit in self._limits}

    def fits(self, cost: Cost, dense: Cost) -> bool:
        """Whether ``cost`` is within every limit."""
        return all(excess <= 0 for excess in self.violations(cost, dense).values())

    def to_dict(self) -> dict[str, str]:
        """A JSON-ready form that :meth:`from_dict` reads."""
        return {limit.metric: limit.text for limit in self._limits}

    @classmethod
    def from_dict(cls, data: Mapping[str, float | str]) -> Budget:
        """Read what :meth:`to_dict` wrote."""
        return cls(**data)

    def _only(self, wanted: Callable[[str], bool]) -> Budget:
        budget = Budget()
        budget._limits = tuple(limit for limit in self._limits if wanted(limit.metric))
        return budget

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self._limits == other._limits

    def __hash__(self) -> int:
        return hash(self._limits)

    def __str__(self) -> str:
        return ", ".join(map(str, self._limits)) or "no budget"

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{limit.metric}={limit.text!r}' for limit in self._limits)})"


def _in_order(limits: Mapping[str, object]) -> list[str]:
    for metric in limits:
        if metric not in COSTS:
            raise unknown_name("budget metric", metric, COSTS)
    return [metric for metric in COSTS if metric in limits]


def _excess(value: float, limit: float) -> float:
    excess = value / limit - 1
    return 0.0 if 0 < excess <= _SLACK else excess


def _limit(metric: str, given: float | str) -> Limit:
    """Read one amount."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise BudgetError(f"budget {metric} must be a number or text such as '50%', but got {given!r}")
    amount, unit = _read(metric, given) if isinstance(given, str) else (float(given), "")
    if not math.isfinite(amount) or amount <= 0:
        raise BudgetError(f"budget {metric} must be above 0, but got {given!r}")
    if unit == "%":
        if amount > 100:
            raise BudgetError(f"budget {metric} must be at most 100% of the dense network, but got {given!r}")
        return Limit(metric, amount / 100, relative=True)
    if not unit:
        return Limit(metric, amount, relative=amount <= 1)
    amount *= COSTS[metric].units[unit]
    if not COSTS[metric].measured and amount <= 1:
        raise BudgetError(f"budget {metric} must be above one {COSTS[metric].unit.split()[0]}, but got {given!r}")
    return Limit(metric, amount, relative=False)


def _read(metric: str, text: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or unit not in {"", "%", *COSTS[metric].units}:
        units = ", ".join(["%", *COSTS[metric].units])
        raise BudgetError(
            f"budget {metric} must be a number (at most 1: a fraction of the dense network) or carry one of the units "
            f"{units}, but got {text!r}"
        )
    return float(match[1]), unit
