"""Baselines meet the multiply-accumulates they are given; the oracle is what brute force finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from runtime_networks import images, zoo
from runtime_toy import toy_task
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from autoprune.data import Split
from autoprune.envs import RuntimeEnv, RuntimeTask, RuntimeVectorEnv, make_runtime_task
from autoprune.errors import ChainError, EnvError
from autoprune.runtime import Controller, RuntimePrunedNetwork
from autoprune.search.runtime import Confidence, Greedy, Table, at_equal_macs, judge, oracle, random_actions, uniform
from autoprune.search.runtime.vecenv import RuntimeVecEnv

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task() -> RuntimeTask:
    return make_runtime_task("digits")


def test_judging_is_running(task: RuntimeTask) -> None:
    split = task.data.validation.subset(slice(0, 70))
    torch.manual_seed(0)
    controller = Controller(task.chain.channels, task.chain.groups, code=8, hidden=8)
    judged = judge(task.chain, split, Greedy(controller, 0.02), batch=32)
    run = RuntimePrunedNetwork(task.chain, controller, knob=0.02).run(split.inputs())
    assert torch.equal(judged.actions, run.actions)
    assert torch.equal(judged.macs, run.macs)
    assert torch.equal(judged.controller_macs, run.controller_macs)
    assert torch.equal(judged.correct, run.logits.argmax(1) == split.y)
    dense = judge(task.chain, split, Table(torch.full((len(task),), 4)))
    assert dense.share == 1
    assert dense.accuracy > 0.95


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_baselines_run_what_they_may(task: RuntimeTask, share: float) -> None:
    split = task.data.validation
    probes = Confidence.fit(task.chain, task.data.calibration, 10)
    found = at_equal_macs(task.chain, split, share, probes)
    assert list(found) == ["static uniform", "random", "confidence"]
    for name, judged in found.items():
        assert judged.share <= share + 1e-9, name
    assert found["random"].share == pytest.approx(share, abs=0.01)
    assert found["confidence"].share == pytest.approx(share, abs=0.05)
    assert len(found["static uniform"].actions.unique(dim=0)) == 1


def test_static_rows_are_the_most_even_that_fit() -> None:
    chain, _, _ = zoo("vgg11_bn")
    shares = torch.linspace(0.17, 1, 40)
    costs = [int(chain.macs(uniform(chain, float(s)).actions)) for s in shares]
    assert costs == sorted(costs)
    for share in (0.3, 0.5, 0.9):
        row = uniform(chain, share).actions
        assert int(row.max() - row.min()) <= 1
        assert int(chain.macs(row)) <= share * chain.dense_macs
    assert uniform(chain, 1.0).actions.tolist() == [4] * len(chain.stages)


def test_too_little_is_refused(task: RuntimeTask) -> None:
    probes = Confidence.fit(task.chain, task.data.calibration, 10)
    for call in (
        lambda: uniform(task.chain, 0.01),
        lambda: random_actions(task.chain, 0.01, 5),
        lambda: probes.matched(task.data.validation, 0.01),
        lambda: oracle(task.chain, task.data.validation.subset(slice(0, 5))).at(0.01),
    ):
        with pytest.raises(ChainError, match=r"but 0\.01"):
            call()
    with pytest.raises(ChainError, match="the split is empty"):
        oracle(task.chain, Split(images(0, (1, 8, 8)), torch.zeros(0, dtype=torch.int64)))


def test_the_oracle_is_what_brute_force_finds() -> None:
    task = toy_task()
    chain, split = task.chain, task.data.train
    found = oracle(chain, split, batch=7)
    assert found.exact
    x, y = split.inputs(), split.y
    cheapest = torch.full((len(y),), -1)
    for row in sorted(itertools.product(range(1, 5), repeat=2), key=lambda r: -int(chain.macs(list(r)))):
        with torch.no_grad():
            cheapest[chain(x, list(row)).argmax(1) == y] = int(chain.macs(list(row)))
    assert torch.equal(found.solved, cheapest >= 0)
    assert torch.equal(found.macs[found.solved], cheapest[found.solved])
    assert found.accuracy > 0
    judged = judge(chain, split, Table(found.actions))
    assert torch.equal(judged.correct, found.solved | judged.correct)
    assert found.at(1.0) == found.accuracy
    at_least = judge(chain, split, Table(torch.ones(2, dtype=torch.int64)))
    assert found.at(at_least.share) == pytest.approx(at_least.accuracy)
    assert torch.equal(found.easy, at_least.correct)


def test_a_beam_comes_close_to_the_oracle(task: RuntimeTask) -> None:
    split = task.data.validation.subset(slice(0, 60))
    seen: list[tuple[int, int]] = []
    exact = oracle(task.chain, split, progress=lambda *done: seen.append(done))
    beam = oracle(task.chain, split, search="beam")
    assert not beam.exact
    assert seen == [(60, 60)]
    assert bool((beam.macs[beam.solved] >= exact.macs[beam.solved]).all())
    assert beam.share <= 1.1 * exact.share
    assert beam.accuracy >= exact.accuracy - 0.05
    assert judge(task.chain, split, Table(beam.actions)).accuracy == beam.accuracy


def _rollout(envs: VecEnv, steps: int = 5) -> list[object]:
    envs.action_space.seed(1)
    envs.seed(4)
    seen: list[object] = [envs.reset(), [dict(info) for info in envs.reset_infos]]
    for _ in range(steps):
        seen.append(envs.step(np.stack([envs.action_space.sample() for _ in range(3)])))
        seen.append([dict(info) for info in envs.reset_infos])
    return seen


def test_the_adapter_does_what_their_own_does(task: RuntimeTask) -> None:
    mine = RuntimeVecEnv(RuntimeVectorEnv(3, task=task, autoreset_mode="SameStep"))
    theirs = DummyVecEnv([lambda: RuntimeEnv(task)] * 3)
    assert (mine.observation_space, mine.action_space) == (theirs.observation_space, theirs.action_space)
    for one, other in zip(_rollout(mine), _rollout(theirs), strict=True):
        _same(one, other)
    assert mine.get_attr("task") == [task] * 3
    with pytest.raises(EnvError, match="autoreset_mode='SameStep'"):
        RuntimeVecEnv(RuntimeVectorEnv(3, task=task))


def _same(a: object, b: object) -> None:
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert set(a) == set(b)
        for name in a:
            _same(a[name], b[name])
    elif isinstance(a, (tuple, list)):
        for one, other in zip(a, b, strict=True):  # type: ignore[call-overload]
            _same(one, other)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # type: ignore[call-overload]
