"""The environment inside a search: every episode is a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autoprune.envs import BudgetClip, LayerwiseEnv, Task
from autoprune.envs.episode import Decision

if TYPE_CHECKING:
    from autoprune.outcome import Outcome
    from autoprune.plan import Plan
    from autoprune.search.base import Context, Point
    from autoprune.search.records import TrialRecord
    from autoprune.space import GroupSpace

Transition = tuple[NDArray[np.float32], NDArray[np.float32], Any, float, bool, dict[str, Any]]
Ask = Callable[["Point"], "TrialRecord"]


class TrialEnv(gymnasium.Wrapper[NDArray[np.float32], Any, NDArray[np.float32], Any]):
    """A :class:`~autoprune.envs.LayerwiseEnv` whose plans are judged as trials of a search.

    A plan over the budget is a trial too, rejected and not evaluated; where proposals are projected there is none,
    since actions are clipped to what keeps the budget within reach.

    Args:
        context: of the search.
        actions, reward: as of the environment.
        ask: makes a trial of a point.
    """

    def __init__(self, context: Context, actions: str, reward: str, ask: Ask) -> None:
        objective: Any = context.objective
        task = Task(objective, context.space, context.target, "search")
        self.base = LayerwiseEnv(task, actions=actions, reward=reward, judge=self._judge)
        super().__init__(self.base)
        self._clip = BudgetClip(self.base) if context.shifted else None
        self._ask, self._asked = ask, False
        self._shown: TrialRecord | None = None  # the trial that is gone through again

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide the next group; the last decision makes the trial."""
        self._asked = False
        seen, reward, done, cut, info = self.base.step(action if self._clip is None else self._clip.action(action))
        if done and not self._asked:
            self._ask(self.base.values)
        return seen, reward, done, cut, info

    def shown(self, record: TrialRecord) -> Iterator[Transition]:
        """The transitions of an episode that decides as a finished trial did; it is no new trial."""
        self._shown = record
        try:
            seen, _ = self.reset()
            for group in self.base.task.space.groups:
                action = self.base.coding.encode(self._decision(record, group), group)
                after, reward, done, _, info = self.step(action)
                yield seen, after, action, reward, done, info
                seen = after
        finally:
            self._shown = None

    def _decision(self, record: TrialRecord, group: GroupSpace) -> Decision:
        methods = self.base.task.space.methods
        place = group.place(float(record.values[f"sparsity/{group.name}"]))
        return Decision(place, methods.index(str(record.values.get(f"method/{group.name}", methods[0]))))

    def action_masks(self) -> NDArray[np.bool_]:
        """``True`` for each discrete action that is worth trying, and keeps the budget within reach if clipped."""
        return self.base.action_masks() if self._clip is None else self._clip.action_masks()

    def _judge(self, plan: Plan) -> Outcome | None:
        del plan
        self._asked = True
        if self._shown is not None:
            return self._shown.outcome
        return self._ask(self.base.values).outcome
