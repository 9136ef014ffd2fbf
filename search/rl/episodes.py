"""The environment inside a search: every episode is a trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autoprune.envs import BudgetClip, LayerwiseEnv, Task
from autoprune.search.rl.replay import TAKEN

if TYPE_CHECKING:
    from autoprune.outcome import Outcome
    from autoprune.plan import Plan
    from autoprune.search.base import Context, Point
    from autoprune.search.records import TrialRecord

Ask = Callable[["Point"], "TrialRecord"]


class TrialEnv(gymnasium.Wrapper[NDArray[np.float32], Any, NDArray[np.float32], Any]):
    """A :class:`~autoprune.envs.LayerwiseEnv` whose plans are judged as trials of a search.

    A plan over the budget is a trial too, rejected and not evaluated; with ``clip`` there is none, since actions are
    clipped to what keeps the budget within reach. ``info`` holds the action that was taken.

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

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide the next group; the last decision makes the trial."""
        taken = action if self._clip is None else self._clip.action(action)
        self._asked = False
        seen, reward, done, cut, info = self.base.step(taken)
        if done and not self._asked:
            self._ask(self.base.values)
        return seen, reward, done, cut, {**info, TAKEN: taken}

    def action_masks(self) -> NDArray[np.bool_]:
        """``True`` for each discrete action that is worth trying, and keeps the budget within reach if clipped."""
        return self.base.action_masks() if self._clip is None else self._clip.action_masks()

    def _judge(self, plan: Plan) -> Outcome | None:
        del plan
        self._asked = True
        return self._ask(self.base.values).outcome
