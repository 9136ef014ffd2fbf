"""The next trial: what promises most of the surrogate's joint choices, its members' own, and steps from the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from autoprune.search.base import Context
from autoprune.search.records import TrialRecord
from autoprune.search.threshold.candidates import Tried, around, fits, on_budget, scattered
from autoprune.search.threshold.choice import Floats
from autoprune.search.threshold.facts import LOWEST, harm_of
from autoprune.search.threshold.foretell import harm_allowed
from autoprune.search.threshold.grid import Choices, Grid, Pricing
from autoprune.search.threshold.joint import Joint, Read, careful, mean, member
from autoprune.search.threshold.options import ThresholdOptions
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.seeding import derive

STARTS, EACH = 3, 12  # trials from which steps are taken, and steps from each
RANDOM = 40  # points looked at once all others have been tried


@dataclass(frozen=True)
class Asked:
    """What is known when a trial is to be chosen."""

    context: Context
    options: ThresholdOptions
    grid: Grid
    tried: Tried
    surrogate: Surrogate
    seed: int

    @cached_property
    def units(self) -> dict[str, float]:
        """What counts as 1 of each cost: the limits of the budget, or in a Pareto search what the dense network costs.

        Latency is counted by multiply-accumulates.
        """
        dense = self.context.objective.dense_cost
        metrics = self.context.metrics
        units = (
            {m: dense.value(m) for m in metrics if m != "latency_ms"} if metrics else dict(self.context.target.limits)
        )
        if units.pop("latency_ms", None) is not None or not units:
            units.setdefault("macs", dense.value("macs") * (1.0 if metrics else 0.5))
        return units

    @cached_property
    def pricing(self) -> Pricing:
        """Costs on one scale."""
        return Pricing(self.grid, self.context.objective.costs, self.units)

    @cached_property
    def joint(self) -> Joint:
        """Joint choices."""
        return Joint(self.grid, self.pricing, self.surrogate)

    @property
    def reads(self) -> list[Read]:
        """Ways to read the ensemble: what it expects, carefully, boldly, and each member alone."""
        kappa = self.options.kappa
        return [mean, careful(kappa), careful(-kappa), *(member(i) for i in range(self.surrogate.settings.members))]


def next_choice(asked: Asked) -> Choices | None:
    """The plan to try next, ``None`` where the search should end."""
    return _on_front(asked) if asked.context.metrics else _within_cost(asked)


def _within_cost(asked: Asked) -> Choices | None:
    """Least harm within a budget on cost: the untried plan with the largest expected improvement."""
    tried, grid = asked.tried, asked.grid
    start = tried.choices(tried.usable[:1]) if tried.usable else _nothing(grid)
    limit = float(len(asked.units))
    chosen = [on_budget(asked.context, asked.joint.least_harm(start, read, limit), grid) for read in asked.reads]
    pool = Choices.joined([*chosen, around(tried, tried.usable[:STARTS], EACH, derive(asked.seed, "steps"))])
    found = asked.surrogate.plans(grid.examples(pool))
    best_trial = tried.usable[0] if tried.usable else None
    favourite = pool.at(int(found.mean.argmin()))
    if favourite in tried and tried.stale(best_trial, asked.options.patience):
        return None
    best = _best_so_far(asked)
    return _first_new(asked, pool, -improvement(best - found.mean, found.std))


def _best_so_far(asked: Asked) -> float:
    """The lowest harm that the surrogate sees in a plan that was tried: measured ones are lucky."""
    if not asked.tried.usable:
        return -math.log(LOWEST)
    found = asked.surrogate.plans(asked.grid.examples(asked.tried.choices(asked.tried.usable[:STARTS])))
    return float(found.mean.min())


def improvement(gain: Floats, std: Floats) -> Floats:
    """Expected improvement, where the gain is normal with mean ``gain``."""
    std = np.maximum(std, 1e-9)
    z = gain / std
    found: Floats = gain * ndtr(z) + std * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return found


def _first_new(asked: Asked, pool: Choices, order: Floats, good: Callable[[int], bool] | None = None) -> Choices | None:
    """The plan of ``pool`` first in ``order`` that is new and not empty, else a random one; ``None`` for neither."""
    for place in np.argsort(order, kind="stable"):
        choice = pool.at(int(place))
        if good is not None and not good(int(place)):
            continue
        if choice not in asked.tried and choice.places.any() and fits(asked.context, choice, asked.grid):
            return choice
    draw = np.random.default_rng(derive(asked.seed, "random"))
    for _ in range(RANDOM):
        choice = asked.grid.choices([scattered(asked.context.space, draw)])
        choice = on_budget(asked.context, choice, asked.grid)
        if choice not in asked.tried and choice.places.any() and fits(asked.context, choice, asked.grid):
            return choice
    return None


def _on_front(asked: Asked) -> Choices | None:
    """The cheapest within a budget on accuracy: first with care, then as expected, then boldly."""
    tried, grid, facts = asked.tried, asked.grid, asked.grid.facts
    allowed = harm_allowed(asked.options.drop, facts.accuracy)
    best = cheapest_trial(tried.usable, asked, allowed)
    start = tried.choices([best]) if best is not None else _nothing(grid)
    parts = [asked.joint.near(start, read, allowed) for read in asked.reads]
    starts = [best] if best is not None else list(tried.usable[:1])
    pool = Choices.joined([*parts, around(tried, starts, STARTS * EACH, derive(asked.seed, "steps"))])
    found = asked.surrogate.plans(grid.examples(pool))
    cost = np.array([asked.pricing(removed) for removed in grid.removed(pool)])
    reached = asked.pricing(grid.removed(start)[0]) if best is not None else math.inf
    kappa = asked.options.kappa
    for place, care in enumerate((kappa, 0.0, -kappa)):
        promising = (found.mean + care * found.std <= allowed) & (cost < reached - 1e-9)
        new = [i for i in np.flatnonzero(promising) if pool.at(int(i)) not in tried and pool.places[i].any()]
        if new:
            return pool.at(int(min(new, key=lambda i: (cost[i], found.mean[i]))))
        if place == 0 and tried.stale(best, asked.options.patience):
            return None
    return _first_new(asked, pool, found.mean + kappa * found.std + np.where(cost < reached, 0.0, 10.0))


def cheapest_trial(usable: tuple[TrialRecord, ...], asked: Asked, allowed: float) -> TrialRecord | None:
    """The cheapest trial whose measured harm is allowed."""
    facts = asked.grid.facts
    kept = [r for r in usable if harm_of(r.accuracy, facts.accuracy) <= allowed]

    def cost(record: TrialRecord) -> float:
        return asked.pricing(asked.grid.removed(asked.tried.choices([record]))[0])

    return min(kept, key=lambda r: (cost(r), -(r.accuracy or 0.0), r.number), default=None)


def _nothing(grid: Grid) -> Choices:
    return Choices(*(np.zeros((1, len(grid)), np.int64),) * 2)
