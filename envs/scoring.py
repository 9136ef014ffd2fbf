"""What the plan of an episode is paid: its budget first, then its outcome, then the reward function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from autoprune.costs import Cost
from autoprune.envs.rewards import Front, Result, Reward, extended, get_reward
from autoprune.envs.task import Task
from autoprune.outcome import Outcome
from autoprune.plan import Plan


class Scoring:
    """Pays the plans of one environment; keeps the front of earlier ones where the reward asks for it.

    Args:
        task: the problem.
        reward: a name, ``package.module:function``, or a function of a :class:`~autoprune.envs.rewards.Result`.

    Raises:
        UnknownNameError: no such reward.
        EnvError: a function that cannot be found.
    """

    def __init__(self, task: Task, reward: str | Callable[[Result], float] | Reward) -> None:
        self.task, self.reward = task, get_reward(reward)
        self.front: Front = ()

    @property
    def measured(self) -> bool:
        """Whether latency is measured, so that two processes may disagree."""
        return self.reward.measured or (self.task.target is not None and self.task.target.measures)

    def forget(self) -> None:
        """Begin with an empty front."""
        self.front = ()

    def excess(self, plan: Plan) -> float:
        """By how much ``plan`` misses the budget: the largest ``value / limit - 1``, 0 where it fits."""
        target = self.task.target
        return 0.0 if target is None else max(0.0, *target.violations(plan).values())

    def pay(self, plan: Plan, outcome: Outcome | None, excess: float = 0.0) -> float:
        """The reward of ``plan``.

        A plan that was refused (``outcome`` is ``None``) is paid ``excess`` less than the least that a network can be
        paid: 0 by ``accuracy``, so that over budget the reward is ``-excess``. A network that could not be judged
        counts as one that is always wrong.
        """
        if outcome is None:
            return self._least - excess
        cost = self._costed(plan, outcome.cost)
        result = replace(self._blank, accuracy=outcome.accuracy or 0.0, cost=cost, front=self.front)
        paid = self.reward(result)
        if self.reward.front is not None and outcome.accuracy is not None:
            self.front = extended(self.front, (result.ratios[self.reward.front], result.accuracy))
        return paid

    @cached_property
    def _blank(self) -> Result:
        task, dense = self.task, self._costed(Plan(), self.task.objective.dense_cost)
        limits = {} if task.target is None else dict(task.target.limits)
        return Result(0.0, task.dense_accuracy, task.chance, dense, dense, limits)

    @cached_property
    def _least(self) -> float:
        """What a network of the dense one's cost that is always wrong is paid."""
        return self.reward(self._blank)

    def _costed(self, plan: Plan, cost: Cost) -> Cost:
        if not self.reward.measured or cost.latency_ms is not None:
            return cost
        return replace(cost, latency_ms=self.task.objective.latency(plan))


def without_timings(outcome: Outcome) -> dict[str, Any]:
    """``outcome`` as a dictionary, without what differs between two runs of the same plan: seconds and latencies."""
    data = outcome.to_dict()
    for name in ("seconds", "latency"):
        del data[name]
    del data["cost"]["latency_ms"]
    data["ratios"].pop("latency_ms", None)
    return data
