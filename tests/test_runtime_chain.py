"""Stages of networks: the three executions agree, all groups are the dense network, MACs are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import NETWORKS, ZOO, close, images, random_actions, spread_norms, zoo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.runtime import Chain

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=25)
@given(NETWORKS, st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_executions_agree_on_generated_networks(model: nn.Module, size: int, groups: int, seed: int) -> None:
    chain = spread_norms(Chain(model, images(2), groups=groups), seed)
    x, actions = images(size, seed=seed), random_actions(size, chain, seed)
    with torch.no_grad():
        masked = chain(x, actions, "masked")
        grouped = chain(x, actions)
        alone = torch.cat([chain(x[n : n + 1], actions[n], "sliced") for n in range(size)])
        assert close(grouped, masked)
        assert close(alone, masked)
        dense = model(x.clone())
        for execution in ("masked", "grouped", "sliced"):
            assert torch.equal(chain(x, groups, execution), dense)


@pytest.mark.parametrize("name", ZOO)
def test_executions_agree_on_the_zoo(name: str) -> None:
    chain, model, shape = zoo(name)
    x, actions = images(7, shape), random_actions(7, chain)
    with torch.no_grad():
        masked = chain(x, actions, "masked")
        assert close(chain(x, actions), masked)
        assert close(torch.cat([chain(x[n : n + 1], actions[n], "sliced") for n in range(7)]), masked)
        for execution in ("masked", "grouped", "sliced"):
            assert torch.equal(chain(x, 4, execution), model(x))
        assert not close(chain(x, 1), model(x), 1e-2)


@pytest.mark.parametrize("name", ZOO)
def test_macs_are_those_that_run_and_grow_with_every_action(name: str) -> None:
    chain, _, shape = zoo(name)
    actions = random_actions(6, chain)
    counted = chain.macs(actions)
    for row, macs in zip(actions, counted.tolist(), strict=True):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            chain(images(1, shape), row, "sliced")
        assert counter.get_total_flops() == 2 * macs
    assert chain.macs(4).tolist() == [chain.dense_macs] == [chain.graph.macs]
    for stage in range(len(chain.stages)):
        for row in actions[:3]:
            row = row.repeat(4, 1)
            row[:, stage] = torch.arange(1, 5)
            assert bool((chain.macs(row).diff() > 0).all())
