"""Plans against budgets: what fits, by how much it does not, and the smallest change that makes it fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from autoprune.costs import Budget, Cost
from autoprune.errors import BudgetError
from autoprune.plan import Plan


class Costed(Protocol):
    """What a space asks of an objective: analytic costs and, where latency is limited, a measurement."""

    @property
    def dense_cost(self) -> Cost:
        """Cost of the dense network."""

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan, nothing evaluated."""

    def latency(self, plan: Plan) -> float:
        """Milliseconds of one forward pass of a plan's network."""


class Target:
    """A budget for one network. Latency is measured only where it is asked for, and once for each plan.

    Attributes:
        objective, budget: as given.
        measures: whether costs come with a latency: where the budget limits it, or where ``measure`` asks for it.
        dense: the cost that fractions refer to; measured here where it is not given.
        limits: the largest value allowed, by metric.
    """

    def __init__(self, objective: Costed, budget: Budget, dense: Cost | None = None, *, measure: bool = False) -> None:
        self.objective, self.budget = objective, budget
        self._analytic, self._measured = budget.analytic, budget.measured
        self.measures = measure or bool(self._measured)
        self._latency: dict[Plan, float] = {}
        self.dense = dense or (self._full(Plan()) if self.measures else objective.dense_cost)
        self.limits: Mapping[str, float] = budget.limits(self.dense)

    def cost(self, plan: Plan) -> Cost:
        """The cost of ``plan``, with its latency where that is asked for."""
        return self._full(plan) if self.measures else self.objective.cost(plan)

    def fits(self, plan: Plan) -> bool:
        """Whether ``plan`` meets the budget; what can be counted is tried first."""
        if not self._analytic.fits(self.objective.cost(plan), self.dense):
            return False
        return not self._measured or self._measured.fits(self._full(plan), self.dense)

    def violations(self, plan: Plan) -> dict[str, float]:
        """``value / limit - 1`` of each metric: at most 0 where it fits."""
        return self.budget.violations(self.cost(plan), self.dense)

    def remember(self, plan: Plan, latency_ms: float) -> None:
        """Take a latency that was measured earlier, so that ``plan`` is judged by it again."""
        self._latency[plan] = latency_ms

    def _full(self, plan: Plan) -> Cost:
        if plan not in self._latency:
            self._latency[plan] = self.objective.latency(plan)
        return replace(self.objective.cost(plan), latency_ms=self._latency[plan])


@dataclass(frozen=True)
class Profile:
    """The range of a space, known before anything is evaluated.

    Attributes:
        smallest, middle, largest: cost with everything removed that may be, with half of it, with nothing.
        limits: largest value allowed, by budget metric.
        dense: cost of the dense network.
    """

    smallest: Cost
    middle: Cost
    largest: Cost
    limits: Mapping[str, float]
    dense: Cost

    def rows(self) -> list[tuple[str, Cost]]:
        """(name, cost) of the three sub-networks, smallest first."""
        return [("smallest", self.smallest), ("middle", self.middle), ("largest", self.largest)]

    def check(self, rules: str) -> None:
        """Refuse a budget that the smallest sub-network does not meet; ``rules`` says what made the space.

        Raises:
            BudgetError: with what the smallest costs.
        """
        over = {m: self.smallest.value(m) / limit - 1 for m, limit in self.limits.items()}
        metric = max(over, key=lambda m: over[m], default="")
        if not metric or over[metric] <= 1e-12:
            return
        value, dense = self.smallest.value(metric), self.dense.value(metric)
        raise BudgetError(
            f"the budget {metric} <= {self.limits[metric]:,.6g} cannot be met: the smallest sub-network of this space "
            f"has {value:,.6g} ({value / dense:.1%} of the dense network); "
            f"raise the budget, or widen the space ({rules})"
        )


def smallest_shift(
    moved: Callable[[float], tuple[int, ...]], good: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...]:
    """Counts at the smallest shift in [-1, 1] that is good, by bisection over the counts that shifts can give."""
    low, high = -1.0, 1.0
    most, least = moved(high), moved(low)
    if good(least):
        return least
    if not good(most):
        raise BudgetError("not even the smallest sub-network of this space meets the budget; see its profile")
    while high - low > 1e-9 and sum(m - f for m, f in zip(most, least, strict=True)) > 1:
        middle = (low + high) / 2
        places = moved(middle)
        if places == most or (places != least and good(places)):
            high, most = middle, places
        else:
            low, least = middle, places
    return most
