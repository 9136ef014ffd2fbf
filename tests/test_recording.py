"""Episodes of an agent from outside are trials of a study like all others."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from autoprune.envs import LayerwiseVectorEnv, make_task
from autoprune.errors import BudgetError, PlanError, SettingsError, StudyError
from autoprune.plan import Plan
from autoprune.search import recording, search
from autoprune.search.comparing import compare
from autoprune.search.ledger import Ledger
from autoprune.search.records import REJECTED
from autoprune.search.storage import Address
from autoprune.search.studies import open_study

GROUPS = 4


@pytest.fixture
def task():
    return make_task("known_answer", budget="macs=0.5", groups=GROUPS)


def play(env, episodes, seed=0, low=-1.0):
    """Random episodes; what each of them was paid."""
    draws, paid = np.random.default_rng(seed), []
    for _ in range(episodes):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, done, _, _ = env.step(draws.uniform(low, 1, 1).astype(np.float32))
        paid.append(reward)
    return paid


def own(records):
    return [r for r in records if not r.baseline]


def test_every_episode_is_a_trial_with_the_outcome_of_the_objective(task, tmp_path):
    with recording(task, agent="mine", run_dir=tmp_path / "run") as study:
        paid = play(study.env(), 5)
    records = own(study.result.trials)
    assert [r.controller for r in records] == ["mine"] * 5
    assert [r.accuracy for r in records] == pytest.approx(paid)
    assert [task.objective(r.plan).accuracy for r in records] == [r.accuracy for r in records]
    assert {r.baseline for r in study.result.trials} == {"", "uniform", "global", "greedy"}
    assert all((r.decided_s > 0) is not bool(r.baseline) for r in study.result.trials)
    assert study.result.best.accuracy == max(r.accuracy for r in study.result.trials)
    assert [row.name for row in study.result.rows] == ["dense", "uniform", "global", "greedy", "best found"]


def test_a_recording_goes_on(task, tmp_path):
    for count in (3, 5):
        with recording(task, agent="mine", run_dir=tmp_path / "run") as study:
            play(study.env(), count, seed=count)
    assert len(own(study.result.trials)) == 8
    assert [r.number for r in study.result.trials] == list(range(11))


def test_what_was_recorded_stays_when_the_agent_fails(task, tmp_path):
    def fail():
        with recording(task, agent="mine", run_dir=tmp_path / "run") as study:
            play(study.env(), 2)
            raise RuntimeError("lost its way")

    with pytest.raises(RuntimeError, match="lost its way"):
        fail()
    records = Ledger.read(Address.of(tmp_path / "run", None), "run").records()
    assert len(own(records)) == 2
    assert all(r.finished for r in records)


def test_a_recording_is_a_judge_for_other_environments(task):
    with recording(task, agent="mine") as study:
        env = gymnasium.make("autoprune/Layerwise-v0", task=task, judge=study)
        paid = play(env, 2, low=0.9)
        envs = LayerwiseVectorEnv(3, task=task, judge=study, autoreset_mode="Disabled")
        envs.reset(seed=0)
        for _ in range(GROUPS):
            _, rewards, *_ = envs.step(np.array([[0.9], [1.0], [0.95]], np.float32))
    accuracies = [r.accuracy for r in own(study.result.trials)]
    assert accuracies[:2] == pytest.approx(paid)
    assert accuracies[2:] == pytest.approx(rewards)


def test_plans_over_the_budget_are_recorded_as_rejected_where_they_are_allowed(task):
    with recording(task, agent="mine", handling="reject") as study:
        env = study.env()
        env.reset(seed=0)
        for _ in range(GROUPS):
            _, reward, done, _, _ = env.step(np.array([-1.0], np.float32))
    assert done
    assert reward < 0
    (record,) = own(study.result.trials)
    assert record.status == REJECTED
    assert record.outcome is None


def test_its_environment_passes_the_checkers(task):
    with recording(task, agent="mine") as study, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")  # that is what is meant
        check_env(study.env(), skip_render_check=True)
        check_env_sb3(study.env(), skip_render_check=True)


def test_it_stands_beside_searches(task, tmp_path):
    with recording(task, agent="mine", run_dir=tmp_path / "mine") as study:
        play(study.env(), 6)
    search(task.objective, budget="macs=0.5", space=task.space, trials=6, run_dir=tmp_path / "tpe", confirm=False)
    found = compare([open_study(tmp_path / name) for name in ("mine", "tpe")])
    assert [group.label for group in found.groups] == ["mine", "tpe"]
    assert found.evaluations == 6
    assert all(group.deciding(6) > 0 for group in found.groups)


def test_what_cannot_be_recorded_is_refused(task, tmp_path):
    def enter(*args, **kwargs):
        with recording(*args, **kwargs):
            pytest.fail("entered")

    with pytest.raises(BudgetError, match="needs a task with a budget"):
        enter(make_task("known_answer", budget=None, groups=GROUPS), agent="mine")
    for name in ("", None, " "):
        with pytest.raises(SettingsError, match="agent must be a name"):
            enter(task, agent=name)
    with pytest.raises(SettingsError, match="'sac' is the name of a controller"):
        enter(task, agent="sac")
    with recording(task, agent="mine", run_dir=tmp_path / "run") as study:
        with pytest.raises(PlanError):
            study(Plan.uniform(task.objective.graph, method="fpgm", sparsity=0.5))
        with pytest.raises(StudyError, match="another"):
            enter(task, agent="mine", run_dir=tmp_path / "run")
    with pytest.raises(StudyError, match="recording is over"):
        study.env()
    with pytest.raises(StudyError, match="budget"):
        enter(make_task("known_answer", budget="macs=0.6", groups=GROUPS), agent="mine", run_dir=tmp_path / "run")
