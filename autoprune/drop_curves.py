"""A problem with known drop curves: each layer loses accuracy along a curve of its own, and brute force finds the best.

The curves have the shapes that pruned layers show: slow powers, cliffs, and layers that hardly matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoprune.costs import Budget
from autoprune.errors import BudgetError, SettingsError
from autoprune.plan import Plan
from autoprune.problems import TOP, KnownAnswer, KnownRanker
from autoprune.seeding import generator
from autoprune.space import SearchSpace

BRUTE_FORCE_LIMIT = 5_000_000  # points
Floats = NDArray[np.float64]


class DropCurves(KnownAnswer):
    """As :class:`autoprune.problems.KnownAnswer`, with curves in place of squares; the arguments are the same.

    A group with sparsity ``s`` loses ``w * s^p`` or, where it has a cliff at ``c``, ``w * (0.15 s + 0.85 / (1 +
    exp((c - s) / 0.05)))``; which, and with what ``w``, ``p`` and ``c``, is drawn from ``seed``.
    """

    def __init__(self, groups: int = 4, *, seed: int = 0, methods: Sequence[str] = ("l1_norm",), noise: float = 0.0):
        super().__init__(groups, seed=seed, methods=methods, noise=noise)
        draw = generator(seed, "drop curves")
        powers = 1 + 3 * torch.rand(groups, generator=draw, dtype=torch.float64)
        cliffs = 0.3 + 0.6 * torch.rand(groups, generator=draw, dtype=torch.float64)
        sharp = torch.rand(groups, generator=draw) < 0.4
        shapes = zip(powers.tolist(), cliffs.tolist(), sharp.tolist(), strict=True)
        self.shapes = dict(zip(self.weights, shapes, strict=True))

    def drop(self, group: str, sparsity: float) -> float:
        """Accuracy that ``group`` loses at ``sparsity`` by its right method."""
        power, cliff, sharp = self.shapes[group]
        if not sharp:
            return float(self.weights[group] * sparsity**power)
        fall = [1 / (1 + np.exp((cliff - s) / 0.05)) for s in (sparsity, 0.0)]
        return float(self.weights[group] * (0.15 * sparsity + 0.85 * (fall[0] - fall[1])))

    def damage(self, group: str, method: str, removed: int) -> float:
        """As in the base class."""
        found = self.graph.group(group)
        right = self.methods[list(self.weights).index(found.name) % len(self.methods)]
        return self.drop(found.name, removed / found.size) * (1.0 if method == right else self.wrong)

    @property
    def ranker(self) -> KnownRanker:
        """Scores that rise as the curves do."""
        return _CurveRanker(self)

    def best_on_grid(self, space: SearchSpace, budget: Budget) -> tuple[float, Plan]:
        """The highest accuracy of all points of ``space`` within ``budget`` (on multiply-accumulates), by brute force.

        Raises:
            SettingsError: more points than :data:`BRUTE_FORCE_LIMIT`.
            BudgetError: another budget, or one that no point meets.
        """
        limits = budget.limits(self.dense_cost)
        if set(limits) != {"macs"}:
            raise BudgetError(f"brute force knows a limit on macs, but not {budget}")
        if np.prod([float(len(g.removals)) for g in space.groups]) > BRUTE_FORCE_LIMIT:
            raise SettingsError(f"the space has more than {BRUTE_FORCE_LIMIT:,} points; give fewer groups or levels")
        layers = self.graph.layer_costs()
        drops, costs = np.zeros(1), np.zeros(1)
        for g in space.groups:
            shares = np.array(g.removals) / g.size
            own = np.array([self.drop(g.name, float(s)) for s in shares])
            drops = np.add.outer(drops, own).ravel()
            costs = np.add.outer(costs, layers[g.name][1] * (1 - shares)).ravel()
        drops[costs > limits["macs"] * (1 + 1e-12)] = np.inf
        place = int(drops.argmin())
        if not np.isfinite(drops[place]):
            raise BudgetError(f"{budget} cannot be met in this space")
        at = np.unravel_index(place, [len(g.removals) for g in space.groups])
        chosen = {g.name: g.removals[int(i)] / g.size for g, i in zip(space.groups, at, strict=True)}
        right = {name: self.methods[i % len(self.methods)] for i, name in enumerate(self.weights)}
        return TOP - float(drops[place]), space.plan(space.point(chosen, right))


class _CurveRanker(KnownRanker):
    """The ``k``-th unit to go scores what the accuracy loses by it, with some jitter, as norms only hint at harm."""

    def scores(self, group: str, method: str) -> Tensor:
        """Scores ``[U]`` (float64)."""
        problem = self.problem
        assert isinstance(problem, DropCurves)
        size = problem.graph.group(group).size
        drops = torch.tensor([problem.drop(group, k / size) for k in range(size + 1)], dtype=torch.float64)
        jitter = torch.rand(size, generator=generator(problem.seed, "norms", group, method), dtype=torch.float64)
        return (drops.diff() * (0.8 + 0.4 * jitter) + 1e-4).sort().values
