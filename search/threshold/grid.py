"""All that a search may decide, as arrays: counts that change something, their features, and what they cost.

``L`` groups of the space, ``N`` plans. A plan is a place in each group's list of counts, and a method for each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoprune.search.threshold.examples import Examples
from autoprune.search.threshold.facts import NetworkFacts
from autoprune.search.threshold.features import AFTER, BEFORE, NAMES, RETRAINING, Judged, Rows, decided_rows, judged

if TYPE_CHECKING:
    from autoprune.costs import CostModel
    from autoprune.plan import Plan
    from autoprune.search.base import Point
    from autoprune.space import SearchSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FEW, MANY = 24, 800  # options of a group that a joint choice looks at: at least, and of all groups together


@dataclass(frozen=True, eq=False)
class Choices:
    """``N`` plans: ``[N, L]`` places in the groups' lists of counts, and ``[N, L]`` methods by their number."""

    places: Ints
    methods: Ints

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def joined(cls, parts: list[Choices]) -> Choices:
        """All of them, in order."""
        return cls(np.concatenate([p.places for p in parts]), np.concatenate([p.methods for p in parts]))

    def at(self, place: int) -> Choices:
        """One of them."""
        return Choices(self.places[place : place + 1], self.methods[place : place + 1])


class Grid:
    """The space of a search with the features of every count of every group.

    Args:
        space: what may be decided.
        facts: of its network.
        how: plans are judged.
    """

    def __init__(self, space: SearchSpace, facts: NetworkFacts, how: Judged) -> None:
        self.space, self.facts, self.how = space, facts, how
        self.groups = [facts.groups[g.name] for g in space.groups]
        self.removals = [np.array(g.removals, np.int64) for g in space.groups]
        self.sizes = np.array([g.size for g in space.groups], np.float64)
        self._rows: list[Rows] = [  # [methods, P, F] of each group
            np.stack([judged(decided_rows(group, m, g.removals, facts), how) for m in space.methods])
            for g, group in zip(space.groups, self.groups, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def options(self) -> list[tuple[Ints, Ints]]:
        """For each group the options of a joint choice: (places ``[K]``, methods ``[K]``); the first removes none."""
        methods = len(self.space.methods)
        most = max(FEW, MANY // (len(self) * methods))
        found = []
        for counts in self.removals:
            places = np.unique(np.linspace(0, len(counts) - 1, min(most, len(counts))).round().astype(np.int64))[1:]
            each = np.repeat(places, methods)
            numbers = np.tile(np.arange(methods), len(places))
            found.append((np.append(0, each), np.append(0, numbers)))
        return found

    def picked(self, picks: Ints) -> Choices:
        """Plans from picks ``[N, L]`` among :attr:`options`."""
        pairs = [(places[p], methods[p]) for (places, methods), p in zip(self.options, picks.T, strict=True)]
        return Choices(np.stack([p for p, _ in pairs], 1), np.stack([m for _, m in pairs], 1))

    def removed(self, choices: Choices) -> Ints:
        """``[N, L]`` units that go."""
        return np.stack([counts[p] for counts, p in zip(self.removals, choices.places.T, strict=True)], 1)

    def examples(self, choices: Choices) -> Examples:
        """The plans as examples, of which nothing has been measured."""
        removed = self.removed(choices)
        rows = self._placed(choices)
        self._neighbours(rows, removed)
        counts = (removed > 0).sum(1)
        empty = np.zeros(len(choices), np.float32)
        context = np.repeat(judged(self._rows[0][0][:1].copy(), self.how)[:, list(RETRAINING)], len(choices), 0)
        return Examples(rows[removed > 0], counts, context, empty, empty, empty)

    def option_rows(self, around: Choices) -> list[Rows]:
        """For each group ``[K, F]``: its options, where all others are as in ``around`` (one plan)."""
        rows = self._placed(around)
        self._neighbours(rows, self.removed(around))
        found = []
        for place, (places, methods) in enumerate(self.options):
            own = self._rows[place][methods, places]
            own[:, [BEFORE, AFTER]] = rows[0, place, [BEFORE, AFTER]]
            found.append(own)
        return found

    def _placed(self, choices: Choices) -> Rows:
        """``[N, L, F]`` rows with their neighbours whole."""
        rows = np.empty((len(choices), len(self), len(NAMES)), np.float32)
        for place, table in enumerate(self._rows):
            rows[:, place] = table[choices.methods[:, place], choices.places[:, place]]
        return rows

    def _neighbours(self, rows: Rows, removed: Ints) -> None:
        """Fill in what stays of the neighbours, in place."""
        kept = 1 - removed / self.sizes
        for column, weights in ((BEFORE, self._before), (AFTER, self._after)):
            rows[:, :, column] = np.where(weights.sum(1) > 0, kept @ weights.T, 1.0)

    @cached_property
    def _before(self) -> Floats:
        return self._means([g.before for g in self.groups])

    @cached_property
    def _after(self) -> Floats:
        return self._means([g.after for g in self.groups])

    def _means(self, names: list[tuple[str, ...]]) -> Floats:
        """``[L, L]`` weights that average over the neighbours of each group; those outside the space are whole."""
        place = {g.name: i for i, g in enumerate(self.groups)}
        weights = np.zeros((len(self), len(self)))
        for row, near in enumerate(names):
            for name in near:
                weights[row, place[name]] += 1 / len(near)
        return weights

    def point(self, choices: Choices) -> Point:
        """The first plan as a point of the space."""
        shares = (self.removed(choices)[0] / self.sizes).tolist()
        methods = [self.space.methods[m] for m in choices.methods[0]]
        names = [g.name for g in self.groups]
        return self.space.point(dict(zip(names, shares, strict=True)), dict(zip(names, methods, strict=True)))

    def choices(self, points: list[Mapping[str, float | str]]) -> Choices:
        """Points of the space as plans."""
        places = [[g.place(float(v[f"sparsity/{g.name}"])) for g in self.space.groups] for v in points]
        names = list(self.space.methods)

        def number(values: Mapping[str, float | str], group: str) -> int:
            return names.index(str(values[f"method/{group}"])) if len(names) > 1 else 0

        methods = [[number(v, g.name) for g in self.space.groups] for v in points]
        shape = (len(points), len(self))
        return Choices(np.array(places, np.int64).reshape(shape), np.array(methods, np.int64).reshape(shape))

    def plan(self, choices: Choices) -> Plan:
        """The first plan."""
        return self.space.plan(self.point(choices))


class Pricing:
    """Costs of plans on one scale: a sum over metrics of value over limit, or over the dense network's value.

    Args:
        grid: of the search.
        costs: of the network.
        units: by metric, what counts as 1.
    """

    def __init__(self, grid: Grid, costs: CostModel, units: Mapping[str, float]) -> None:
        self.grid, self._costs, self._units = grid, costs, dict(units)

    def __call__(self, removed: Ints) -> float:
        """Cost once ``removed [L]`` units are gone."""
        names = (g.name for g in self.grid.groups)
        cost = self._costs.cost(dict(zip(names, removed.tolist(), strict=True)))
        return sum(cost.value(metric) / unit for metric, unit in self._units.items())

    def options(self, around: Choices) -> tuple[float, list[Floats]]:
        """Cost of a plan, and for each group what each of its options would change, all others as they are.

        A tensor has a group along two dimensions at most, so cost is a square function of its units: three values give
        all others.
        """
        removed = self.grid.removed(around)[0]
        now, found = self(removed), list[Floats]()
        for place, (places, _) in enumerate(self.grid.options):
            counts = self.grid.removals[place]
            at = np.unique([0, counts[len(counts) // 2], counts[-1]])
            values = []
            for count in at:
                changed = removed.copy()
                changed[place] = count
                values.append(self(changed) - now)
            square = np.polyfit(at.astype(np.float64), np.array(values), len(at) - 1)
            found.append(np.asarray(np.polyval(square, counts[places]), np.float64))
        return now, found
