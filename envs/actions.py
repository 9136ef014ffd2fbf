"""Kinds of action: how what an agent says becomes a decision, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autoprune.envs.episode import Decision
from autoprune.errors import EnvError, unknown_name
from autoprune.space import GroupSpace, SearchSpace

DEFAULT_LEVELS = 11  # sparsities a discrete agent chooses from, where the space does not say


class Coding(ABC):
    """One kind of action for one search space.

    Attributes:
        name: its key in :data:`ACTIONS`.
        space: the gymnasium space.
    """

    name: str
    space: spaces.Space[Any]

    def __init__(self, space: SearchSpace) -> None:
        self.methods = len(space.methods)
        self.levels = int(dict(space.rules).get("levels") or DEFAULT_LEVELS)
        self._tables: dict[GroupSpace, list[int]] = {}

    def decode(self, action: Any, group: GroupSpace) -> Decision:
        """The decision that ``action`` means for ``group``.

        Raises:
            EnvError: an action of another shape or type, one outside the space, or NaN.
        """
        return self._decode(action, group)

    def encode(self, decision: Decision, group: GroupSpace) -> Any:
        """An action that means ``decision``, or, with levels, the next one that removes at least as much."""
        return self._encode(decision, group)

    def masks(self, group: GroupSpace, least: int = 0) -> NDArray[np.bool_]:
        """What is worth trying: removes at least ``removals[least]``, and is not the same as another action.

        Raises:
            EnvError: an action that is not discrete.
        """
        return self._masks(self._worth_trying(group, least))

    @abstractmethod
    def _decode(self, action: Any, group: GroupSpace) -> Decision: ...

    @abstractmethod
    def _encode(self, decision: Decision, group: GroupSpace) -> Any: ...

    def _masks(self, levels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask of the whole action from that of the levels."""
        del levels
        raise EnvError(f"actions of kind {self.name!r} are continuous and have no mask; choose 'discrete'")

    def table(self, group: GroupSpace) -> list[int]:
        """Places of the levels in ``group.removals``, ascending."""
        if group not in self._tables:
            steps = (level / (self.levels - 1) * group.max_sparsity for level in range(self.levels))
            self._tables[group] = [group.place(step) for step in steps]
        return self._tables[group]

    def _worth_trying(self, group: GroupSpace, least: int) -> NDArray[np.bool_]:
        table = np.array(self.table(group))
        first = np.concatenate([[True], table[1:] != table[:-1]])
        return np.asarray(first & (table >= least))


class Sparsity(Coding):
    """``Box(-1, 1, (1,), float32)``: -1 removes nothing, +1 the most the group may lose, linear between.

    The group loses the allowed count nearest to it, by the first method of the space.
    """

    name = "sparsity"
    entries = 1

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.space = spaces.Box(-1.0, 1.0, (self.entries,), np.float32)

    def _decode(self, action: Any, group: GroupSpace) -> Decision:
        given = self._checked(action)
        return Decision(group.place((float(given[0]) + 1) / 2 * group.max_sparsity))

    def _encode(self, decision: Decision, group: GroupSpace) -> NDArray[np.float32]:
        share = group.removals[decision.place] / group.removals[-1]
        return np.array([2 * share - 1], np.float32)

    def _checked(self, action: Any) -> NDArray[np.float64]:
        try:
            given = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            raise EnvError(f"an action must be {self.entries} number(s) in [-1, 1], but got {action!r}") from None
        if given.shape != (self.entries,):
            raise EnvError(f"an action must have shape ({self.entries},), but got {given.shape}: {action!r}")
        if not (np.abs(given) <= 1).all():  # NaN is not
            raise EnvError(f"an action must be in [-1, 1], but got {given.tolist()}; clip what the agent proposes")
        return given


class SparsityMethod(Sparsity):
    """``Box(-1, 1, (2,), float32)``: a sparsity as in ``sparsity``, and the method.

    Equal intervals of the second entry stand for the methods of the space, in order.
    """

    name = "sparsity_method"
    entries = 2

    def _decode(self, action: Any, group: GroupSpace) -> Decision:
        given = self._checked(action)
        place = group.place((float(given[0]) + 1) / 2 * group.max_sparsity)
        return Decision(place, min(int((given[1] + 1) / 2 * self.methods), self.methods - 1))

    def _encode(self, decision: Decision, group: GroupSpace) -> NDArray[np.float32]:
        sparsity = super()._encode(decision, group)
        return np.array([sparsity[0], (2 * decision.method + 1) / self.methods - 1], np.float32)


class MultiDiscrete(Coding):
    """``MultiDiscrete([levels, methods])``: one of evenly spaced sparsities up to the group's largest, and a method.

    The number of levels is that of the space (``levels``), or 11.
    """

    name = "multidiscrete"

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.space = spaces.MultiDiscrete([self.levels, self.methods])

    def _decode(self, action: Any, group: GroupSpace) -> Decision:
        given = np.asarray(action)
        if given.shape != (2,) or given.dtype.kind not in "iu":
            raise EnvError(f"an action must be two whole numbers (level, method), but got {action!r}")
        level, method = (int(entry) for entry in given)
        if not (0 <= level < self.levels and 0 <= method < self.methods):
            raise EnvError(
                f"an action must be (level, method) below ({self.levels}, {self.methods}), but got ({level}, {method})"
            )
        return Decision(self.table(group)[level], method)

    def _encode(self, decision: Decision, group: GroupSpace) -> NDArray[np.int64]:
        return np.array([bisect_left(self.table(group), decision.place), decision.method], np.int64)

    def _masks(self, levels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.concatenate([levels, np.ones(self.methods, np.bool_)])


class Discrete(Coding):
    """``Discrete(levels * methods)``: ``method * levels + level``; with one method, the level.

    The number of levels is that of the space (``levels``), or 11.
    """

    name = "discrete"

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.space = spaces.Discrete(self.levels * self.methods)

    def _decode(self, action: Any, group: GroupSpace) -> Decision:
        given = np.asarray(action)
        if given.shape != () or given.dtype.kind not in "iu":
            raise EnvError(f"an action must be one whole number, but got {action!r}")
        if not 0 <= int(given) < self.levels * self.methods:
            raise EnvError(f"an action must be from 0 to {self.levels * self.methods - 1}, but got {int(given)}")
        method, level = divmod(int(given), self.levels)
        return Decision(self.table(group)[level], method)

    def _encode(self, decision: Decision, group: GroupSpace) -> np.int64:
        return np.int64(decision.method * self.levels + bisect_left(self.table(group), decision.place))

    def _masks(self, levels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        mask = np.tile(levels, self.methods)
        mask[self.levels :: self.levels] = False  # nothing removed is the same by every method
        return mask


ACTIONS: dict[str, type[Coding]] = {kind.name: kind for kind in (Sparsity, SparsityMethod, MultiDiscrete, Discrete)}


def get_coding(name: str, space: SearchSpace) -> Coding:
    """The coding called ``name`` for ``space``.

    Raises:
        UnknownNameError: no such kind of action, with near misses.
    """
    if name not in ACTIONS:
        raise unknown_name("kind of action", name, ACTIONS)
    return ACTIONS[name](space)
