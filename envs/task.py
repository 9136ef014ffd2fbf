"""What an environment needs of the world: a judge of plans, what may be decided, and the budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from autoprune.costs import Budget, Cost, CostModel
from autoprune.envs.features import Floats, static_features
from autoprune.envs.shaping import LayerErrors
from autoprune.fitting import Target
from autoprune.graph import LayerGraph
from autoprune.outcome import Outcome
from autoprune.plan import Plan
from autoprune.reconstruction import get_reconstruction
from autoprune.space import SearchSpace


class TaskObjective(Protocol):
    """What an environment asks of an objective: :class:`autoprune.Objective`, or a problem with a known answer."""

    @property
    def graph(self) -> LayerGraph:
        """The network's graph."""

    @property
    def dense(self) -> Outcome:
        """Outcome of the dense network."""

    @property
    def dense_cost(self) -> Cost:
        """Cost of the dense network."""

    @property
    def costs(self) -> CostModel:
        """Counts what is left once so many units of each group are gone."""

    @property
    def ranker(self) -> Any:
        """Ranks the units of each group."""

    @property
    def identity(self) -> dict[str, Any]:
        """What outcomes depend on, as JSON."""

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan; nothing is evaluated."""

    def latency(self, plan: Plan) -> float:
        """Measured milliseconds of one forward pass."""

    def __call__(self, plan: Plan) -> Outcome:
        """Judge a plan."""


class Task:
    """A pruning problem, shared by every environment that works on it and never changed.

    Args:
        objective: judges plans.
        space: what may be decided; its groups, in order, are the steps of an episode.
        target: the budget, ``None`` for none.
        name: what it is called in pictures and messages.

    Raises:
        BudgetError: the smallest sub-network of the space does not meet the budget.
    """

    def __init__(
        self, objective: TaskObjective, space: SearchSpace, target: Target | None = None, name: str = "task"
    ) -> None:
        self.objective, self.space, self.target, self.name = objective, space, target, name
        self._analytic = Budget() if target is None else target.budget.analytic
        if target is not None:
            space.profile(objective, target.budget, dense=target.dense)

    def __len__(self) -> int:
        """Steps of an episode."""
        return len(self.space.groups)

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """Itself: environments and their specs share one network and one set of statistics."""
        return self

    def with_budget(self, budget: Budget | None) -> Task:
        """The same task with another budget, or with none.

        Raises:
            BudgetError: it cannot be met.
        """
        return Task(self.objective, self.space, Target(self.objective, budget) if budget else None, self.name)

    def prepare(self) -> None:
        """Make what every episode reads, so that workers forked from this process share it instead of making it again.

        The dense outcome, the orders of every group by every method, and the statistics that they and the repairs need.
        """
        _ = self.objective.dense, self.features
        ranker, objective = self.objective.ranker, self.objective
        if hasattr(ranker, "order"):
            for group, method in itertools.product(self.space.groups, self.space.methods):
                ranker.order(group.name, method)
        if hasattr(objective, "stats"):
            for name in self.space.reconstructions:
                if needs := get_reconstruction(name).needs:
                    objective.stats(needs)

    @cached_property
    def features(self) -> Floats:
        """``[G, 11]`` float32 in [0, 1]: what does not change in an episode (:data:`autoprune.envs.FEATURES`)."""
        features = static_features(self.objective.graph, self.space)
        features.setflags(write=False)
        return features

    @cached_property
    def errors(self) -> LayerErrors:
        """Errors of single decisions, for dense rewards."""
        return LayerErrors(self.objective)

    @cached_property
    def dense_accuracy(self) -> float:
        """Validation accuracy of the dense network."""
        return self.objective.dense.accuracy or 0.0

    @cached_property
    def chance(self) -> float:
        """Accuracy of guessing, one over the number of classes; 0 where there are none."""
        classes = getattr(getattr(self.objective, "data", None), "num_classes", 0)
        return 1 / classes if classes else 0.0

    def cost(self, removed: Mapping[str, int]) -> Cost:
        """Parameters, multiply-accumulates and bytes once ``removed[group]`` units of each group are gone."""
        return self.objective.costs.cost(removed)

    def fits(self, removed: Mapping[str, int]) -> bool:
        """Whether what is left meets the limits that counts alone decide (all but latency)."""
        return self.target is None or self._analytic.fits(self.cost(removed), self.target.dense)
