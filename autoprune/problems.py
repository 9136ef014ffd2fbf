"""Problems with a known answer: an objective whose best plan under a budget can be written down.

Controllers, studies and anything else that proposes plans are tried on these in seconds, without a network:

    >>> problem = KnownAnswer(groups=4)
    >>> budget = Budget(macs=0.5)
    >>> space = SearchSpace.from_graph(problem.graph)
    >>> problem(space.plan(problem.best(space, budget))).accuracy <= problem.bound(budget)
    True
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.costs import Budget, Cost, CostModel
from autoprune.errors import BudgetError, SettingsError
from autoprune.graph import Group, LayerGraph, LayerInfo, Role, Slot
from autoprune.outcome import LayerOutcome, Outcome, Status
from autoprune.plan import Pattern, Plan
from autoprune.ranking import smallest_prefix
from autoprune.seeding import derive, generator
from autoprune.space import SearchSpace

TOP = 0.95  # accuracy with nothing removed
_DAMAGE = 0.6  # what everything removed would cost, all groups together


class KnownAnswer:
    """Accuracy falls with the square of each group's sparsity, costs are linear; groups do not touch each other.

    With weights ``w`` and multiply-accumulates ``c`` of the groups, a plan with sparsities ``s`` has accuracy
    ``0.95 - sum(w * f * s^2)`` and costs ``sum(c * (1 - s))``. ``f`` is 1 for the right method of a group and ``wrong``
    for every other one. The best sparsities under a limit on multiply-accumulates are ``min(t * c / w, max_sparsity)``
    with the smallest ``t`` that meets it (Lagrange).

    Args:
        groups: how many; their sizes, weights and costs are drawn from ``seed``.
        seed: of the problem.
        methods: names of which each group has one right one, in turn.
        wrong: factor on the damage that any other method does.
        steps: accuracies reported on the way, as a network does that is retrained.
        noise: standard deviation added to accuracy, the same for the same plan.
        fail_above: plans that remove more than this of the first group fail.
        seconds: an evaluation takes so long.
    """

    def __init__(
        self,
        groups: int = 6,
        *,
        seed: int = 0,
        methods: Sequence[str] = ("l1_norm",),
        wrong: float = 1.5,
        steps: int = 0,
        noise: float = 0.0,
        fail_above: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        if groups < 1:
            raise SettingsError(f"a problem needs at least one group, but got {groups}")
        draw = generator(seed, "known answer")
        self.seed, self.methods, self.wrong, self.steps = seed, tuple(methods), wrong, steps
        self.noise, self.fail_above, self.seconds = noise, fail_above, seconds
        sizes = [int(n) for n in torch.randint(8, 65, (groups,), generator=draw)]
        inputs = [int(n) for n in torch.randint(4, 33, (groups,), generator=draw)]
        self.graph = _graph(sizes, inputs)
        weights = torch.rand(groups, generator=draw, dtype=torch.float64) ** 2 + 0.02  # some matter, some hardly
        names = list(self.graph.groups)
        self.weights: dict[str, float] = dict(zip(names, (weights / weights.sum() * _DAMAGE).tolist(), strict=True))
        self._costs = CostModel(_tensors(self.graph), self.graph)
        self.dense_cost: Cost = self._costs.cost()
        self.calls: list[Plan] = []

    @property
    def identity(self) -> dict[str, Any]:
        """What outcomes depend on."""
        settings = {"methods": list(self.methods), "wrong": self.wrong, "steps": self.steps, "noise": self.noise}
        return {
            "model": f"known answer {len(self.weights)} {self.seed}",
            "graph": self.graph.digest,
            "data": "none",
            "objective": settings | {"fail_above": self.fail_above},
        }

    @property
    def dense(self) -> Outcome:
        """Outcome with nothing removed."""
        return self._outcome(Plan(), Status.OK, TOP)

    @property
    def ranker(self) -> KnownRanker:
        """Scores of units that agree with the damage their loss does."""
        return KnownRanker(self)

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan."""
        return self._costs.cost(self.removed(plan))

    def latency(self, plan: Plan) -> float:
        """Milliseconds, here always the same for the same plan: a part that no pruning saves, and the rest."""
        return 0.1 + 1e-4 * self.cost(plan).macs

    @property
    def costs(self) -> CostModel:
        """Counts what is left after so many units of each group are gone."""
        return self._costs

    def removed(self, plan: Plan) -> dict[str, int]:
        """Units a plan removes, by group."""
        return {d.layer: self.graph.group(d.layer).removed(d.sparsity) for d in plan.decisions}

    def accuracy(self, plan: Plan) -> float:
        """Accuracy of a plan."""
        removed = self.removed(plan)
        return TOP - sum(self.damage(d.layer, d.method, removed[d.layer]) for d in plan.decisions) + self._noise(plan)

    def damage(self, group: str, method: str, removed: int) -> float:
        """Accuracy that is lost when ``removed`` units of ``group`` go by ``method``."""
        found = self.graph.group(group)
        right = self.methods[list(self.weights).index(found.name) % len(self.methods)]
        return self.weights[found.name] * (1.0 if method == right else self.wrong) * (removed / found.size) ** 2

    def __call__(self, plan: Plan, *, report: Callable[[int, float], bool] | None = None, race: Any = None) -> Outcome:
        """Evaluate a plan; with ``steps``, accuracy on the way is ``1 - 2^(-8 step / steps)`` of the final one."""
        del race
        self.calls.append(plan)
        if self.seconds:
            time.sleep(self.seconds)
        first = next(iter(self.weights))
        if self.fail_above is not None and plan.sparsities().get(first, 0.0) > self.fail_above:
            return self._outcome(plan, Status.FAILED, None, f"more than {self.fail_above:g} of {first!r} is gone")
        final = self.accuracy(plan)
        steps = self.steps if plan.steps is None else min(plan.steps, self.steps)
        for step in range(1, steps + 1):
            accuracy = final * (1 - 2.0 ** (-8 * step / steps)) if step < steps else final
            if report is not None and report(step, accuracy) and step < steps:
                return self._outcome(plan, Status.STOPPED, accuracy, f"stopped at step {step}", step)
        return self._outcome(plan, Status.OK, final, steps=steps)

    def best(self, space: SearchSpace, budget: Budget) -> dict[str, float | str]:
        """The best point of ``space`` up to rounding; ``budget`` limits multiply-accumulates or parameters.

        Raises:
            BudgetError: another budget, or one that cannot be met.
        """
        caps = {g.name: g.max_sparsity for g in space.groups}
        sparsities = self._solve(budget, caps)
        right = {name: self.methods[i % len(self.methods)] for i, name in enumerate(self.weights)}
        return space.fit(space.point(sparsities, right), self, budget)

    def bound(self, budget: Budget, *, max_sparsity: float = 0.9) -> float:
        """Accuracy that no plan within ``budget`` exceeds, were units divisible; noise aside.

        Raises:
            BudgetError: another budget, or one that cannot be met.
        """
        sparsities = self._solve(budget, dict.fromkeys(self.weights, max_sparsity))
        return TOP - sum(self.weights[name] * s**2 for name, s in sparsities.items())

    def _solve(self, budget: Budget, caps: Mapping[str, float]) -> dict[str, float]:
        limits = budget.limits(self.dense_cost)
        if len(limits) != 1 or not set(limits) <= {"macs", "params"}:
            raise BudgetError(f"the answer is known for one limit on macs or params, but not for {budget}")
        metric, limit = next(iter(limits.items()))
        index = 1 if metric == "macs" else 0
        costs = {name: self.graph.layer_costs()[name][index] for name in self.weights}
        if sum(c * (1 - caps.get(n, 0.0)) for n, c in costs.items()) > limit:
            raise BudgetError(f"{budget} cannot be met with sparsities up to {max(caps.values()):g}")

        def at(t: float) -> dict[str, float]:
            return {n: min(t * costs[n] / self.weights[n], caps.get(n, 0.0)) for n in self.weights}

        low, high = 0.0, max(self.weights[n] / costs[n] for n in self.weights)
        for _ in range(200):
            middle = (low + high) / 2
            over = sum(costs[n] * (1 - s) for n, s in at(middle).items()) > limit
            low, high = (middle, high) if over else (low, middle)
        return at(high)

    def _noise(self, plan: Plan) -> float:
        if not self.noise or not plan.decisions:
            return 0.0
        draw = torch.Generator().manual_seed(derive(self.seed, "noise", plan.digest))
        return self.noise * float(torch.randn((), generator=draw, dtype=torch.float64))

    def _outcome(self, plan: Plan, status: Status, accuracy: float | None, reason: str = "", steps: int = 0) -> Outcome:
        removed = self.removed(plan)
        cost = self._costs.cost(removed)
        costs = self._costs.layers(removed)
        layers = tuple(
            LayerOutcome(d.layer, d.method, d.pattern.value, g.size, k, k / g.size, *costs[g.name])
            for d, g, k in ((d, self.graph.group(d.layer), removed[d.layer]) for d in plan.decisions)
        )
        return Outcome(
            plan=plan,
            status=status,
            cost=cost,
            reason=reason,
            accuracy=accuracy,
            loss=None if accuracy is None else -math.log(max(accuracy, 1e-3)),
            stages={} if accuracy is None else {"dense": TOP, "pruned": accuracy},
            ratios=cost.ratios(self.dense_cost),
            layers=layers,
            seconds={"total": self.seconds},
            seed=self.seed,
            images=1000,
            steps=steps,
        )


