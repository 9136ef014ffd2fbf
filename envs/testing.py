"""What every environment must do, as checks to run on your own task or environment; each raises if it fails.

    >>> make = functools.partial(gymnasium.make, "autoprune/Layerwise-v0", task="known_answer")
    >>> for check in CHECKS.values():
    ...     check(make)

A check takes a function that makes the environment and passes keyword options on to it (``render_mode``).
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence

from autoprune.envs.scoring import without_timings
from autoprune.errors import EnvError
from autoprune.plan import Plan

Env = gymnasium.Env[Any, Any]
Make = Callable[..., Env]
Step = tuple[Any, float, bool, bool, dict[str, Any]]

EPISODES = 3


def rollout(env: Env, *, seed: int = 0, episodes: int = EPISODES) -> list[Any]:
    """Everything that ``episodes`` episodes of random actions return; the first begins with ``seed``."""
    env.action_space.seed(seed)
    seen: list[Any] = []
    for number in range(episodes):
        seen.append(env.reset(seed=seed if number == 0 else None))
        seen += _until_end(env)
    return seen


def follows_gymnasium(make: Make) -> None:
    """Gymnasium's own checker finds nothing, not even a warning."""
    env = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def repeats_with_its_seed(make: Make) -> None:
    """Equal seeds give equal roll-outs: in one environment after another roll-out, and in another environment."""
    env = make()
    first = rollout(env, seed=5)
    rollout(env, seed=6)
    assert data_equivalence(first, rollout(env, seed=5), exact=True)
    assert data_equivalence(first, rollout(make(), seed=5), exact=True)


def restarts_in_the_middle(make: Make) -> None:
    """An episode that was broken off leaves nothing behind."""
    env = make()
    fresh = rollout(env, seed=1, episodes=1)
    env.reset(seed=2)
    env.step(env.action_space.sample())
    assert data_equivalence(fresh, rollout(env, seed=1, episodes=1), exact=True)


def stays_in_its_spaces(make: Make) -> None:
    """Observations are in their space and rewards are finite Python floats, whatever is done; every episode ends."""
    env = make()
    for step in rollout(env):
        assert env.observation_space.contains(step[0])
        if len(step) == 5:
            assert type(step[1]) is float
            assert np.isfinite(step[1])
    for action in _extremes(env.action_space):
        env.reset(seed=0)
        done = False
        while not done:
            seen, _, terminated, truncated, _ = env.step(action)
            assert env.observation_space.contains(seen)
            done = terminated or truncated


def hands_out_its_own(make: Make) -> None:
    """What was handed out can be changed without a trace in what follows, and does not change by itself."""
    plain, spoilt = rollout(make(), seed=3), make()
    spoilt.action_space.seed(3)
    found: list[Any] = []
    for number in range(EPISODES):
        found.append(_spoiled(spoilt.reset(seed=3 if number == 0 else None)))
        done = False
        while not done:
            step = spoilt.step(spoilt.action_space.sample())
            done = step[2] or step[3]
            found.append(_spoiled(step))
    assert data_equivalence(plain, found, exact=True)


def tells_in_json(make: Make) -> None:
    """Infos are JSON, and hold no time."""
    for step in rollout(make()):
        info = step[-1]
        assert json.loads(json.dumps(info, allow_nan=False)) == info
        assert not {"seconds", "latency", "latency_ms"} & _keys(info)


def tells_what_the_objective_says(make: Make) -> None:
    """The outcome in the last info of an episode is that of its plan, judged directly."""
    env: Any = make()
    judge, told = env.unwrapped.task.objective, 0
    for step in rollout(env):
        if len(step) == 5 and step[-1].get("outcome") is not None:
            told += 1
            assert without_timings(judge(Plan.from_dict(step[-1]["plan"]))) == step[-1]["outcome"]
    assert told or env.unwrapped.task.target is not None


def refuses_wrong_actions(make: Make) -> None:
    """What is no action is refused with a reason, and nothing is changed."""
    env = make()
    env.reset(seed=4)
    env.action_space.seed(4)
    action = env.action_space.sample()
    expected = env.step(action)
    for wrong in _wrong(env.action_space):
        env.reset(seed=4)
        assert "action must" in _refusal(env, wrong)
        assert data_equivalence(expected, env.step(action), exact=True)


def goes_to_json_and_back(make: Make) -> None:
    """The spec of the environment is JSON, and what it makes behaves the same."""
    env = make()
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(rollout(env), rollout(again), exact=True)


def draws_itself(make: Make) -> None:
    """Every render mode draws at the beginning, after a step and at the end; what is drawn changes."""
    for mode in make().metadata["render_modes"]:
        env: Any = make(render_mode=mode)
        env.action_space.seed(0)
        env.reset(seed=0)
        drawn = [env.render()]
        env.step(env.action_space.sample())
        drawn.append(env.render())
        _until_end(env)
        drawn.append(env.render())
        assert all(_is_drawing(one, mode) for one in drawn)
        assert not np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[1], drawn[2])


CHECKS: dict[str, Callable[[Make], None]] = {
    check.__name__: check
    for check in (
        follows_gymnasium,
        repeats_with_its_seed,
        restarts_in_the_middle,
        stays_in_its_spaces,
        hands_out_its_own,
        tells_in_json,
        tells_what_the_objective_says,
        refuses_wrong_actions,
        goes_to_json_and_back,
        draws_itself,
    )
}


def _until_end(env: Env) -> list[Step]:
    """Steps of random actions to the end of the episode."""
    steps: list[Any] = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(env.action_space.sample()))
    return steps


def _is_drawing(drawn: Any, mode: str) -> bool:
    if mode == "ansi":
        return isinstance(drawn, str)
    return isinstance(drawn, np.ndarray) and drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3


def _refusal(env: Env, action: Any) -> str:
    """What the environment says to an action that is none; empty where it takes it."""
    try:
        env.step(action)
    except EnvError as error:
        return str(error)
    return ""


def _spoiled(returned: Any) -> Any:
    """A copy of ``returned``, which itself is overwritten."""
    kept = copy.deepcopy(returned)
    returned[0].fill(-7)
    returned[-1].clear()
    return kept


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in _keys(part)}
    if isinstance(value, list):
        return {key for part in value for key in _keys(part)}
    return set()


def _extremes(space: spaces.Space[Any]) -> list[Any]:
    if isinstance(space, spaces.Box):
        return [space.low, space.high]
    if isinstance(space, spaces.MultiDiscrete):
        return [np.zeros_like(space.nvec), space.nvec - 1]
    assert isinstance(space, spaces.Discrete)
    return [space.start, space.start + space.n - 1]


def _wrong(space: spaces.Space[Any]) -> list[Any]:
    if isinstance(space, spaces.Box):
        shape = space.shape
        full = [np.full(shape, bad, np.float32) for bad in (np.nan, np.inf, -np.inf, 1.5, -1.5)]
        return [*full, np.zeros((*shape, 1), np.float32), np.zeros(0, np.float32), None, "0.5", {}]
    if isinstance(space, spaces.MultiDiscrete):
        nvec = space.nvec
        return [nvec, -np.ones_like(nvec), np.zeros(len(nvec)), np.zeros(len(nvec) + 1, np.int64), 0, None, "0"]
    assert isinstance(space, spaces.Discrete)
    return [space.n, space.start - 1, 0.0, np.nan, np.zeros(1, np.int64), None, "0", True]
