"""What a predictor would choose before anything is tried."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autoprune.costs import CostModel
from autoprune.search.threshold.choice import cheapest_within
from autoprune.search.threshold.facts import LOWEST, NetworkFacts, drop_of
from autoprune.search.threshold.features import Judged
from autoprune.search.threshold.grid import Choices, Grid, Pricing
from autoprune.search.threshold.joint import Joint, careful
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.space import SearchSpace
from autoprune.thresholds import threshold_of


def harm_allowed(drop: float, accuracy: float) -> float:
    """Harm of losing ``drop`` of ``accuracy``."""
    return -math.log(max(1 - drop / max(accuracy, 1e-9), LOWEST))


@dataclass(frozen=True)
class Foretold:
    """A choice for all layers together.

    Attributes:
        thresholds: by group, in units of its mean norm; 0 where nothing goes.
        drop, spread: of accuracy, as foretold, and one standard deviation of it.
        macs: share of the multiply-accumulates that is left.
    """

    thresholds: dict[str, float]
    drop: float
    spread: float
    macs: float


def affordable(
    surrogate: Surrogate, space: SearchSpace, facts: NetworkFacts, costs: CostModel, drop: float, kappa: float = 1.0
) -> Foretold:
    """The fewest multiply-accumulates with ``mean drop + kappa * std <= drop``; nothing is removed where none is."""
    grid = Grid(space, facts, Judged(facts.steps, facts.batch, facts.images))
    pricing = Pricing(grid, costs, {"macs": float(costs.cost().macs)})
    allowed = harm_allowed(drop, facts.accuracy)
    nothing = Choices(*(np.zeros((1, len(grid)), np.int64),) * 2)
    near = Joint(grid, pricing, surrogate).near(nothing, careful(kappa), allowed, count=32)
    pool = Choices.joined([nothing, near])
    found = surrogate.plans(grid.examples(pool))
    cost = np.array([pricing(removed) for removed in grid.removed(pool)])
    best = cheapest_within(cost, found.mean, found.std, allowed, kappa)
    removed = grid.removed(pool)[best]
    numbers = pool.methods[best]
    thresholds = {
        g.name: threshold_of(g.norms[space.methods[m]], int(k))
        for g, k, m in zip(grid.groups, removed, numbers, strict=True)
    }
    mean = float(found.mean[best])
    spread = float(found.spread()[best]) * facts.accuracy * math.exp(-mean)
    return Foretold(thresholds, drop_of(mean, facts.accuracy), spread, float(cost[best]))
