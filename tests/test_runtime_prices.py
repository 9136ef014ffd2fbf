"""What a group costs: prices by multiply-accumulates, what is paid for, and the knob that follows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from runtime_networks import ZOO, zoo
from runtime_toy import GROUPS, toy_path, toy_task

from autoprune.envs import RuntimeEnv, RuntimeVectorEnv
from autoprune.envs.passage import Pay
from autoprune.errors import ChainError, UnknownNameError
from autoprune.runtime import Controller, RuntimePrunedNetwork
from autoprune.search.runtime import RuntimeSettings
from autoprune.search.runtime.agents import Agent
from autoprune.search.runtime.q_learning import falling
from autoprune.search.runtime.vecenv import RuntimeVecEnv

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", list(ZOO))
def test_prices_are_costs_next_to_their_mean(name: str) -> None:
    chain, _, _ = zoo(name)
    stages, half = len(chain.stages), (chain.groups + 1) // 2
    costs = []
    for stage in range(stages):
        ends = [[end if s == stage else half for s in range(stages)] for end in (1, chain.groups)]
        costs.append(float(chain.macs(ends[1]) - chain.macs(ends[0])))
    expected = [cost * stages / sum(costs) for cost in costs]
    assert chain.prices("macs") == pytest.approx(expected)
    assert chain.prices("groups") == (1.0,) * stages
    with pytest.raises(UnknownNameError, match="price"):
        chain.prices("time")


def test_a_group_is_paid_for_by_its_price() -> None:
    pay = Pay(-0.1, 1.0, (0.5, 2.0))
    assert pay.of(np.array([1, 3]), 0).tolist() == pytest.approx([0.0, -0.1])
    assert pay.of(np.array([1, 3]), 1).tolist() == pytest.approx([0.0, -0.4])
    assert Pay(-0.1, 1.0).of(np.array([3]), 1).tolist() == pytest.approx([-0.2])
    task = toy_task()
    env = RuntimeEnv(task, penalty=-0.1, price="macs", alpha=1.0)
    env.reset(seed=0)
    for stage, price in enumerate(task.chain.prices("macs")):
        _, reward, ended, _, info = env.step(2)
        assert reward + (info["loss"] if ended else 0.0) == pytest.approx(-0.2 * price), stage
    with pytest.raises(UnknownNameError, match="price"):
        RuntimeEnv(task, price="time")
    with pytest.raises(UnknownNameError, match="price"):
        RuntimeSettings(price="time")


def test_the_knob_follows_the_prices() -> None:
    chain = toy_task().chain
    prices = chain.prices("macs")
    controller = Controller(chain.channels, GROUPS, prices=prices)
    network = RuntimePrunedNetwork(chain, controller, knob=0.5)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.zero_()
        controller.offsets.copy_(-torch.arange(GROUPS) * torch.tensor(prices)[:, None] * 0.499)
    x = torch.randn(3, *chain.input_shape)
    for samples in (x, x[:1]):
        network.knob = 0.5
        assert bool((network.decide(samples) == GROUPS).all())
        network.knob = 0.498
        assert bool((network.decide(samples) == 1).all())


@pytest.mark.parametrize("prices", [[1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_prices_that_do_not_fit_are_refused(prices: list[float]) -> None:
    with pytest.raises(ChainError, match="a controller of 2 stages needs as many prices above 0"):
        Controller((3, 5), GROUPS, prices=prices)


def test_scores_of_whole_episodes_are_those_of_their_stages() -> None:
    torch.manual_seed(0)
    controller = Controller((3, 5, 2), GROUPS)
    controller.offsets.copy_(torch.randn(3, GROUPS))
    features = torch.randn(7, 10)
    found: Any = controller.scores(features)
    for stage in range(3):
        each = controller(features, torch.full((7,), stage))
        assert torch.allclose(found[:, stage], each, atol=1e-6)


def test_the_learning_rate_falls_in_every_round() -> None:
    rate, rounds, batches = falling(0.4, 2, 4), 2, 4
    total = rounds * batches
    found = [rate(1 - done / total) for done in range(1, total + 1)]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1] * 2)


def test_a_round_of_a_single_batch_learns() -> None:
    task = toy_task()
    envs = RuntimeVecEnv(RuntimeVectorEnv(8, task=task, alpha=1.0, autoreset_mode="SameStep"))
    settings = RuntimeSettings(agent="recurrent_ppo", envs=8, episodes=8, rounds=1, batch_size=16)
    learner = Agent(settings, envs, task.chain, toy_path(task), 0)
    before = learner.controller().decoder.weight.clone()
    learner.learn(0)
    assert not torch.equal(learner.controller().decoder.weight, before)