class KnownRanker:
    """Scores of a problem's units: the ``k``-th to go of ``n`` costs what the accuracy loses by it."""

    def __init__(self, problem: KnownAnswer) -> None:
        self.problem = problem

    def scores(self, group: str, method: str) -> Tensor:
        """Scores ``[U]`` (float64) of the units of ``group``, whatever the method."""
        del method
        size = self.problem.graph.group(group).size
        gone = torch.arange(size + 1, dtype=torch.float64) / size
        return (gone[1:] ** 2 - gone[:-1] ** 2) * self.problem.weights[group]

    def global_removed(
        self, names: Sequence[str], method: str, fits: Callable[[dict[str, int]], bool], **options: Any
    ) -> dict[str, int]:
        """Units to remove of each group, the shortest prefix of one ranking that ``fits``."""
        del options
        return smallest_prefix({n: self.scores(n, method) for n in names}, fits, dict.fromkeys(names, 1))


def _graph(sizes: Sequence[int], inputs: Sequence[int]) -> LayerGraph:
    layers, groups, shapes = {}, {}, {}
    for place, (size, width) in enumerate(zip(sizes, inputs, strict=True)):
        name, tensor = f"layer{place:02d}", f"layer{place:02d}.weight"
        uses = 1 + place % 4
        layers[name] = LayerInfo(
            name=name,
            kind="linear",
            weight=tensor,
            weight_shape=(size, width),
            input_shape=(uses, width),
            output_shape=(uses, size),
            kernel=(),
            stride=(),
            conv_groups=1,
            params=size * width,
            macs=size * width * uses,
            positions=uses,
        )
        units = Slot(tensor, name, 0, Role.OUT, torch.arange(size)[:, None])
        groups[name] = Group(name, Pattern.UNIT, size, (units,))
        shapes[tensor] = (size, width)
    return LayerGraph(layers=layers, groups=groups, shapes=shapes, parameters=frozenset(shapes))


def _tensors(graph: LayerGraph) -> nn.Module:
    """A module with the problem's tensors, for the exact size of its file."""
    module = nn.Module()
    for name, layer in graph.layers.items():
        child = nn.Module()
        child.weight = nn.Parameter(torch.zeros(layer.weight_shape))
        module.add_module(name, child)
    return module


__all__ = ["TOP", "KnownAnswer", "KnownRanker"]
