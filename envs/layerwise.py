"""``autoprune/Layerwise-v0``: a network is pruned group by group, and judged once at the end."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autoprune.envs import render
from autoprune.envs.actions import get_coding
from autoprune.envs.episode import Decision, Episode
from autoprune.envs.features import FEATURES, Floats
from autoprune.envs.rewards import Result, Reward
from autoprune.envs.scoring import Scoring, without_timings
from autoprune.envs.task import Task
from autoprune.envs.tasks import BudgetLike, make_task
from autoprune.errors import EnvError, SettingsError, unknown_name
from autoprune.outcome import Outcome
from autoprune.plan import Plan

Judge = Callable[[Plan], Outcome | None]
OPTIONS = ("reconstruction", "forget")


class LayerwiseEnv(gymnasium.Env[Floats, Any]):
    """AMC's environment: an episode is one pass over the groups of a network, bottom up; a step decides one group.

    After the last step the plan is judged once by the task's objective, and paid. Source: Y. He, J. Lin, Z. Liu,
    H. Wang, L.-J. Li, S. Han, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", 2018.

    **Observation** ``Box(0, 1, (11,), float32)``, a new array at each step, about the group that is to be decided:

    ===  ========  ==============================================================================  ==================
    row  name      meaning                                                                         unit, scaled
    ===  ========  ==============================================================================  ==================
    0    t         place of the group in the order of the network                                  index, min-max
    1    n         units of the group before pruning                                               units, min-max
    2    c         inputs that one unit reads, summed over the layers that make the units          channels, min-max
    3    h         height of the input of these layers, the largest (1: a linear layer)            pixels, min-max
    4    w         width of the input of these layers, the largest (a linear layer's rows)         pixels, min-max
    5    stride    stride of these layers, the largest (1: a linear layer)                         pixels, min-max
    6    k         side of their kernel, the largest (1: a linear layer)                           pixels, min-max
    7    macs      their multiply-accumulates before pruning, summed                               macs, min-max
    8    reduced   multiply-accumulates that the decisions so far have saved                       share of dense
    9    rest      multiply-accumulates, before pruning, of the layers of groups that come later   share of dense
    10   previous  sparsity that the previous decision achieved, 0 at the first group              share of its units
    ===  ========  ==============================================================================  ==================

    Min-max is over the groups of the space, 0 where all agree. Each row has this one meaning in every step; after the
    last decision rows 0 to 7 stay those of the last group.

    **Action** by ``actions`` (:data:`autoprune.envs.ACTIONS`): ``sparsity`` ``Box(-1, 1, (1,))``, ``sparsity_method``
    ``Box(-1, 1, (2,))``, ``multidiscrete`` or ``discrete``, the last two with :meth:`action_masks`. What an agent asks
    for becomes the nearest count that the space allows; observations and infos tell what was achieved.

    **Reward** 0 until the last step, then that of ``reward`` (:data:`autoprune.envs.REWARDS`). A plan over budget is
    never judged: it is paid its largest ``value / limit - 1`` less than the least that a network can be paid (for
    ``accuracy``: ``-excess``); :class:`autoprune.envs.BudgetClip` makes that impossible. With ``dense_reward`` each
    step also pays minus the error of the layers that read the group, after repair, over the number of groups
    (:class:`autoprune.envs.shaping.LayerErrors`).

    **Info** of a step: ``group``, ``removed`` (units), ``sparsity`` (achieved), ``cost`` (shares of the dense
    network's, what is not decided left whole); of the last one also ``plan``, ``values`` (the point of the search
    space) and ``outcome`` (left out where the plan was refused), all JSON-ready and without times. Latencies and
    seconds are in :attr:`outcome`.

    **End** after ``len(space.groups)`` steps, always terminated, never truncated.

    **Randomness** there is none in an episode: outcomes depend on the plan alone, retraining is seeded by the task's
    ``seed``, and equal plans are judged once. With ``resample_retraining`` each :meth:`reset` draws the seed of the
    episode's retraining from ``np_random``, so that rewards carry its noise, and equal seeds of ``reset`` repeat it.
    Latency is measured, so that two processes may disagree: ``metadata["nondeterministic"]`` says where that matters.

    Args:
        task: a name in :data:`autoprune.envs.TASKS`, or a :class:`~autoprune.envs.Task`; with ``task_options`` as
            :func:`autoprune.envs.make_task` takes them: ``base``, ``model``, ``data``, ``methods``, ``round_to``, ...
        budget: ``"macs=0.5"`` unless a task brings its own; ``None`` for none.
        reward: a name, ``package.module:function``, or a function of a :class:`~autoprune.envs.Result`.
        actions: kind of action.
        dense_reward: pay the error of each decision as it is made.
        resample_retraining: a new seed of retraining for each episode.
        judge: judges plans in place of the task's objective; ``None`` from it refuses a plan.
        render_mode: ``ansi`` or ``rgb_array``.

    Raises:
        UnknownNameError: a task, option, reward, kind of action or render mode that does not exist.
        SettingsError: an option outside what it may be.
        BudgetError: a budget that cannot be read, or that the smallest sub-network does not meet.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium's

    def __init__(
        self,
        task: str | Task = "digits",
        *,
        budget: BudgetLike | EllipsisType = ...,
        reward: str | Callable[[Result], float] | Reward = "accuracy",
        actions: str = "sparsity",
        dense_reward: bool = False,
        resample_retraining: bool = False,
        judge: Judge | None = None,
        render_mode: str | None = None,
        **task_options: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown_name("render mode", render_mode, self.metadata["render_modes"])
        self.task = make_task(task, budget=budget, **task_options)
        self.scoring = Scoring(self.task, reward)
        self.coding = get_coding(actions, self.task.space)
        self.dense_reward, self.resample_retraining = dense_reward, resample_retraining
        self.render_mode = render_mode
        self._judge: Judge = judge or self.task.objective
        if dense_reward:
            self.task.errors.prepare()
        if resample_retraining:
            _check_resampling(self.task, judge)
        self.metadata = {**type(self).metadata, "nondeterministic": self.scoring.measured}
        self.observation_space = spaces.Box(0.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = self.coding.space
        self._episode: Episode | None = None
        self._rewards: list[float] = []
        self._outcome: Outcome | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin an episode with the dense network.

        Args:
            seed: begins anew: also the front of earlier episodes is forgotten, so that equal seeds repeat everything.
            options: ``reconstruction``, the repair of this episode's plan, one of the space; ``forget``: whether the
                front of earlier episodes is forgotten.

        Raises:
            UnknownNameError: another option, or a reconstruction that the space does not have.
        """
        options = options or {}
        for name in options:
            if name not in OPTIONS:
                raise unknown_name("option of reset:", name, OPTIONS)
        episode = Episode(self.task, options.get("reconstruction"))
        super().reset(seed=seed)
        if seed is not None or options.get("forget"):
            self.scoring.forget()
        if self.resample_retraining:
            objective: Any = self.task.objective
            self._judge = objective.reseeded(int(self.np_random.integers(2**31)))
        self._episode, self._rewards, self._outcome = episode, [], None
        return episode.observation(), {"reconstruction": episode.reconstruction, "cost": episode.ratios}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Decide the next group; after the last one the plan is judged and paid.

        Raises:
            EnvError: an action that is not of the action space (then nothing is changed), no :meth:`reset` before it,
                or an episode that has ended.
        """
        episode = self.episode
        group = episode.group
        decision = self.coding.decode(action, group)
        episode.decide(decision)
        removed = episode.removed[group.name]
        info = {"group": group.name, "removed": removed, "sparsity": removed / group.size, "cost": episode.ratios}
        reward = -self._layer_error(group.name, decision) if self.dense_reward else 0.0
        if episode.done:
            reward += self._end(info)
        self._rewards.append(reward)
        return episode.observation(), reward, episode.done, False, info

    @property
    def episode(self) -> Episode:
        """The episode that runs, or that has just ended.

        Raises:
            EnvError: no episode has begun.
        """
        if self._episode is None:
            raise EnvError("no episode has begun; call reset() before the first step()")
        return self._episode

    @property
    def values(self) -> dict[str, float | str]:
        """The point of the search space, as far as it is decided."""
        return self.episode.values

    @property
    def plan(self) -> Plan:
        """The plan of the decisions so far."""
        return self.episode.plan

    @property
    def outcome(self) -> Outcome | None:
        """Outcome of the episode that has just ended, timings included; ``None`` before, and for a refused plan."""
        return self._outcome

    def clipped(self, action: Any) -> Any:
        """The nearest action that keeps the budget within reach of the groups to come (they can lose their most).

        Raises:
            EnvError: as :meth:`step`.
        """
        group = self.episode.group
        decision = self.coding.decode(action, group)
        place = self.episode.clipped(decision.place)
        return action if place == decision.place else self.coding.encode(Decision(place, decision.method), group)

    def action_masks(self, *, within_budget: bool = False) -> NDArray[np.bool_]:
        """``True`` for each discrete action that is worth trying: no two do the same (sb3-contrib's protocol).

        For ``multidiscrete`` the masks of both entries one after the other.

        Args:
            within_budget: only what keeps the budget within reach.

        Raises:
            EnvError: actions that are not discrete, or as :meth:`step`.
        """
        return self.coding.masks(self.episode.group, self.episode.clipped(0) if within_budget else 0)

    def render(self) -> Any:
        """The plan so far: text (``ansi``), or a picture ``[H, W, 3]`` uint8 (``rgb_array``)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode; make the environment with render_mode='ansi'")
            return None
        view = render.View(self.task, self.episode, tuple(self._rewards), self._outcome)
        return render.text(view) if self.render_mode == "ansi" else render.picture(view)

    def _end(self, info: dict[str, Any]) -> float:
        plan = self.plan
        excess = self.scoring.excess(plan)
        self._outcome = None if excess > 0 else self._judge(plan)
        info |= {"plan": plan.to_dict(), "values": self.values}
        if self._outcome is not None:  # gymnasium's vector environments cannot join None and a dictionary
            info["outcome"] = without_timings(self._outcome)
        return self.scoring.pay(plan, self._outcome, excess)

    def _layer_error(self, group: str, decision: Decision) -> float:
        method = self.task.space.methods[decision.method]
        error = self.task.errors.of(group, method, self.episode.removed[group], self.episode.reconstruction)
        return error / len(self.task)


def _check_resampling(task: Task, judge: Judge | None) -> None:
    steps = getattr(getattr(getattr(task.objective, "settings", None), "finetune", None), "steps", 0)
    if judge is not None or not steps:
        raise SettingsError(
            "resample_retraining draws the seed of each episode's retraining: "
            "it needs a task with retrain_steps above 0, and no judge of its own"
        )
