"""The layer-by-layer environment: both checkers, every kind of action, what it pays and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3

from autoprune.envs import ACTIONS, IDS, REWARDS, BudgetClip, LayerwiseEnv, RecordOutcomes, make_task
from autoprune.envs.testing import CHECKS, rollout
from autoprune.errors import EnvError, PlanError, SettingsError, UnknownNameError
from autoprune.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERWISE = "autoprune/Layerwise-v0"
METHODS = ["l1_norm", "l2_norm"]
UNDRAWN = [CHECKS[name] for name in CHECKS if name not in ("draws_itself", "follows_gymnasium")]  # pictures are slow
QUICK = {"task": "known_answer", "groups": 4, "methods": METHODS}


def make(name: str = LAYERWISE, clip: bool = False, **options: Any) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(name, **options)
    return BudgetClip(env) if clip else env


def finish(env: gymnasium.Env[Any, Any], action: Any = None) -> tuple[float, dict[str, Any]]:
    """Reward and info of the last step, by one action or by random ones."""
    done, reward, info = False, 0.0, {}
    while not done:
        _, reward, done, _, info = env.step(env.action_space.sample() if action is None else action)
    return float(reward), info


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", [name for name in IDS if name != "autoprune/Runtime-v0"])
def test_every_id_keeps_the_contract(name: str, check: Callable[..., None]) -> None:
    check(partial(gymnasium.make, name, **QUICK))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_default_task_keeps_the_contract(check: Callable[..., None]) -> None:
    check(partial(gymnasium.make, LAYERWISE))


@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_kind_of_action_keeps_the_contract(actions: str, clip: bool) -> None:
    for check in UNDRAWN:
        check(partial(make, clip=clip, actions=actions, **QUICK))


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_keeps_the_contract(reward: str) -> None:
    for check in UNDRAWN:
        check(partial(make, reward=reward, budget=None, **QUICK))  # the latency of this problem can be repeated


def test_dense_rewards_keep_the_contract() -> None:
    for check in UNDRAWN:
        check(partial(make, dense_reward=True, reconstruction="mauch_yang"))


def test_episodes_that_retrain_keep_the_contract() -> None:
    for name in ("repeats_with_its_seed", "restarts_in_the_middle", "tells_in_json"):
        CHECKS[name](partial(make, retrain_steps=2, retrain_batch_size=16, resample_retraining=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("actions", ACTIONS)
def test_gymnasium_finds_nothing(actions: str) -> None:
    check_env(gymnasium.make(LAYERWISE, actions=actions, **QUICK).unwrapped, skip_render_check=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrap", [lambda env: env, BudgetClip, lambda env: RecordOutcomes(BudgetClip(env))])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("task", [{}, QUICK], ids=["digits", "known_answer"])
def test_stable_baselines_finds_nothing(task: dict[str, Any], actions: str, wrap: Callable[[Any], Any]) -> None:
    check_sb3(wrap(gymnasium.make(LAYERWISE, actions=actions, **task)))


@pytest.mark.parametrize("task", ["digits", "known_answer"])
@pytest.mark.parametrize("reconstruction", ["none", "mauch_yang"])
def test_the_last_reward_is_that_of_the_plan_judged_directly(task: str, reconstruction: str) -> None:
    env = make(task=task, clip=True, reconstruction=reconstruction)
    env.action_space.seed(0)
    for _ in range(3):
        env.reset()
        reward, info = finish(env)
        plan = Plan.from_dict(info["plan"])
        assert plan.reconstruction == reconstruction
        assert reward == make_task(task, reconstruction=reconstruction).objective(plan).accuracy
        assert make_task(task, reconstruction=reconstruction).space.plan(info["values"]) == plan


def test_steps_tell_what_was_achieved_and_what_it_costs() -> None:
    env: Any = make(task="digits", budget=None, round_to=4).unwrapped
    env.reset(seed=0)
    task, removed = env.task, {}
    for group in task.space.groups:
        _, _, _, _, info = env.step(np.array([0.1], np.float32))
        asked = 0.55 * group.max_sparsity * group.size
        removed[group.name] = info["removed"]
        assert info["group"] == group.name
        assert info["removed"] == min(group.removals, key=lambda k: (abs(k - asked), k))
        assert (group.size - info["removed"]) % 4 == 0
        assert info["sparsity"] == info["removed"] / group.size
        params, macs = task.objective.graph.cost(removed)
        assert info["cost"]["macs"] == macs / task.objective.graph.macs
        assert info["cost"]["params"] == params / task.objective.graph.params
        assert env.values == {
            f"sparsity/{name}": k / task.objective.graph.groups[name].size for name, k in removed.items()
        }
        assert task.objective.removed(env.plan) == {name: k for name, k in removed.items() if k}


def test_methods_and_levels_come_out_as_they_were_asked_for() -> None:
    problem = {"task": "known_answer", "groups": 2, "methods": METHODS, "budget": None}
    done: dict[str, Plan] = {}
    for actions, asked in {
        "sparsity_method": ([0.0, -0.5], [0.0, 0.5]),
        "multidiscrete": ([5, 0], [5, 1]),
        "discrete": (5, 16),  # eleven levels: 5 of the first method, 5 of the second
    }.items():
        env: Any = make(actions=actions, **problem)
        env.reset(seed=0)
        env.step(asked[0] if isinstance(asked[0], int) else np.array(asked[0]))
        _, _, ended, _, info = env.step(asked[1] if isinstance(asked[1], int) else np.array(asked[1]))
        assert ended
        done[actions] = Plan.from_dict(info["plan"])
        assert [d.method for d in done[actions].decisions] == METHODS
    assert len(set(done.values())) == 1


def test_a_plan_over_budget_is_refused_unseen() -> None:
    seen: list[Plan] = []
    env: Any = LayerwiseEnv("known_answer", budget=["macs=0.5", "params=0.4"], judge=lambda plan: seen.append(plan))
    env.reset(seed=0)
    reward, info = finish(env, np.array([-1.0], np.float32))
    assert (reward, info.get("outcome"), seen) == (pytest.approx(-(1 / 0.4 - 1)), None, [])
    env.reset()
    reward, info = finish(env, np.array([1.0], np.float32))
    assert (reward, info.get("outcome"), len(seen)) == (0.0, None, 1)


def test_a_refused_plan_is_paid_less_than_any_network() -> None:
    """Rewards that are negative everywhere must not make a broken budget look good."""
    for reward in ("amc_macs", "amc_params", "retained", "hypervolume"):
        env = make(task="known_answer", reward=reward)
        env.reset(seed=0)
        over, _ = finish(env, np.array([-1.0], np.float32))
        env.reset()
        within, info = finish(env, np.array([1.0], np.float32))
        assert "outcome" in info
        assert over < within


def test_the_repair_is_fixed_for_an_episode() -> None:
    env = make(clip=True, reconstruction=["none", "mauch_yang"])
    for asked, expected in (({}, "none"), ({"reconstruction": "mauch_yang"}, "mauch_yang"), ({}, "none")):
        _, told = env.reset(options=asked)
        _, info = finish(env)
        assert (told["reconstruction"], info["values"]["reconstruction"]) == (expected, expected)
        assert info["plan"]["reconstruction"] == expected
    with pytest.raises(UnknownNameError, match="none"):
        env.reset(options={"reconstruction": "bias_only"})
    with pytest.raises(UnknownNameError, match="did you mean 'forget'"):
        env.reset(options={"forgets": True})


def test_retraining_is_seeded_by_the_episode_where_that_is_asked_for() -> None:
    options: dict[str, Any] = {"retrain_steps": 3, "retrain_batch_size": 16, "retrain_lr": 0.1}
    action = np.array([0.6], np.float32)

    def rewards(env: gymnasium.Env[Any, Any], seed: int) -> list[float]:
        env.reset(seed=seed)
        first = finish(env, action)[0]
        env.reset()
        return [first, finish(env, action)[0]]

    noisy, fixed = make(resample_retraining=True, **options), make(**options)
    assert rewards(noisy, 1) == rewards(noisy, 1)
    assert len({*rewards(noisy, 1), *rewards(noisy, 2)}) > 1
    assert len({*rewards(fixed, 1), *rewards(fixed, 2)}) == 1
    for wrong in ({"retrain_steps": 0}, {"retrain_steps": 2, "judge": lambda plan: None}):
        with pytest.raises(SettingsError, match="retrain_steps above 0"):
            LayerwiseEnv(resample_retraining=True, **wrong)


def test_errors_say_what_to_do() -> None:
    env: Any = make(**QUICK).unwrapped
    fresh = LayerwiseEnv(**QUICK)
    with pytest.raises(EnvError, match="call reset"):
        fresh.step(np.zeros(1, np.float32))
    env.reset(seed=0)
    with pytest.raises(EnvError, match="choose 'discrete'"):
        env.action_masks()
    finish(env)
    with pytest.raises(EnvError, match="has ended"):
        env.step(np.zeros(1, np.float32))
    for wrong, message in (
        ({"actions": "sparsities"}, "did you mean 'sparsity'"),
        ({"reward": "acuracy"}, "did you mean 'accuracy'"),
        ({"render_mode": "ascii"}, "unknown render mode 'ascii'"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            LayerwiseEnv(**QUICK, **wrong)
    with pytest.raises(PlanError, match="not in the space"):
        env.task.space.values(Plan.from_dict(rollout(make())[-1][-1]["plan"]))
