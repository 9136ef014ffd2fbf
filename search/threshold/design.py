"""The first trials, from which a surrogate that knows nothing learns the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.search.base import Context, Point
from autoprune.search.threshold.candidates import Tried, fits, on_budget, scattered, stepped
from autoprune.search.threshold.grid import Choices, Grid
from autoprune.search.threshold.options import ThresholdOptions

WIDE = 0.2  # steps from the greedy baseline, as a share of each range
TRIES = 20


@dataclass(frozen=True)
class Design:
    """Random thresholds in every layer.

    Under a budget on cost they are drawn around the greedy baseline (anywhere, where its curves are not to be looked
    at), and moved onto the budget. In a Pareto search every other trial prunes one layer alone, the costliest first.
    """

    context: Context
    options: ThresholdOptions
    grid: Grid

    @property
    def size(self) -> int:
        """How many: from 2 to 10, by the trials there are; more where less is known, none with a stored predictor."""
        if self.options.startup is not None:
            return self.options.startup
        if self.options.predictor:
            return 0
        trials = self.context.trials
        share, least, most = (10, 2, 6) if self.options.curves and not self.context.metrics else (4, 3, 10)
        return min(max(trials // share, least), most)

    def choice(self, place: int, seed: int, tried: Tried) -> Choices | None:
        """The plan of proposal ``place``; ``None`` once the first trials are over, or nothing new was drawn."""
        if place >= self.size:
            return None
        draw = np.random.default_rng(seed)
        for _ in range(TRIES):
            point = self._front_point(place, draw) if self.context.metrics else self._point(draw, tried)
            choice = on_budget(self.context, self.grid.choices([point]), self.grid)
            if choice not in tried and choice.places.any() and fits(self.context, choice, self.grid):
                return choice
        return None

    def _point(self, draw: np.random.Generator, tried: Tried) -> Point:
        space = self.context.space
        greedy = next((r for r in tried.records if r.baseline == "greedy" and r.usable), None)
        if greedy is None or not self.options.curves:
            return scattered(space, draw)
        return stepped(space, dict(greedy.values), WIDE, draw)

    def _front_point(self, place: int, draw: np.random.Generator) -> Point:
        space = self.context.space
        point = scattered(space, draw, scale=float(draw.uniform(0.2, 1.0)))
        if len(self.grid) == 1:
            (name,) = (f"sparsity/{g.name}" for g in space.groups)
            high = space.parameters[name].high
            return {**point, name: high * (place + float(draw.random())) / self.size}  # one in each slice
        if place % 2 == 0:
            shares = [max(g.layer["macs_share"], g.layer["params_share"]) for g in self.grid.groups]
            alone = int(np.argsort(-np.array(shares), kind="stable")[place // 2 % len(shares)])
            return {**point, **{f"sparsity/{g.name}": 0.0 for i, g in enumerate(space.groups) if i != alone}}
        return point
