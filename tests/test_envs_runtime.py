"""The environment of runtime pruning: both checkers, what it pays, many images together, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from runtime_toy import toy_task
from stable_baselines3.common.env_checker import check_env as check_sb3
from torch import nn

from autoprune.data import DataSplits
from autoprune.envs import RuntimeEnv, RuntimeTask, RuntimeVectorEnv, make_runtime_task
from autoprune.envs.passage import Pay
from autoprune.envs.testing import CHECKS
from autoprune.errors import ChainError, EnvError, SettingsError, UnknownNameError
from autoprune.objective import Objective

pytestmark = pytest.mark.usefixtures("one_thread")

RUNTIME = "autoprune/Runtime-v0"
FITTING = {name: check for name, check in CHECKS.items() if name != "tells_what_the_objective_says"}
MODES = [mode.value for mode in AutoresetMode]
NUMBER = 5


@pytest.mark.parametrize("check", FITTING.values(), ids=FITTING)
def test_it_keeps_the_contract(check: Callable[..., None]) -> None:
    check(partial(gymnasium.make, RUNTIME))


def test_their_checker_finds_nothing() -> None:
    check_sb3(RuntimeEnv())


def test_rewards_are_those_of_the_paper() -> None:
    task = toy_task()
    env = RuntimeEnv(task, penalty=-0.1, alpha=0.1)
    env.reset(options={"index": 3})
    _, first, done, _, info = env.step(2)
    assert (first, done) == (pytest.approx(-0.2), False)
    assert info["groups"] == 3
    _, last, done, _, info = env.step(1)
    x, y = task.data.train.inputs(slice(3, 4)), int(task.data.train.y[3])
    with torch.no_grad():
        logits = task.chain(x, [3, 2])
    loss = float(nn.functional.cross_entropy(logits, torch.tensor([y])))
    assert done
    assert last == pytest.approx(-0.1 - 0.1 * loss, rel=1e-5)
    assert (info["label"], info["prediction"]) == (y, int(logits.argmax()))
    assert info["macs"] == pytest.approx(int(task.chain.macs([3, 2])) / task.chain.dense_macs)
    assert info["loss"] == pytest.approx(loss, rel=1e-5)


def test_observations_are_what_a_controller_takes() -> None:
    task = make_runtime_task("digits")
    env = RuntimeEnv(task)
    seen, info = env.reset(seed=0)
    walk = task.chain.begin(task.data.train.inputs(slice(info["index"], info["index"] + 1)))
    pooled = [walk.pooled]
    widths = task.chain.channels
    assert seen[-1] == 0
    assert np.allclose(seen[: widths[0]], pooled[0].detach())
    assert not seen[widths[0] :].any()
    after, *_ = env.step(1)
    walk = walk.step(torch.tensor([2]))
    assert after[-1] == 1
    assert np.array_equal(after[: widths[0]], seen[: widths[0]])
    assert np.allclose(after[widths[0] : -1], walk.pooled.detach(), atol=1e-6)


def test_alpha_makes_the_mean_loss_one() -> None:
    task = make_runtime_task("digits")
    envs = RuntimeVectorEnv(200, task=task, penalty=0.0, split="calibration", autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.action_space.seed(0)
    paid = [envs.step(envs.action_space.sample())[1] for _ in range(len(task))]
    assert -np.mean(np.sum(paid, 0)) == pytest.approx(1, abs=0.35)


def rollout(envs: VectorEnv[Any, Any, Any], steps: int = 7, seed: Any = 3) -> list[Any]:
    envs.action_space.seed(5)
    seen: list[Any] = [envs.reset(seed=seed)]
    for _ in range(steps):
        seen.append(envs.step(envs.action_space.sample()))
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and seen[-1][2].all():
            seen.append(envs.reset())
    return seen


def same(a: Any, b: Any) -> None:
    """Equal in structure and type; numbers up to rounding."""
    if isinstance(a, dict):
        assert list(a) == list(b) or set(a) == set(b)
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        same(list(a), list(b))
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_together_is_one_by_one(mode: str) -> None:
    mine = RuntimeVectorEnv(NUMBER, autoreset_mode=mode)
    theirs = SyncVectorEnv([RuntimeEnv] * NUMBER, autoreset_mode=mode)
    assert mine.single_observation_space == theirs.single_observation_space
    assert (mine.observation_space, mine.action_space) == (theirs.observation_space, theirs.action_space)
    for seed in (3, [7, 1, 7, 2, 0], None):
        same(rollout(mine, seed=seed), rollout(theirs, seed=seed))


def test_gymnasium_makes_it() -> None:
    envs = gymnasium.make_vec(RUNTIME, num_envs=3, vectorization_mode="vector_entry_point", penalty=-0.2)
    assert isinstance(envs, RuntimeVectorEnv)
    again = gymnasium.make_vec(gymnasium.envs.registration.EnvSpec.from_json(envs.spec.to_json()), num_envs=3)
    same(rollout(envs), rollout(again))


def test_it_takes_networks_of_ones_own(data: DataSplits, model: nn.Module) -> None:
    own = RuntimeTask.of(model, data, groups=2)
    assert RuntimeEnv(own).action_space.n == 2
    task = make_runtime_task(objective=Objective(model, data), groups=8, first=True)
    assert (task.chain.groups, len(task)) == (8, 3)


def test_bad_input(data: DataSplits, model: nn.Module) -> None:
    for penalty in (0.1, float("nan"), "much", True):
        with pytest.raises(SettingsError, match="penalty must be a number of at most 0"):
            RuntimeEnv(toy_task(), penalty=penalty)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="alpha must be a number above 0"):
        Pay(-0.1, 0.0)
    with pytest.raises(UnknownNameError, match=r"unknown task 'digit'; did you mean 'digits'"):
        RuntimeEnv("digit")
    with pytest.raises(UnknownNameError, match="unknown option of task 'digits': 'group'"):
        RuntimeEnv(group=3)
    with pytest.raises(UnknownNameError, match="unknown split 'tests'"):
        RuntimeEnv(toy_task(), split="tests")
    with pytest.raises(ChainError, match="has 32 channels, which cannot make 40 groups"):
        RuntimeEnv(groups=40)
    with pytest.raises(SettingsError, match="task 'cifar10' needs a trained network"):
        RuntimeEnv("cifar10")
    with pytest.raises(UnknownNameError, match="unknown render mode 'human'"):
        RuntimeEnv(toy_task(), render_mode="human")
    env = RuntimeEnv(toy_task())
    with pytest.raises(EnvError, match="no episode has begun"):
        env.step(0)
    with pytest.raises(UnknownNameError, match="unknown option of reset: 'image'"):
        env.reset(options={"image": 3})
    with pytest.raises(SettingsError, match="index must be a whole number from 0 to"):
        env.reset(options={"index": -1})
    env.reset(seed=0)
    for _ in range(2):
        env.step(0)
    with pytest.raises(EnvError, match="the episode has ended"):
        env.step(0)


def test_images_that_are_not_finite_are_named() -> None:
    task = toy_task()
    task.data.train.x[4, 0, 1, 1] = float("nan")
    env = RuntimeEnv(task, alpha=1.0)
    with pytest.raises(EnvError, match="image 4 of the train split holds NaN or infinite values"):
        env.reset(options={"index": 4})
    envs = RuntimeVectorEnv(3, task=task, alpha=1.0)
    with pytest.raises(EnvError, match="image 4 of the calibration split"):
        RuntimeEnv(task)
    with pytest.raises(EnvError, match="image 4 of the train split"):
        envs.reset(options={"index": [0, 4, 1]})


def test_many_refuse_together() -> None:
    for number in (0, True, 2.0):
        with pytest.raises(EnvError, match="num_envs must be a whole number from 1 on"):
            RuntimeVectorEnv(number, task=toy_task())  # type: ignore[arg-type]
    envs = RuntimeVectorEnv(2, task=toy_task(), autoreset_mode="Disabled")
    first, _ = envs.reset(seed=1)
    with pytest.raises(EnvError, match="2 episodes need as many actions"):
        envs.step(np.zeros(3, np.int64))
    with pytest.raises(EnvError, match="action must be a whole number from 0 to 3"):
        envs.step(np.array([0, 4]))
    with pytest.raises(EnvError, match="begin together"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    after, *_ = envs.step(np.array([0, 3]))
    assert np.array_equal(after[:, : first.shape[1] // 3], first[:, : first.shape[1] // 3])
