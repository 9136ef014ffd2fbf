"""Where a local search stands: a plan and what it is worth, what an agent sees of it, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.envs import render
from autoprune.envs.episode import Episode
from autoprune.envs.features import Floats
from autoprune.envs.refining import Decisions
from autoprune.envs.scoring import without_timings
from autoprune.envs.task import Task
from autoprune.outcome import Outcome
from autoprune.plan import Plan

#: (name, meaning, unit): what an agent sees of each group, then one more number for each method of several ...
GROUP_FEATURES: tuple[tuple[str, str, str], ...] = (
    ("kept", "units that stay", "share of the group's units"),
    ("place", "how far it is pruned: 0 where nothing is removed, 1 where the most is", "share of the allowed counts"),
    ("units", "units before pruning", "share of the units of all groups"),
    ("saving", "multiply-accumulates that go with the most of its units, were it alone", "share of the dense network"),
)
#: ... and of all together.
PLAN_FEATURES: tuple[tuple[str, str, str], ...] = (
    (
        "cost",
        "cost over its limit, the largest of the budget's metrics; macs where there is none",
        "share of the limit",
    ),
    ("accuracy", "validation accuracy of the plan as it is; 0 where it could not be judged", "fraction"),
    ("best", "validation accuracy of the best plan of the episode", "fraction"),
    ("left", "steps that are left", "share of the steps of an episode"),
)


@dataclass(frozen=True)
class Stand:
    """A plan of an episode.

    Attributes:
        episode: its decisions, as an episode that has ended.
        plan: the plan.
        outcome: of the plan; ``None`` where the judge refused it.
        worth: what the reward function pays for it (its accuracy, where the reward is a gain over earlier plans).
    """

    episode: Episode
    plan: Plan
    outcome: Outcome | None
    worth: float

    @property
    def decisions(self) -> Decisions:
        """Place and method of every group."""
        return tuple(self.episode.decisions)

    @property
    def accuracy(self) -> float:
        """Validation accuracy; 0 where the plan could not be judged."""
        return 0.0 if self.outcome is None else self.outcome.accuracy or 0.0

    def told(self) -> dict[str, Any]:
        """Plan, costs and outcome as JSON, new at each call; no outcome where there is none."""
        told = {"plan": self.plan.to_dict(), "cost": self.episode.ratios}
        return told if self.outcome is None else {**told, "outcome": without_timings(self.outcome)}


class Sight:
    """What an agent sees: ``[G * F + 4]`` float32 in [0, 1]."""

    def __init__(self, task: Task) -> None:
        self.task = task
        groups, methods = task.space.groups, len(task.space.methods)
        units, macs = sum(g.size for g in groups), max(task.objective.dense_cost.macs, 1)
        savings = [1 - task.cost({g.name: g.removals[-1]}).macs / macs for g in groups]
        self._blank = np.zeros((len(groups), len(GROUP_FEATURES) + (methods if methods > 1 else 0)), np.float32)
        self._blank[:, 2] = [g.size / units for g in groups]
        self._blank[:, 3] = savings
        self.size = self._blank.size + len(PLAN_FEATURES)

    def of(self, now: Stand, best: Stand, left: float) -> Floats:
        """The observation, a new array, with ``left`` the share of steps that are left."""
        groups, seen = self.task.space.groups, self._blank.copy()
        seen[:, 0] = [1 - now.episode.removed[g.name] / g.size for g in groups]
        seen[:, 1] = [d.place / (len(g.removals) - 1) for g, d in zip(groups, now.decisions, strict=True)]
        if seen.shape[1] > len(GROUP_FEATURES):
            seen[range(len(groups)), [len(GROUP_FEATURES) + d.method for d in now.decisions]] = 1.0
        overall = np.array([self._cost(now), now.accuracy, best.accuracy, left], np.float32)
        whole = np.concatenate([seen.reshape(-1), overall])
        return np.clip(whole, 0.0, 1.0, out=whole)

    def _cost(self, now: Stand) -> float:
        target = self.task.target
        return now.episode.ratios["macs"] if target is None else 1 + max(target.violations(now.plan).values())


@dataclass(frozen=True)
class StandView(render.View):
    """As :class:`autoprune.envs.render.View`, of ``steps`` steps and the accuracy of the ``best`` plan."""

    steps: int = 0
    best: float = 0.0

    @property
    def summary(self) -> str:
        """One line: how far it is, the return, the accuracy."""
        parts = [f"{self.task.name}: step {len(self.rewards)} of {self.steps}", f"return {sum(self.rewards):.4f}"]
        if self.outcome is None or self.outcome.accuracy is None:
            return ", ".join([*parts, "refused" if self.outcome is None else "failed"])
        dense = self.task.dense_accuracy
        return ", ".join([*parts, f"accuracy {self.outcome.accuracy:.4f} (best {self.best:.4f}, dense {dense:.4f})"])
