"""Many episodes of ``autoprune/Layerwise-v0`` together in one process: their plans are judged in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from autoprune.envs.layerwise import Judge, LayerwiseEnv
from autoprune.envs.rewards import Result, Reward
from autoprune.envs.task import Task
from autoprune.envs.tasks import BudgetLike, make_task
from autoprune.envs.wrappers import BudgetClip
from autoprune.errors import EnvError, unknown_name
from autoprune.outcome import Outcome
from autoprune.plan import Plan


class LayerwiseVectorEnv(SyncVectorEnv):
    """``num_envs`` episodes of :class:`LayerwiseEnv` that go on step by step together.

    Observations, rewards and infos are those of as many single environments with the same seeds, and in the form of
    gymnasium's ``SyncVectorEnv``. What differs is the end: all episodes have the same number of steps, so their plans
    are there at once, and are judged in one call, equal plans once, on every core
    (:meth:`autoprune.Objective.many`). An action that cannot be taken changes no episode.

    .. code-block:: python

        envs = gymnasium.make_vec("autoprune/Layerwise-v0", num_envs=8, vectorization_mode="vector_entry_point")

    Args:
        num_envs: how many episodes.
        task, budget, reward, actions, dense_reward, resample_retraining, render_mode, task_options: as of
            :class:`LayerwiseEnv`. The task is made once and shared; the front of a hypervolume reward is each
            episode's own. Seeds of retraining that are drawn anew leave nothing to share: such plans are judged one
            after the other.
        judge: as of :class:`LayerwiseEnv`, called once for each episode in order; one with a method
            ``many(plans) -> outcomes`` is asked for all of a step together.
        autoreset_mode: when episodes begin anew. ``"NextStep"`` (gymnasium's default): the step after the last one
            is a reset, whatever its action. ``"SameStep"`` (as in stable-baselines3): the last step returns the first
            observation of the next episode, and the last one in ``infos["final_obs"]`` and ``infos["final_info"]``.
            ``"Disabled"``: only :meth:`reset` begins anew, for some of them with ``options={"reset_mask": ...}``.

    Raises:
        EnvError: not even one episode.
        UnknownNameError: another autoreset mode; else as :class:`LayerwiseEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | Task = "digits",
        budget: BudgetLike | EllipsisType = ...,
        reward: str | Callable[[Result], float] | Reward = "accuracy",
        actions: str = "sparsity",
        dense_reward: bool = False,
        resample_retraining: bool = False,
        judge: Judge | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **task_options: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise EnvError(f"num_envs must be a whole number from 1 on, but got {num_envs!r}")
        mode = _autoreset_mode(autoreset_mode)
        self.task = make_task(task, budget=budget, **task_options)
        gathers = not resample_retraining and (judge is None or hasattr(judge, "many"))
        self._together = _Together(judge or self.task.objective) if gathers else None

        def lane() -> LayerwiseEnv:
            return LayerwiseEnv(
                self.task,
                reward=reward,
                actions=actions,
                dense_reward=dense_reward,
                resample_retraining=resample_retraining,
                judge=self._together or judge,
                render_mode=render_mode,
            )

        super().__init__([lane] * num_envs, autoreset_mode=mode)

    @property
    def lanes(self) -> Sequence[LayerwiseEnv]:
        """The single environments, one for each episode."""
        lanes: list[Any] = self.envs
        return lanes

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Decide the next group of every episode; plans that are complete are judged together.

        Raises:
            EnvError: as :meth:`LayerwiseEnv.step`, or another number of actions than episodes; nothing is changed in
                any episode then.
        """
        ending = [_ending(lane, action) for lane, action in self.split(actions) if lane is not None]
        if self._together is not None:
            self._together.judge([plan for plan in ending if plan and self.lanes[0].scoring.excess(plan) <= 0])
        found: tuple[Any, Any, Any, Any, dict[str, Any]] = super().step(actions)
        return found

    def split(self, actions: Any) -> list[tuple[LayerwiseEnv | None, Any]]:
        """Each action with its episode; ``None`` for an episode that is about to be reset and takes no action.

        Raises:
            EnvError: another number of actions than episodes.
        """
        if np.ndim(actions) == 0 or len(actions) != self.num_envs:
            raise EnvError(f"{self.num_envs} episodes need as many actions, but got {actions!r}")
        resets = self._autoreset_envs & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        each = zip(self.lanes, iterate(self.action_space, actions), resets, strict=True)
        return [(None if reset else lane, action) for lane, action, reset in each]


class BudgetClipVector(VectorActionWrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """:class:`~autoprune.envs.BudgetClip` for every episode of a :class:`LayerwiseVectorEnv`.

    Raises:
        BudgetError: as :class:`~autoprune.envs.BudgetClip`.
        EnvError: another vector environment; wrap its single environments in ``BudgetClip`` instead.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        VectorActionWrapper.__init__(self, env)
        base = env.unwrapped
        if not isinstance(base, LayerwiseVectorEnv):
            raise EnvError(
                f"BudgetClipVector needs a LayerwiseVectorEnv, but got {type(base).__name__}; "
                "wrap its single environments: gymnasium.make_vec(..., wrappers=[BudgetClip])"
            )
        self.base = base
        self._clips = [BudgetClip(lane) for lane in base.lanes]

    def actions(self, actions: Any) -> Any:
        """For each episode the nearest action that keeps the budget within reach."""
        each = zip(self._clips, self.base.split(actions), strict=True)
        clipped = [action if lane is None else clip.action(action) for clip, (lane, action) in each]
        return np.stack(clipped).astype(self.action_space.dtype)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As of the environment; masks keep the budget within reach."""
        if name == "action_masks":
            return tuple(clip.action_masks() for clip in self._clips)
        return self.base.call(name, *args, **kwargs)


class _Together:
    """A judge of single plans that has judged all plans of a step in one go."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge
        self._known: dict[Plan, Outcome | None] = {}

    def judge(self, plans: Iterable[Plan]) -> None:
        """Judge ``plans``, equal ones once; what was judged before is forgotten."""
        self._known = {}
        each = list(dict.fromkeys(plans))
        many = getattr(self._judge, "many", None)
        self._known = dict(zip(each, many(each) if many and each else map(self._judge, each), strict=True))

    def __call__(self, plan: Plan) -> Outcome | None:
        """The outcome of ``plan``."""
        return self._known[plan] if plan in self._known else self._judge(plan)


def _ending(lane: LayerwiseEnv, action: Any) -> Plan | None:
    """The plan that ``action`` completes; ``None`` before the last group. Nothing is changed.

    Raises:
        EnvError: as :meth:`LayerwiseEnv.step`.
    """
    episode = lane.episode
    decision = lane.coding.decode(action, episode.group)
    if len(episode.decisions) + 1 < len(lane.task):
        return None
    last = copy.deepcopy(episode)
    last.decide(decision)
    return last.plan


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    known = {m.value: m for m in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if mode not in known:
        raise unknown_name("autoreset mode", str(mode), known)
    return known[mode]
