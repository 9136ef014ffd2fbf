"""Many episodes together: the same as one by one, with their plans judged in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.envs import ACTIONS, BudgetClip, BudgetClipVector, LayerwiseEnv, LayerwiseVectorEnv, Task, make_task
from autoprune.envs.wrappers import RecordOutcomes
from autoprune.errors import BudgetError, EnvError, UnknownNameError
from autoprune.fitting import Target
from autoprune.outcome import Outcome
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERWISE = "autoprune/Layerwise-v0"
MODES = [mode.value for mode in AutoresetMode]
METHODS = ("l1_norm", "l2_norm")
QUICK = {"task": "known_answer", "groups": 3, "methods": list(METHODS)}
NUMBER = 4


def together(**options: Any) -> LayerwiseVectorEnv:
    return LayerwiseVectorEnv(NUMBER, **options)


def apart(mode: str = "NextStep", wrap: Callable[[Any], Any] = lambda env: env, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: wrap(LayerwiseEnv(**options))] * NUMBER, autoreset_mode=mode)


def rollout(envs: VectorEnv[Any, Any, Any], steps: int = 8, seed: Any = 3) -> list[Any]:
    """All that ``steps`` steps of random actions return; half of them remove hardly anything."""
    envs.action_space.seed(5)
    seen: list[Any] = [envs.reset(seed=seed)]
    for step in range(steps):
        action = envs.action_space.sample()
        if step >= steps / 2 and action.dtype.kind == "f":
            action = -np.abs(action)
        seen.append(envs.step(action))
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and seen[-1][2].all():
            seen.append(envs.reset())
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("more", [{}, {"reward": "hypervolume"}, {"dense_reward": True, "budget": ["macs=0.6"]}])
def test_it_is_what_single_environments_are(actions: str, mode: str, more: dict[str, Any]) -> None:
    options = {**QUICK, "actions": actions, **more}
    mine, theirs = together(autoreset_mode=mode, **options), apart(mode, **options)
    assert (mine.single_observation_space, mine.single_action_space) == (
        theirs.single_observation_space,
        theirs.single_action_space,
    )
    for seed in (3, [7, 1, 7, 2], None):
        assert data_equivalence(rollout(mine, seed=seed), rollout(theirs, seed=seed), exact=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("actions", ACTIONS)
def test_clipped_together_is_clipped_one_by_one(actions: str, mode: str) -> None:
    options = {**QUICK, "actions": actions}
    mine = BudgetClipVector(together(autoreset_mode=mode, **options))
    theirs = apart(mode, wrap=BudgetClip, **options)
    assert data_equivalence(rollout(mine), rollout(theirs), exact=True)
    if "discrete" in actions:
        for envs in (mine, theirs):
            envs.reset()
            for _ in range(2):
                envs.step(np.zeros_like(envs.action_space.sample()))
        masks = zip(mine.call("action_masks"), theirs.call("action_masks"), strict=True)
        assert all(np.array_equal(a, b) for a, b in masks)
        assert not all(np.array_equal(a, b) for a, b in zip(mine.call("action_masks"), _free(mine), strict=True))


def _free(envs: BudgetClipVector) -> Sequence[Any]:
    masks: tuple[Any, ...] = envs.base.call("action_masks")
    return masks


def test_a_network_gives_the_outcomes_it_gives_alone() -> None:
    """With a task of its own, so that nothing can be read that single environments have found."""
    task = make_task("digits", reconstruction="mauch_yang")
    objective: Any = task.objective
    fresh = Task(objective.reseeded(objective.settings.seed), task.space, task.target)
    mine, theirs = BudgetClipVector(together(task=fresh)), apart(wrap=BudgetClip, task=task)
    assert data_equivalence(rollout(mine, len(task)), rollout(theirs, len(task)), exact=True)
    assert all(outcome.ok for outcome in mine.call("outcome"))


@pytest.mark.parametrize("mode", ["async", "sync", "vector_entry_point", None])
def test_gymnasium_makes_it_in_every_way(mode: str | None) -> None:
    envs = gymnasium.make_vec(LAYERWISE, num_envs=2, vectorization_mode=mode, **QUICK)
    try:
        assert isinstance(envs, LayerwiseVectorEnv) is (mode in ("vector_entry_point", None))
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        steps = [step[:4] for step in rollout(envs, 4)]
        assert all(envs.observation_space.contains(step[0]) for step in steps)
        single = gymnasium.make_vec(LAYERWISE, num_envs=2, vectorization_mode="sync", **QUICK)
        assert data_equivalence(steps, [step[:4] for step in rollout(single, 4)], exact=True)
        again = gymnasium.make_vec(envs.spec)
        assert type(again) is type(envs)
        again.close()
    finally:
        envs.close()


class Counting(KnownAnswer):
    """Keeps what it was asked for together."""

    def __init__(self) -> None:
        super().__init__(3)
        self.asked: list[list[Plan]] = []

    def many(self, plans: Sequence[Plan]) -> list[Outcome]:
        self.asked.append(list(plans))
        return [self(plan) for plan in plans]


def task_of(problem: KnownAnswer, budget: Any = "macs=0.5") -> Task:
    task = make_task(objective=problem, budget=budget)
    problem.calls.clear()
    return task


def test_plans_are_judged_in_one_call_and_equal_ones_once() -> None:
    problem = Counting()
    envs = together(task=task_of(problem))
    actions = np.array([[1.0], [0.5], [1.0], [-1.0]], np.float32)  # the last one is over budget
    envs.reset(seed=0)
    for _ in range(3):
        *_, infos = envs.step(actions)
    assert [len(plans) for plans in problem.asked] == [2]
    assert problem.calls == problem.asked[0]
    assert infos["_outcome"].tolist() == [True, True, True, False]
    assert infos["outcome"]["accuracy"][0] == infos["outcome"]["accuracy"][2] != infos["outcome"]["accuracy"][1]


def test_without_many_plans_are_judged_one_by_one_and_equal_ones_once() -> None:
    problem = KnownAnswer(3)
    envs = together(task=task_of(problem))
    envs.reset(seed=0)
    for _ in range(3):
        _, rewards, *_ = envs.step(np.array([[1.0], [1.0], [0.5], [1.0]], np.float32))
    assert len(problem.calls) == 2
    assert rewards.tolist() == [problem.accuracy(problem.calls[place]) for place in (0, 0, 1, 0)]


def test_a_judge_is_asked_for_every_episode_in_order() -> None:
    problem, seen = KnownAnswer(2), []

    def judge(plan: Plan) -> Outcome | None:
        seen.append(plan)
        return problem(plan) if len(seen) != 2 else None

    envs = LayerwiseVectorEnv(3, task=task_of(problem), judge=judge)
    envs.reset(seed=0)
    for _ in range(2):
        _, rewards, _, _, infos = envs.step(np.array([[1.0], [0.8], [1.0]], np.float32))
    assert [seen[0], seen[2]] == [seen[0]] * 2 != [seen[1]] * 2
    assert (infos["_outcome"].tolist(), rewards[1]) == ([True, False, True], 0.0)

    counting = Counting()
    envs = LayerwiseVectorEnv(3, task=task_of(KnownAnswer(3)), judge=counting)
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(np.ones((3, 1), np.float32))
    assert [len(plans) for plans in counting.asked] == [1]


def test_an_action_that_cannot_be_taken_changes_no_episode() -> None:
    problem = Counting()
    envs = together(task=task_of(problem))
    fine = np.full((NUMBER, 1), 0.9, np.float32)
    expected = [envs.reset(seed=0), *(envs.step(fine) for _ in range(3))]
    for at in range(3):
        envs.reset(seed=0)
        found = [envs.step(fine) for _ in range(at)]
        wrong = fine.copy()
        wrong[-1] = np.nan
        with pytest.raises(EnvError, match="an action must"):
            envs.step(wrong)
        with pytest.raises(EnvError, match="4 episodes need as many actions"):
            envs.step(fine[:3])
        with pytest.raises(EnvError, match="as many actions"):
            envs.step(0.5)
        found += [envs.step(fine) for _ in range(3 - at)]
        assert data_equivalence(expected[1:], found, exact=True)
    assert len(problem.calls) == 4


def test_retraining_that_is_drawn_anew_is_that_of_single_environments() -> None:
    options = {"retrain_steps": 2, "retrain_batch_size": 16, "resample_retraining": True, "budget": None}
    steps = len(make_task("digits"))
    assert data_equivalence(rollout(together(**options), steps), rollout(apart(**options), steps), exact=True)


def test_some_episodes_begin_anew_by_a_mask() -> None:
    envs = together(autoreset_mode="Disabled", **QUICK)
    envs.reset(seed=0)
    action = np.ones((NUMBER, 1), np.float32)
    envs.step(action)
    mask = np.array([True, False, True, False])
    envs.reset(options={"reset_mask": mask})
    assert envs.step(action)[2].tolist() == [False] * 4
    assert envs.step(action)[2].tolist() == [False, True, False, True]
    with pytest.raises(EnvError, match="has ended"):
        envs.step(action)
    envs.reset(options={"reset_mask": ~mask})
    assert envs.step(action)[2].tolist() == [True, False, True, False]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_actions_exceed_the_budget(data: st.DataObject) -> None:
    problem = KnownAnswer(4, seed=data.draw(st.integers(0, 99), "problem"), methods=METHODS)
    space = SearchSpace.from_graph(problem.graph, methods=METHODS, round_to=data.draw(st.sampled_from([1, 4])))
    smallest = space.profile(problem).smallest
    ratios = smallest.ratios(problem.dense_cost)
    metrics = data.draw(st.lists(st.sampled_from(["macs", "params", "bytes"]), min_size=1, unique=True), "metrics")
    shares = {m: min(1.0, ratios[m] + data.draw(st.floats(0, 1 - ratios[m]), m)) for m in metrics}
    task = make_task(Task(problem, space, None), budget=shares)
    kind = data.draw(st.sampled_from(list(ACTIONS)), "actions")
    envs = BudgetClipVector(LayerwiseVectorEnv(2, task=task, actions=kind, autoreset_mode="Disabled"))
    envs.reset(seed=0)
    envs.action_space.seed(data.draw(st.integers(0, 99), "seed"))
    assert isinstance(task.target, Target)
    for _ in range(len(task)):
        action = envs.action_space.sample()
        lazy = -np.ones_like(action) if kind.startswith("sparsity") else np.zeros_like(action)
        *_, infos = envs.step(data.draw(st.sampled_from([action, lazy])))
    assert infos["_outcome"].all()
    for lane in envs.base.lanes:
        assert task.target.fits(lane.plan)


def test_wrappers_of_gymnasium_go_around_it() -> None:
    envs = RecordEpisodeStatistics(BudgetClipVector(together(autoreset_mode="SameStep", **QUICK)))
    *_, infos = rollout(envs, 3)[-1]
    assert infos["_episode"].all()
    assert infos["episode"]["l"].tolist() == [3] * NUMBER


def test_it_draws_every_episode() -> None:
    envs = together(render_mode="ansi", **QUICK)
    envs.reset(seed=0)
    drawn = envs.render()
    assert len(drawn) == NUMBER
    assert all("layer00" in text for text in drawn)


def test_errors_say_what_to_do() -> None:
    for number in (0, -1, True, 2.0):
        with pytest.raises(EnvError, match="num_envs must be a whole number from 1 on"):
            LayerwiseVectorEnv(number, **QUICK)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="SameStep"):
        together(autoreset_mode="Samestep", **QUICK)
    with pytest.raises(BudgetError, match="needs a budget"):
        BudgetClipVector(together(budget=None, **QUICK))
    with pytest.raises(EnvError, match=r"wrappers=\[BudgetClip\]"):
        BudgetClipVector(apart(**QUICK))
    with pytest.raises(EnvError, match="call reset"):
        together(**QUICK).step(np.ones((NUMBER, 1), np.float32))


def test_refused_and_judged_plans_go_side_by_side_in_gymnasiums_own() -> None:
    """The infos of an episode that was refused and of one that was not can be joined, whichever comes first."""
    for order in ([1.0, -1.0], [-1.0, 1.0]):
        envs = SyncVectorEnv([partial(LayerwiseEnv, "known_answer", groups=2)] * 2)
        envs.reset(seed=0)
        for _ in range(2):
            *_, infos = envs.step(np.array(order, np.float32)[:, None])
        assert infos["_outcome"].tolist() == [share > 0 for share in order]


def test_outcomes_can_be_recorded_one_by_one() -> None:
    envs = apart(wrap=RecordOutcomes, **QUICK)
    rollout(envs)
    assert all(len(env.rows) == 2 for env in envs.envs)
