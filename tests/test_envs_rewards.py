"""What episodes are paid: every formula by hand, the front against brute force, dense rewards against the data."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.artifacts import load
from autoprune.calibration.moments import has_inputs, patches
from autoprune.costs import Cost
from autoprune.data import DataSplits
from autoprune.envs import REWARDS, LayerwiseEnv, Result, make_task
from autoprune.envs.rewards import covered, extended, get_reward
from autoprune.envs.scoring import Scoring
from autoprune.envs.tasks import ASSETS
from autoprune.errors import EnvError, UnknownNameError
from autoprune.objective import Objective, ObjectiveSettings
from autoprune.plan import Plan
from autoprune.seeding import generator

pytestmark = pytest.mark.usefixtures("one_thread")

DENSE = Cost(params=1000, macs=50_000, bytes=5000, latency_ms=2.0)
HALF = Cost(params=400, macs=20_000, bytes=2400, latency_ms=0.5)
RESULT = Result(accuracy=0.9, dense_accuracy=0.95, chance=0.1, cost=HALF, dense=DENSE)


def test_every_formula_by_hand() -> None:
    by_hand = {
        "accuracy": 0.9,
        "retained": 0.8 / 0.85,
        "amc_macs": -0.1 * math.log(20_000),
        "amc_params": -0.1 * math.log(400),
        "latency": 0.9 * 4**0.07,
        "hypervolume": 0.6 * 0.8,
        "hypervolume_params": 0.6 * 0.8,
    }
    assert by_hand.keys() == REWARDS.keys()
    for name, value in by_hand.items():
        assert REWARDS[name](RESULT) == pytest.approx(value), name
    limited = replace(RESULT, limits={"latency_ms": 0.25})
    assert REWARDS["latency"](limited) == pytest.approx(0.9 * 2**-0.07)


def test_amcs_reward_trades_accuracy_for_absolute_counts() -> None:
    """The same share of a larger network is another trade: the unit of the count matters, so it is fixed."""
    reward = REWARDS["amc_macs"]
    small = replace(RESULT, cost=replace(HALF, macs=20), dense=replace(DENSE, macs=50))
    assert reward(small) > reward(RESULT)
    assert reward(replace(RESULT, accuracy=1.0)) == 0.0
    assert reward(replace(RESULT, accuracy=0.0)) == -math.log(20_000)


def test_more_accurate_or_cheaper_is_never_paid_less() -> None:
    better = [replace(RESULT, accuracy=0.92), replace(RESULT, cost=Cost(300, 15_000, 1800, 0.4))]
    for reward, result in itertools.product(REWARDS.values(), better):
        assert reward(result) >= reward(RESULT), reward.name


points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8)


@given(points)
@settings(max_examples=150, deadline=None)
def test_gains_add_up_to_the_area_that_the_front_covers(drawn: list[tuple[int, int]]) -> None:
    """Against counting the cells of a grid: cost and accuracy in steps of a tenth, chance 0.1."""
    front: Any = ()
    paid = 0.0
    for cost, accuracy in drawn:
        result = replace(
            RESULT,
            accuracy=accuracy / 10,
            cost=replace(HALF, macs=cost * 100),
            dense=replace(DENSE, macs=1000),
            front=front,
        )
        gain = REWARDS["hypervolume"](result)
        assert gain >= 0
        front = extended(front, (cost / 10, accuracy / 10))
        paid += gain
    cells = {(x, y) for cost, accuracy in drawn for x in range(cost, 10) for y in range(1, accuracy)}
    assert paid == pytest.approx(len(cells) / 100)
    assert covered(front, 0.1) == pytest.approx(len(cells) / 100)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(front))


def play(env: LayerwiseEnv, level: float, **reset: Any) -> float:
    env.reset(**reset)
    done, reward = False, 0.0
    while not done:
        _, reward, done, _, _ = env.step(np.array([level], np.float32))
    return reward


def test_the_front_is_kept_from_episode_to_episode_until_it_is_forgotten() -> None:
    env = LayerwiseEnv("known_answer", reward="hypervolume", budget=None)
    first = play(env, 0.5, seed=0)
    assert first > 0
    assert play(env, 0.5) == 0  # nothing new
    assert play(env, 0.0) > 0  # more accurate, at a higher cost
    assert play(env, 0.5, options={"forget": True}) == first
    assert play(env, 0.5, seed=0) == first  # a seed begins anew
    assert play(env, 0.5, options={"forget": False}) == 0


def test_what_was_refused_is_no_point_of_the_front() -> None:
    env = LayerwiseEnv("known_answer", reward="hypervolume", budget="macs=0.5")
    assert play(env, -1.0, seed=0) < 0
    assert env.scoring.front == ()


def test_latencies_are_measured_for_the_reward_and_told_to_nobody() -> None:
    env = LayerwiseEnv("known_answer", reward="latency", budget=None)
    assert env.metadata["nondeterministic"]
    assert not LayerwiseEnv("known_answer").metadata["nondeterministic"]
    reward = play(env, 0.2, seed=0)
    objective, plan = env.task.objective, env.plan
    wanted = objective(plan).accuracy * (objective.latency(plan) / objective.latency(Plan())) ** -0.07  # type: ignore[operator]
    assert reward == pytest.approx(wanted)


def test_a_budget_on_latency_is_met_or_the_plan_refused() -> None:
    env = LayerwiseEnv("known_answer", budget="latency_ms=0.9", reward="latency")
    assert env.metadata["nondeterministic"]
    assert env.task.target is not None
    over, limit = play(env, -1.0, seed=0), env.task.target.limits["latency_ms"]
    assert over == pytest.approx(-(env.task.objective.latency(Plan()) / limit - 1))
    assert play(env, 0.9) > 0
    assert env.task.objective.latency(env.plan) <= limit


def test_functions_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def lean(result):\n    return result.accuracy - result.ratios['params']\n"
        "def broken(result):\n    return float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        for reward in ("my_rewards:lean", lambda result: result.accuracy - result.ratios["params"]):
            env = LayerwiseEnv("known_answer", reward=reward, budget=None)
            paid = play(env, 0.0, seed=0)
            outcome = env.outcome
            assert outcome is not None
            assert outcome.accuracy is not None
            assert paid == outcome.accuracy - outcome.ratios["params"]
        with pytest.raises(EnvError, match="'my_rewards:broken' must be a finite number, but is nan"):
            play(LayerwiseEnv("known_answer", reward="my_rewards:broken"), 1.0, seed=0)
        with pytest.raises(EnvError, match="leen"):
            LayerwiseEnv("known_answer", reward="my_rewards:leen")
    finally:
        sys.modules.pop("my_rewards", None)
    with pytest.raises(UnknownNameError, match=r"package.module:function"):
        get_reward("size")
    with pytest.raises(EnvError, match="a name or a function"):
        get_reward(3)  # type: ignore[arg-type]


def test_a_network_that_cannot_be_judged_counts_as_always_wrong() -> None:
    task = make_task("known_answer")
    failed = replace(task.objective(Plan()), accuracy=None)
    for name in REWARDS:
        scoring = Scoring(task, name)
        least = scoring.pay(Plan(), None)
        assert scoring.pay(Plan(), failed) == least
        assert scoring.pay(Plan(), None, 0.25) == least - 0.25
        assert scoring.front == ()


def test_dense_rewards_of_a_known_answer_are_its_damage() -> None:
    env = LayerwiseEnv("known_answer", dense_reward=True, budget=None, groups=4)
    plain = LayerwiseEnv("known_answer", budget=None, groups=4)
    env.reset(seed=0)
    paid = [env.step(np.array([0.3], np.float32))[1] for _ in range(4)]
    damage = 0.95 - play(plain, 0.3, seed=0)
    assert all(reward < 0 for reward in paid[:3])
    assert sum(paid) == pytest.approx(0.95 - damage - damage / 4)


@pytest.fixture(scope="module")
def objective(data: DataSplits) -> Objective:
    return Objective(
        load(ASSETS / "digits_cnn"), data, settings=ObjectiveSettings(precision="float32", recalibrate=False)
    )


@pytest.mark.parametrize("how", ["none", "bias_only", "mauch_yang"])
def test_layer_errors_are_those_of_the_data(objective: Objective, how: str) -> None:
    """Against the outputs themselves: every calibration image through the layers that read a group."""
    task = make_task(objective=objective, reconstruction=how, budget=None)
    for name, removed in (("conv3.0", 9), ("fc1", 20)):
        rows = inputs_of(objective, {"conv3.0": "fc1", "fc1": "fc2"}[name])
        layer: Any = objective.model.get_submodule({"conv3.0": "fc1", "fc1": "fc2"}[name])
        weight = layer.weight.detach().double()
        slot = next(s for s in objective.graph.groups[name].consumers)
        gone = slot.positions[objective.ranker.order(name, "l1_norm")[:removed]].flatten()
        stays = torch.ones(weight.shape[1], dtype=torch.bool)
        stays[gone] = False
        target = rows @ weight.T
        kept = rows[:, stays]
        found = {
            "none": kept @ weight[:, stays].T,
            "bias_only": kept @ weight[:, stays].T + (rows[:, gone].mean(0) @ weight[:, gone].T),
            "mauch_yang": fitted(kept, target),
        }[how]
        error = (found - target).square().sum() / (target - target.mean(0)).square().sum()
        assert task.errors.of(name, "l1_norm", removed, how) == pytest.approx(float(error), rel=0.02), name


def inputs_of(objective: Objective, layer: str) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    module = objective.model.get_submodule(layer)
    assert has_inputs(module)

    def keep(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.extend(patches(module, args[0], None, generator(0)))

    handle = module.register_forward_pre_hook(keep)
    with torch.no_grad():
        objective.model(objective.data.calibration.inputs())
    handle.remove()
    return torch.cat(seen).double()


def fitted(kept: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The best that any weights and biases can do."""
    design = torch.cat([kept, torch.ones(len(kept), 1, dtype=kept.dtype)], 1)
    return design @ torch.linalg.lstsq(design, target, driver="gelsd").solution


def test_errors_grow_with_what_goes_and_repair_makes_them_smaller(objective: Objective) -> None:
    task = make_task(objective=objective, budget=None)
    for group in task.space.groups:
        for how in ("bias_only", "mauch_yang"):
            errors = [task.errors.of(group.name, "l1_norm", k, how) for k in group.removals]
            assert errors[0] == 0
            assert all(0 <= a <= b + 1e-3 for a, b in itertools.pairwise(errors))
            assert errors[-1] <= 1 + 1e-9
        for k in group.removals[1::7]:
            plain, shifted, repaired = (task.errors.of(group.name, "l1_norm", k, how) for how in REPAIRS)
            assert repaired <= shifted + 1e-9
            assert shifted <= plain + 1e-9


REPAIRS = ("none", "bias_only", "mauch_yang")
