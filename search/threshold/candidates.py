"""What has been tried, and what could be: plans on the budget, and small steps from the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from autoprune.errors import BudgetError
from autoprune.search.base import Context, Point
from autoprune.search.records import TrialRecord
from autoprune.search.threshold.grid import Choices, Grid
from autoprune.space import SearchSpace

STEPS = (0.03, 0.12)  # of a small step and a larger one, as a share of each range
SHIFTS = 6  # a plan that was moved may move once more where counts are coarse, and the search will move it
REDRAW = 0.1  # chance of another method in a step


def on_budget(context: Context, choice: Choices, grid: Grid) -> Choices:
    """A plan as the search will try it: moved onto the budget where it moves proposals."""
    if context.metrics or not context.shifted:
        return choice
    try:
        for _ in range(SHIFTS):
            moved = grid.choices([context.space.shift(grid.point(choice), context.target.fits)])
            if (moved.places == choice.places).all():
                break
            choice = moved
    except BudgetError:
        pass  # a measured latency may refuse what it allowed before
    return choice


def fits(context: Context, choice: Choices, grid: Grid) -> bool:
    """Whether a plan is worth proposing: within the budget, or moved onto it."""
    return bool(context.metrics) or context.shifted or context.target.fits(grid.plan(choice))


class Tried:
    """The trials of a search so far.

    Args:
        context: of the search.
        grid: of its space.
        records: finished trials, in order.
        flying: plans that are being tried.
    """

    def __init__(
        self, context: Context, grid: Grid, records: Sequence[TrialRecord], flying: Sequence[Choices] = ()
    ) -> None:
        self.context, self.grid = context, grid
        self.records = tuple(records)
        self.baselines = sum(bool(r.baseline) for r in records)
        self._keys = {_key(c) for c in flying} | {_key(grid.choices([r.values])) for r in records if r.values}

    def __contains__(self, choice: Choices) -> bool:
        return _key(choice) in self._keys

    @cached_property
    def usable(self) -> tuple[TrialRecord, ...]:
        """Trials that gave a network within the budget, the most accurate first."""
        found = [r for r in self.records if r.usable]
        return tuple(sorted(found, key=lambda r: (-(r.accuracy or 0.0), r.number)))

    def choices(self, records: Sequence[TrialRecord]) -> Choices:
        """The plans of ``records``."""
        return self.grid.choices([r.values for r in records])

    def stale(self, best: TrialRecord | None, patience: int) -> bool:
        """Whether the last ``patience`` proposals were all tried after the best trial."""
        if not patience or best is None:
            return False
        own = [r for r in self.records if not r.baseline]
        return sum(r.number > best.number for r in own) >= patience


def _key(choice: Choices) -> bytes:
    """Equal for equal plans; a method makes no difference where nothing goes."""
    methods = np.where(choice.places > 0, choice.methods, 0)
    return choice.places.astype(np.int64).tobytes() + methods.astype(np.int64).tobytes()


def stepped(space: SearchSpace, start: Point, step: float, draw: np.random.Generator) -> Point:
    """A point near another: every sparsity moved by a normal draw of ``step`` times its range, some methods redrawn."""
    point: Point = {}
    for name, parameter in space.parameters.items():
        value = start[name]
        if parameter.choices:
            point[name] = str(draw.choice(parameter.choices)) if draw.random() < REDRAW else str(value)
        else:
            move = step * (parameter.high - parameter.low) * draw.standard_normal()
            point[name] = float(np.clip(float(value) + move, parameter.low, parameter.high))
    return point


def scattered(space: SearchSpace, draw: np.random.Generator, scale: float = 1.0) -> Point:
    """A random point; sparsities up to ``scale`` of their range."""
    return {
        name: str(draw.choice(p.choices)) if p.choices else float(draw.uniform(p.low, p.low + scale * (p.high - p.low)))
        for name, p in space.parameters.items()
    }


def around(tried: Tried, starts: Sequence[TrialRecord], count: int, seed: int) -> Choices:
    """``count`` steps from each of ``starts``, on the budget."""
    context, grid = tried.context, tried.grid
    draw = np.random.default_rng(seed)
    points = [
        stepped(context.space, dict(start.values), STEPS[i % len(STEPS)], draw)
        for start in starts
        for i in range(count)
    ]
    moved = [on_budget(context, grid.choices([p]), grid) for p in points]
    return Choices.joined(moved) if moved else grid.choices([])
