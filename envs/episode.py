"""One pass over the groups of a task, bottom up: what has been decided, and what that leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.costs import Cost
from autoprune.envs.features import PREVIOUS, REDUCED, REST, Floats
from autoprune.envs.task import Task
from autoprune.errors import EnvError, unknown_name
from autoprune.plan import Plan
from autoprune.space import GroupSpace


@dataclass(frozen=True)
class Decision:
    """What happens to one group.

    Attributes:
        place: index in the group's :attr:`~autoprune.space.GroupSpace.removals`.
        method: index in the methods of the space.
    """

    place: int
    method: int = 0


class Episode:
    """Decisions of one episode.

    Args:
        task: the problem.
        reconstruction: repair of the whole plan; by default the first of the space.

    Raises:
        UnknownNameError: a reconstruction that the space does not have.
    """

    def __init__(self, task: Task, reconstruction: str | None = None) -> None:
        known = task.space.reconstructions
        self.reconstruction = known[0] if reconstruction is None else reconstruction
        if self.reconstruction not in known:
            raise unknown_name("reconstruction of this space:", str(reconstruction), known)
        self.task = task
        self.decisions: list[Decision] = []
        self.removed: dict[str, int] = {}  # units that go, of every decided group
        self.cost: Cost = task.objective.dense_cost  # with what is not decided yet left whole
        self._later = {g.name: g.removals[-1] for g in task.space.groups}  # undecided groups at their smallest

    @property
    def done(self) -> bool:
        """Whether every group is decided."""
        return len(self.decisions) == len(self.task)

    @property
    def group(self) -> GroupSpace:
        """The group that is to be decided.

        Raises:
            EnvError: every group is decided.
        """
        if self.done:
            raise EnvError("the episode has ended; call reset() before the next step()")
        return self.task.space.groups[len(self.decisions)]

    def decide(self, decision: Decision) -> None:
        """Decide the next group."""
        group = self.group
        self.removed[group.name] = group.removals[decision.place]
        self.decisions.append(decision)
        del self._later[group.name]
        self.cost = self.task.cost(self.removed)

    def decide_rest(self, decisions: Sequence[Decision]) -> None:
        """Decide every group that is left, in order; costs are counted once."""
        rest = self.task.space.groups[len(self.decisions) :]
        self.removed |= {g.name: g.removals[d.place] for g, d in zip(rest, decisions, strict=True)}
        self.decisions += decisions
        self._later.clear()
        self.cost = self.task.cost(self.removed)

    def keeps_within_reach(self, place: int) -> bool:
        """Whether the budget can still be met once the next group loses ``removals[place]`` units."""
        group = self.group
        return self.task.fits({**self.removed, **self._later, group.name: group.removals[place]})

    def clipped(self, place: int) -> int:
        """The smallest place from ``place`` on that keeps the budget within reach, by bisection; else the last."""
        low, high = place, len(self.group.removals) - 1
        if low == high or self.keeps_within_reach(low):
            return low
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.keeps_within_reach(middle) else (middle, high)
        return high

    @property
    def ratios(self) -> dict[str, float]:
        """Costs so far as fractions of the dense network's, what is not decided left whole; no latency."""
        dense = self.task.objective.dense_cost
        return {name: getattr(self.cost, name) / getattr(dense, name) for name in ("params", "macs", "bytes")}

    @property
    def sparsities(self) -> list[float]:
        """Achieved sparsity of each decided group."""
        groups = self.task.space.groups
        return [self.removed[g.name] / g.size for g in groups[: len(self.decisions)]]

    @property
    def values(self) -> dict[str, float | str]:
        """The point decided so far, by the names of the space's parameters."""
        space = self.task.space
        decided = list(zip(space.groups, self.decisions, strict=False))
        values: dict[str, float | str] = {f"sparsity/{g.name}": self.removed[g.name] / g.size for g, _ in decided}
        if len(space.methods) > 1:
            values |= {f"method/{g.name}": space.methods[d.method] for g, d in decided}
        if len(space.reconstructions) > 1:
            values["reconstruction"] = self.reconstruction
        return values

    @property
    def plan(self) -> Plan:
        """The plan of the decisions so far; groups that are not decided stay whole."""
        space = self.task.space
        whole = space.point({}, reconstruction=self.reconstruction)
        return space.plan({**whole, **self.values})

    def observation(self) -> Floats:
        """``[11]`` float32 in [0, 1], new at each call (:data:`autoprune.envs.FEATURES`).

        After the last decision the features that never change stay those of the last group.
        """
        place = len(self.decisions)
        seen: Floats = self.task.features[min(place, len(self.task) - 1)].copy()
        seen[REDUCED] = 1 - self.cost.macs / max(self.task.objective.dense_cost.macs, 1)
        if place:
            group = self.task.space.groups[place - 1]
            seen[PREVIOUS] = self.removed[group.name] / group.size
        if self.done:
            seen[REST] = 0.0
        np.clip(seen, 0.0, 1.0, out=seen)  # shares that rounding carries past the end
        return seen
