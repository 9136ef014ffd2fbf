"""Joint choices by a surrogate: all layers under one budget, where layers interact in what they cost and lose.

Costs multiply (a layer's multiply-accumulates are inputs times outputs), and the harm of a group depends on what is
left of its neighbours. Around any plan both are nearly sums, for which the choice is exact
(:func:`autoprune.search.threshold.choice.front_of`); so it is repeated around what it gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoprune.search.threshold.choice import Floats, Front, front_of
from autoprune.search.threshold.grid import Choices, Grid, Pricing
from autoprune.search.threshold.surrogate import Predicted, Surrogate

ROUNDS = 3
MOST = 256  # points of a front
Read = Callable[[Predicted], Floats]


def mean(found: Predicted) -> Floats:
    """What the ensemble expects."""
    return found.mean


def careful(kappa: float) -> Read:
    """What the ensemble expects and ``kappa`` standard deviations more."""
    return lambda found: found.mean + kappa * found.std


def member(place: int) -> Read:
    """What one member expects: a draw from what may be true."""
    return lambda found: found.members[place]


@dataclass(frozen=True)
class Joint:
    """Makes joint choices."""

    grid: Grid
    pricing: Pricing
    surrogate: Surrogate

    def front(self, around: Choices, read: Read) -> tuple[float, Front]:
        """The front near a plan, and the effect of retraining on every plan; ``cost`` is that of whole plans."""
        rows = self.grid.option_rows(around)
        harms = read(self.surrogate.rows(np.concatenate(rows)))
        ends = np.cumsum([len(r) for r in rows])[:-1]
        now, costs = self.pricing.options(around)
        front = front_of(costs, np.split(harms, ends), most=MOST)
        return self.effect(read), Front(front.cost + now, front.harm, front.picks)

    def effect(self, read: Read) -> float:
        """Harm of retraining alone: that of the plan that removes nothing."""
        nothing = Choices(*(np.zeros((1, len(self.grid)), np.int64),) * 2)
        return float(read(self.surrogate.plans(self.grid.examples(nothing)))[0])

    def least_harm(self, around: Choices, read: Read, limit: float) -> Choices:
        """The least harmful plan that costs ``limit`` at most."""
        for _ in range(ROUNDS):
            _, front = self.front(around, read)
            chosen = self.grid.picked(front.least_harm(limit)[None])
            if (chosen.places == around.places).all() and (chosen.methods == around.methods).all():
                break
            around = chosen
        return around

    def near(self, around: Choices, read: Read, harm: float, count: int = 8) -> Choices:
        """Plans of the front whose harm is nearest to ``harm``, within it and beyond, cheapest first."""
        for _ in range(ROUNDS - 1):
            effect, front = self.front(around, read)
            around = self.grid.picked(front.cheapest(harm - effect)[None])
        effect, front = self.front(around, read)
        middle = int(np.searchsorted(-front.harm, effect - harm))
        low = max(0, min(middle - count // 2, len(front.cost) - count))
        return self.grid.picked(front.picks[low : low + count])
