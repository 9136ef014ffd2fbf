"""Episodes that are judged together, for stable-baselines3: the same as its own vector environment."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeReward
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from autoprune.envs import ACTIONS, BudgetClip, BudgetClipVector, LayerwiseEnv, LayerwiseVectorEnv
from autoprune.errors import EnvError
from autoprune.search.rl.vecenv import LayerwiseVecEnv

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {"task": "known_answer", "groups": 3, "methods": ["l1_norm", "l2_norm"]}
NUMBER = 3


def mine(clip: bool = False, **options: Any) -> LayerwiseVecEnv:
    envs = LayerwiseVectorEnv(NUMBER, autoreset_mode="SameStep", **{**QUICK, **options})
    return LayerwiseVecEnv(BudgetClipVector(envs) if clip else envs)


def theirs(clip: bool = False, **options: Any) -> DummyVecEnv:
    def make() -> Any:
        env = LayerwiseEnv(**{**QUICK, **options})
        return BudgetClip(env) if clip else env

    return DummyVecEnv([make] * NUMBER)


def rollout(envs: VecEnv, steps: int = 8) -> list[Any]:
    envs.action_space.seed(1)
    envs.seed(4)
    seen: list[Any] = [(envs.reset(), [dict(info) for info in envs.reset_infos])]
    for _ in range(steps):
        seen.append(envs.step(np.stack([envs.action_space.sample() for _ in range(NUMBER)])))
        seen.append([dict(info) for info in envs.reset_infos])
    return seen


@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_it_does_what_their_own_does(actions: str, clip: bool) -> None:
    a, b = mine(clip, actions=actions), theirs(clip, actions=actions)
    assert (a.observation_space, a.action_space) == (b.observation_space, b.action_space)
    for one, other in zip(rollout(a), rollout(b), strict=True):
        np.testing.assert_equal(one, other)
        if len(one) == 4:
            assert [part.dtype for part in one[:3]] == [part.dtype for part in other[:3]]
    if "discrete" in actions:
        assert is_masking_supported(a)
        assert np.array_equal(get_action_masks(a), get_action_masks(b))


def test_attributes_methods_and_options_go_to_the_single_environments() -> None:
    envs = mine(reconstruction=["none", "mauch_yang"])
    envs.set_options({"reconstruction": "mauch_yang"})
    envs.reset()
    assert [info["reconstruction"] for info in envs.reset_infos] == ["mauch_yang"] * NUMBER
    envs.step(np.ones((NUMBER, 1), np.float32))
    assert envs.get_attr("values", [1]) == envs.env_method("get_wrapper_attr", "values", indices=1)
    assert not any(envs.env_is_wrapped(BudgetClip))
    envs.set_attr("render_mode", "ansi", 0)
    assert envs.get_attr("render_mode") == ["ansi", None, None]
    envs.set_options([{"reconstruction": "none"}, {}, {}])
    with pytest.raises(EnvError, match="the same options"):
        envs.reset()


def test_it_draws_all_episodes_in_one_picture() -> None:
    envs = mine(render_mode="rgb_array")
    envs.reset()
    picture = envs.render("rgb_array")
    assert picture is not None
    assert picture.ndim == 3


@pytest.mark.parametrize(
    ("algorithm", "actions", "options"),
    [
        (PPO, "sparsity", {"n_steps": 6, "batch_size": 9}),
        (SAC, "sparsity_method", {"learning_starts": 6, "batch_size": 4}),
        (MaskablePPO, "discrete", {"n_steps": 6, "batch_size": 9}),
    ],
)
def test_their_agents_learn_on_it_as_on_their_own(algorithm: Any, actions: str, options: dict[str, Any]) -> None:
    found = []
    for make in (mine, theirs):
        envs = VecNormalize(VecMonitor(make(clip=True, actions=actions)))
        model = algorithm("MlpPolicy", envs, seed=0, device="cpu", **options).learn(36)
        assert all(episode["l"] == 3 for episode in model.ep_info_buffer)
        found.append({name: value.numpy().copy() for name, value in model.policy.state_dict().items()})
    np.testing.assert_equal(*found)


def test_vector_wrappers_of_gymnasium_go_between() -> None:
    plain = LayerwiseVectorEnv(NUMBER, autoreset_mode="SameStep", actions="discrete", **QUICK)
    envs = LayerwiseVecEnv(NormalizeReward(BudgetClipVector(plain)))
    clipped = LayerwiseVecEnv(BudgetClipVector(plain))
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(NUMBER, np.int64))
    assert np.array_equal(get_action_masks(envs), get_action_masks(clipped))
    assert not np.array_equal(get_action_masks(envs), get_action_masks(LayerwiseVecEnv(plain)))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(EnvError, match="autoreset_mode='SameStep'"):
        LayerwiseVecEnv(LayerwiseVectorEnv(2, **QUICK))
    with pytest.raises(EnvError, match="needs a LayerwiseVectorEnv, but got SyncVectorEnv"):
        LayerwiseVecEnv(SyncVectorEnv([partial(LayerwiseEnv, **QUICK)]))
