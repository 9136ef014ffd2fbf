"""Moves of a local search over plans: what one changes, what pays for it, and which are worth trying."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.envs.episode import Decision, Episode
from autoprune.envs.task import Task
from autoprune.errors import SettingsError
from autoprune.fitting import smallest_shift

Decisions = tuple[Decision, ...]

MORE, LESS = 0, 1
DEFAULT_STEP = 0.125


class Moves:
    """Changes of one group of a whole plan.

    ``more`` and ``less`` go as many places on or back in the counts that the group may lose
    (:attr:`autoprune.space.GroupSpace.removals`) as ``step`` of all of them, at least one, and stop at their ends.
    Where the space has several methods there is one more move for each, by which the group is ranked from then on.

    Args:
        task: the problem.
        step: share of a group's places that ``more`` and ``less`` go, in (0, 1].
        rebalance: whether other groups pay for a change that leaves the budget unmet; otherwise it is refused.

    Attributes:
        names: of the moves, the same for every group.
        strides: places that ``more`` and ``less`` go, by group.

    Raises:
        SettingsError: a step outside (0, 1].
    """

    def __init__(self, task: Task, step: float = DEFAULT_STEP, *, rebalance: bool = True) -> None:
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step <= 1:
            raise SettingsError(f"step must be in (0, 1], a share of what a group may lose, but got {step!r}")
        space = task.space
        methods = [f"method {name}" for name in space.methods] if len(space.methods) > 1 else []
        self.task, self.rebalance = task, rebalance
        self.names: tuple[str, ...] = ("more", "less", *methods)
        self.strides = tuple(max(1, round(step * (len(g.removals) - 1))) for g in space.groups)

    def moved(self, decisions: Decisions, group: int, move: int) -> Decisions:
        """``decisions`` after one move, the budget aside; as they were where it changes nothing.

        A group that loses nothing has no use for a method, so that no method changes it.
        """
        old, last = decisions[group], len(self.task.space.groups[group].removals) - 1
        if move == MORE:
            new = Decision(min(old.place + self.strides[group], last), old.method)
        elif move == LESS:
            new = Decision(max(old.place - self.strides[group], 0), old.method)
        else:
            new = Decision(old.place, move - 2) if old.place else old
        return (*decisions[:group], new, *decisions[group + 1 :])

    def settled(self, decisions: Decisions, held: int) -> Decisions | None:
        """``decisions`` if they meet the budget; else with the change of group ``held`` paid for by the others.

        All others move up together by the smallest amount that meets the budget, each as far as it may (as
        :meth:`autoprune.space.SearchSpace.shift`, one group held). ``None`` where that is not enough, or not wanted.
        """
        if self.fits(decisions):
            return decisions
        groups = self.task.space.groups
        start = [g.removals[d.place] / g.size for g, d in zip(groups, decisions, strict=True)]

        def moved(by: float) -> tuple[int, ...]:
            places = [g.place(min(s + max(by, 0.0), 1.0)) for g, s in zip(groups, start, strict=True)]
            places[held] = decisions[held].place
            return tuple(places)

        def good(places: tuple[int, ...]) -> bool:
            return self.fits(_at(decisions, places))

        if not self.rebalance or not good(moved(1.0)):
            return None
        return _at(decisions, smallest_shift(moved, good))

    def fits(self, decisions: Decisions) -> bool:
        """Whether ``decisions`` meet the budget; what can be counted is tried first."""
        target = self.task.target
        if target is None:
            return True
        if not self.task.fits(self._removed(decisions)):
            return False
        return not target.budget.measured or target.fits(arranged(self.task, decisions).plan)

    def masks(self, decisions: Decisions) -> NDArray[np.bool_]:
        """``[G, M]``: ``True`` for each move that changes the plan.

        What the budget refuses is ``False`` as far as counts tell; a latency is not measured for it.
        """
        groups = range(len(decisions))
        return np.array([[self._changes(decisions, g, m) for m in range(len(self.names))] for g in groups])

    def _changes(self, decisions: Decisions, group: int, move: int) -> bool:
        changed = self.moved(decisions, group, move)
        if changed == decisions:
            return False
        if move != LESS:  # no more is left than before
            return True
        if self.rebalance:
            most = [len(g.removals) - 1 for g in self.task.space.groups]
            most[group] = changed[group].place
            changed = _at(changed, most)
        return self.task.fits(self._removed(changed))

    def _removed(self, decisions: Decisions) -> dict[str, int]:
        return {g.name: g.removals[d.place] for g, d in zip(self.task.space.groups, decisions, strict=True)}


def arranged(task: Task, decisions: Decisions, reconstruction: str | None = None) -> Episode:
    """A whole plan as an episode that has ended: its point, plan and costs.

    Raises:
        UnknownNameError: a reconstruction that the space does not have.
    """
    episode = Episode(task, reconstruction)
    episode.decide_rest(decisions)
    return episode


def _at(decisions: Decisions, places: Sequence[int]) -> Decisions:
    return tuple(Decision(place, d.method) for d, place in zip(decisions, places, strict=True))
