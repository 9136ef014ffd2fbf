"""``autoprune/Refine-v0``: a whole plan is changed group by group, and judged after each change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autoprune.envs import render
from autoprune.envs.episode import Episode
from autoprune.envs.features import Floats
from autoprune.envs.layerwise import Judge
from autoprune.envs.refining import DEFAULT_STEP, Decisions, Moves, arranged
from autoprune.envs.rewards import Result, Reward
from autoprune.envs.scoring import Scoring
from autoprune.envs.standing import Sight, Stand, StandView
from autoprune.envs.starts import STARTS, decisions_of, given
from autoprune.envs.task import Task
from autoprune.envs.tasks import BudgetLike, make_task
from autoprune.errors import BudgetError, EnvError, SettingsError, unknown_name
from autoprune.outcome import Outcome
from autoprune.plan import Plan

KINDS = ("discrete", "multidiscrete")
CREDITS = ("current", "best")
OPTIONS = ("start", "plan", "reconstruction", "forget")


class RefineEnv(gymnasium.Env[Floats, Any]):
    """Local search over plans, seen as a Markov decision process.

    An episode begins with a whole plan, judged at :meth:`reset`, and lasts ``evaluations`` steps. A step changes one
    group by one move and judges the plan that comes out; the agent goes on from there, whether it is better or not.

    **Moves** of a group (:class:`autoprune.envs.refining.Moves`): ``more`` and ``less`` of its units go, by one step,
    which is the share ``step`` of the counts that it may lose, at least one of them; where the space has several
    methods, ``method NAME`` ranks its units by that method. A move that changes nothing is paid 0.

    **Budget**: no plan over budget is ever judged. With ``rebalance``, a change that leaves the budget unmet is paid
    for by the other groups, which all lose more by the same least amount. Where they cannot, and always without
    ``rebalance``, it is refused: the plan stays, and the reward is minus the largest ``value / limit - 1``.

    **Action** by ``actions``: ``discrete`` ``Discrete(G * M)``, that is ``group * M + move``; ``multidiscrete``
    ``MultiDiscrete([G, M])``. :meth:`action_masks` leaves out moves that would not change the plan.

    **Observation** ``Box(0, 1, (G * F + 4,), float32)``, a new array at each step: of each group in order the four
    numbers below and, where the space has several methods, a one for its method among zeros; then four of the plan.

    ========  =================================================================================  ====================
    name      meaning                                                                            unit
    ========  =================================================================================  ====================
    kept      units that stay                                                                    share of its units
    place     how far it is pruned: 0 where nothing is removed, 1 where the most is              share of its counts
    units     units before pruning                                                               share of all units
    saving    multiply-accumulates that go with the most of its units, were it alone             share of dense
    ========  =================================================================================  ====================
    cost      cost over its limit, the largest of the budget's metrics (macs: without a budget)  share of the limit
    accuracy  validation accuracy of the plan as it is, 0 where it could not be judged           fraction
    best      validation accuracy of the best plan of the episode                                fraction
    left      steps that are left                                                                share of all steps
    ========  =================================================================================  ====================

    **Reward** with ``credit="current"``: what the plan is worth by ``reward`` (:data:`autoprune.envs.REWARDS`) less
    what the one before was, so that an episode adds up to what was won from its start to its end. With ``"best"``: by
    how much it is worth more than the best plan so far, or 0, so that an episode adds up to what its best plan won. A
    reward that is a gain itself (``hypervolume``) is paid as it is.

    **Info**: ``plan``, ``cost`` (shares of the dense network's) and ``outcome`` of the plan as it is, and ``left``, the
    number of steps; of a step also ``group``, ``move`` and ``status`` (``changed``, ``same`` or ``refused``); of the
    last one also ``best``: plan, point of the search space (``values``), cost, outcome and ``worth`` of the best plan.
    All JSON-ready and without times. There is no ``outcome`` where the judge refused the plan of :meth:`reset`.

    **End** after ``evaluations`` steps, always terminated, never truncated: how many there are belongs to the task,
    and those left are observed. A step that judges nothing uses one up all the same.

    **Randomness** there is in ``start="random"`` alone, drawn from ``np_random``.

    Args:
        task, budget, task_options: as of :func:`autoprune.envs.make_task`.
        reward: a name, ``package.module:function``, or a function of a :class:`~autoprune.envs.Result`.
        actions: ``discrete`` or ``multidiscrete``.
        start: what an episode begins with (:data:`autoprune.envs.starts.STARTS`): ``uniform``, the same sparsity in
            every group that just meets the budget; ``random``; or ``dense``, for tasks without a budget.
        evaluations: steps of an episode; the plan that it begins with is judged besides.
        step: share of what a group may lose that ``more`` and ``less`` go, in (0, 1].
        rebalance: whether other groups pay for a change that leaves the budget unmet.
        credit: ``current`` or ``best``.
        judge: judges plans in place of the task's objective; where it gives ``None`` the change is refused.
        render_mode: ``ansi`` or ``rgb_array``.

    Raises:
        UnknownNameError: a task, option, reward, start or other name that does not exist.
        SettingsError: an option outside what it may be.
        BudgetError: a budget that cannot be read or met, or ``start="dense"`` with one.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium's

    def __init__(
        self,
        task: str | Task = "digits",
        *,
        budget: BudgetLike | EllipsisType = ...,
        reward: str | Callable[[Result], float] | Reward = "accuracy",
        actions: str = "discrete",
        start: str = "uniform",
        evaluations: int = 32,
        step: float = DEFAULT_STEP,
        rebalance: bool = True,
        credit: str = "current",
        judge: Judge | None = None,
        render_mode: str | None = None,
        **task_options: Any,
    ) -> None:
        if render_mode is not None:
            _known("render mode", render_mode, self.metadata["render_modes"])
        _known("kind of action", actions, KINDS)
        _known("credit", credit, CREDITS)
        if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 1:
            raise SettingsError(f"evaluations must be a whole number from 1 on, but got {evaluations!r}")
        self.task = make_task(task, budget=budget, **task_options)
        self.scoring = Scoring(self.task, reward)
        self.moves = Moves(self.task, step, rebalance=rebalance)
        self.start, self.evaluations, self.credit, self.render_mode = start, evaluations, credit, render_mode
        self._judge: Judge = judge or self.task.objective
        self._fixed: dict[str, Decisions] = {}
        self._begin(start)
        self.metadata = {**type(self).metadata, "nondeterministic": self.scoring.measured}
        self._sight = Sight(self.task)
        self.observation_space = spaces.Box(0.0, 1.0, (self._sight.size,), np.float32)
        sizes = [len(self.task), len(self.moves.names)]
        self.action_space: spaces.Space[Any] = (
            spaces.Discrete(sizes[0] * sizes[1]) if actions == "discrete" else spaces.MultiDiscrete(sizes)
        )
        self._now: Stand | None = None
        self._best: Stand | None = None
        self._rewards: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin an episode; the plan it begins with is judged.

        Args:
            seed: begins anew: also the front of earlier episodes is forgotten, so that equal seeds repeat everything.
            options: ``start``, another one; or ``plan``, a plan, its dictionary, or a point of the space by name;
                ``reconstruction``, the repair of this episode's plans, one of the space; ``forget``: whether the front
                of earlier episodes is forgotten.

        Raises:
            UnknownNameError: another option, or a name that does not exist.
            EnvError: a start and a plan.
            PlanError: a plan that is not one of the space.
            BudgetError: a plan over budget.
        """
        options = options or {}
        for name in options:
            _known("option of reset:", name, OPTIONS)
        super().reset(seed=seed)
        start = self._started(options)
        if seed is not None or options.get("forget"):
            self.scoring.forget()
        plan = start.plan
        self._now, _ = self._worth(start, plan, self._judge(plan))
        self._best, self._rewards = self._now, []
        return self._seen(), {"reconstruction": start.reconstruction, **self._now.told(), "left": self.left}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Change one group; the plan that comes out is judged.

        Raises:
            EnvError: an action that is not of the action space (nothing is changed then), no :meth:`reset` before it,
                or an episode that has ended.
        """
        now = self.now
        if not self.left:
            raise EnvError("the episode has ended; call reset() before the next step()")
        group, move = self._read(action)
        status, reward = self._change(now, group, move)
        self._rewards.append(reward)
        info: dict[str, Any] = {"group": self.task.space.groups[group].name, "move": self.moves.names[move]}
        info |= {"status": status, **self.now.told(), "left": self.left}
        if not self.left:
            info["best"] = {**self.best.told(), "values": self.best.episode.values, "worth": self.best.worth}
        return self._seen(), reward, not self.left, False, info

    @property
    def now(self) -> Stand:
        """The plan as it is.

        Raises:
            EnvError: no episode has begun.
        """
        if self._now is None:
            raise EnvError("no episode has begun; call reset() before the first step()")
        return self._now

    @property
    def best(self) -> Stand:
        """The best plan of the episode, the first of equal ones; raises as :attr:`now`."""
        return self._best or self.now

    @property
    def left(self) -> int:
        """Steps that are left."""
        return self.evaluations - len(self._rewards)

    @property
    def values(self) -> dict[str, float | str]:
        """The point of the plan as it is; raises as :attr:`now`."""
        return self.now.episode.values

    @property
    def plan(self) -> Plan:
        """The plan as it is; raises as :attr:`now`."""
        return self.now.plan

    @property
    def outcome(self) -> Outcome | None:
        """Outcome of the plan as it is, timings included; raises as :attr:`now`."""
        return self.now.outcome

    def action_masks(self) -> NDArray[np.bool_]:
        """``True`` for each action that changes the plan (sb3-contrib's protocol); raises as :attr:`now`.

        For ``multidiscrete`` the masks of groups and of moves one after the other: ``True`` where any of the other
        entry's goes with it. Where nothing can be changed, all are ``True``.
        """
        masks = self.moves.masks(self.now.decisions)
        masks |= not masks.any()
        return masks.reshape(-1) if self._discrete else np.concatenate([masks.any(axis=1), masks.any(axis=0)])

    def render(self) -> Any:
        """The plan as it is: text (``ansi``), or a picture ``[H, W, 3]`` uint8 (``rgb_array``)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode; make the environment with render_mode='ansi'")
            return None
        now, rewards = self.now, tuple(self._rewards)
        view = StandView(self.task, now.episode, rewards, now.outcome, self.evaluations, self.best.accuracy)
        return render.text(view) if self.render_mode == "ansi" else render.picture(view)

    @property
    def _discrete(self) -> bool:
        return isinstance(self.action_space, spaces.Discrete)

    def _started(self, options: dict[str, Any]) -> Episode:
        """What the episode begins with."""
        if "plan" not in options:
            return arranged(self.task, self._begin(options.get("start", self.start)), options.get("reconstruction"))
        if "start" in options:
            raise EnvError("reset() takes a start or a plan, but got both; leave one out")
        values = given(self.task, options["plan"])
        repair = options.get("reconstruction", values.get("reconstruction"))
        return self._within(arranged(self.task, decisions_of(self.task, values), repair), "the plan to begin with")

    def _begin(self, start: str) -> Decisions:
        """The decisions of a start; those that are not drawn are found once."""
        _known("start", start, STARTS)
        if start in self._fixed:
            return self._fixed[start]
        found = decisions_of(self.task, STARTS[start](self.task, self.np_random))
        if start != "random":
            self._within(arranged(self.task, found), f"start {start!r}")
            self._fixed[start] = found
        return found

    def _within(self, episode: Episode, what: str) -> Episode:
        excess = self.scoring.excess(episode.plan)
        if excess > 0:
            raise BudgetError(
                f"{what} must meet the budget, but misses it by {excess:.1%}; remove more, or give budget=None"
            )
        return episode

    def _read(self, action: Any) -> tuple[int, int]:
        """Group and move."""
        told = np.asarray(action)
        if told.shape != self.action_space.shape or told.dtype.kind not in "iu":
            raise EnvError(f"an action must be of {self.action_space}, but got {action!r}")
        if not self.action_space.contains(told.astype(np.int64)):
            raise EnvError(f"an action must be in {self.action_space}, but got {told.tolist()}")
        group, move = divmod(int(told), len(self.moves.names)) if self._discrete else (int(told[0]), int(told[1]))
        return group, move

    def _change(self, now: Stand, group: int, move: int) -> tuple[str, float]:
        """Take a move from ``now``: what became of it, and its reward."""
        wanted = self.moves.moved(now.decisions, group, move)
        if wanted == now.decisions:
            return "same", 0.0
        found = self.moves.settled(wanted, group)
        if found is None:
            return "refused", -self.scoring.excess(arranged(self.task, wanted).plan)
        episode = arranged(self.task, found, now.episode.reconstruction)
        plan = episode.plan
        outcome = self._judge(plan)
        if outcome is None:
            return "refused", 0.0
        best = self.best
        self._now, paid = self._worth(episode, plan, outcome)
        self._best = self._now if self._now.worth > best.worth else best
        if self.scoring.reward.front is not None:
            return "changed", paid
        gain = self._now.worth - now.worth
        return "changed", gain if self.credit == "current" else max(0.0, self._now.worth - best.worth)

    def _worth(self, episode: Episode, plan: Plan, outcome: Outcome | None) -> tuple[Stand, float]:
        """A plan with what it is worth, and what the reward function pays for it."""
        paid = self.scoring.pay(plan, outcome)
        if self.scoring.reward.front is None:
            return Stand(episode, plan, outcome, paid), paid
        return Stand(episode, plan, outcome, 0.0 if outcome is None else outcome.accuracy or 0.0), paid

    def _seen(self) -> Floats:
        return self._sight.of(self.now, self.best, self.left / self.evaluations)


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise unknown_name(kind, str(name), known)
