"""Stages of networks: the three executions agree, all groups are the dense network, MACs are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runtime_networks import NETWORKS, ZOO, Generated, close, images, random_actions, spread_norms, zoo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.runtime import Chain

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=25)
@given(NETWORKS, st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
@example(Generated([("norm", 4), ("norm", 4)], flatten=False, seed=0), 4, 3, 0)  # parts in different layouts
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


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20"])
def test_gradients_of_grouped_execution_are_those_of_masked(name: str) -> None:
    chain, _, shape = zoo(name)
    x, actions, grads = images(5, shape), random_actions(5, chain), []
    for execution in ("masked", "grouped"):
        chain.zero_grad()
        chain.train()
        chain(x, actions, execution).square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in chain.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == dict(chain.backbone.named_parameters(prefix="backbone")).keys()
    assert all(close(grads[1][n], grads[0][n], 1e-4) for n in grads[0])


def test_no_batch_and_no_training_mode_changes_a_norm() -> None:
    chain, model, shape = zoo("digits_cnn")
    before = {n: b.clone() for n, b in chain.named_buffers()}
    chain.train()
    x = images(4, shape)
    assert torch.equal(chain(x, 4), model(x))
    chain(x, random_actions(4, chain), "masked").sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in chain.named_buffers())


@settings(deadline=None, max_examples=10)
@given(NETWORKS, st.integers(1, 6), st.integers(0, 99))
def test_a_walk_can_go_on_in_several_ways(model: nn.Module, size: int, seed: int) -> None:
    chain = spread_norms(Chain(model, images(2)), seed)
    x, actions = images(size, seed=seed), random_actions(size, chain, seed)
    with torch.no_grad():
        walk = chain.begin(x)
        for stage in range(len(chain.stages)):
            assert walk.stage == stage
            assert not walk.done
            walk.step(torch.full((size,), 1))  # a way that is left again
            walk = walk.step(actions[:, stage])
        assert walk.done
        assert torch.equal(walk.actions, actions)
        assert torch.equal(walk.output, chain(x, actions))
        assert close(walk.output, chain(x, actions, "masked"))


def test_pooled_features_are_means_with_zeros_where_channels_were_skipped() -> None:
    chain, model, shape = zoo("vgg11_bn")
    x, seen = images(3, shape), []
    for name in ("pool1", "pool2"):  # what enters the first two stages
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(out.mean((2, 3))))
    with torch.no_grad():
        model(x)
        walk = chain.begin(x)
        assert close(walk.pooled, seen[0], 1e-6)
        walk = walk.step(torch.tensor([4, 2, 1]))
        assert walk.pooled.shape == (3, chain.channels[1])
        assert close(walk.pooled[0], seen[1][0], 1e-6)
        assert walk.pooled[1, 8:].abs().sum() == 0
        assert (walk.pooled[2] != 0).sum() <= 4
        assert close(walk.pooled[1, :8], seen[1][1, :8], 1e-6)  # a prefix does not depend on what else is computed
    assert chain.reads(torch.tensor([[4] * 7, [2] * 7, [1] * 7])).tolist() == [
        [8, 16, 32, 32, 64, 64, 64],
        [8, 8, 16, 16, 32, 32, 32],
        [8, 4, 8, 8, 16, 16, 16],
    ]


def test_constant_actions_make_a_plain_network() -> None:
    for name in ("vgg11_bn", "resnet20", "lenet5", "mobilenet_v1"):
        chain, model, shape = zoo(name)
        x, row = images(4, shape), random_actions(1, chain, 3)[0]
        plain = chain.at(row)
        assert type(plain) is type(model)
        with torch.no_grad():
            assert close(plain(x), chain(x, row, "masked"))
            assert torch.equal(chain.at(4)(x), model(x))
        from autoprune import trace

        assert trace(plain, x).macs == int(chain.macs(row))


def test_float64_agrees_much_closer() -> None:
    chain, model, shape = zoo("vgg11_bn")
    chain.double()
    x, actions = images(5, shape).double(), random_actions(5, chain)
    with torch.no_grad():
        assert close(chain(x, actions), chain(x, actions, "masked"), 1e-12)
        assert torch.equal(chain(x, 4), model.double()(x))


def test_the_first_convolution_and_chosen_layers() -> None:
    _, model, shape = zoo("vgg11_bn")
    example = images(2, shape)
    assert Chain(model, example, first=True).stages[0].name == "conv1_1.0"
    assert [s.name for s in Chain(model, example, include=["conv3*"]).stages] == ["conv3_1.0", "conv3_2.0"]
    chain = Chain(model, example, exclude=["conv3*", "conv5_2.0"])
    assert [s.name for s in chain.stages] == ["conv2_1.0", "conv4_1.0", "conv4_2.0", "conv5_1.0"]
    x, actions = images(5, shape), random_actions(5, chain)
    with torch.no_grad():
        assert close(chain(x, actions), chain(x, actions, "masked"))


def test_an_empty_batch_gives_no_logits() -> None:
    chain, _, shape = zoo("resnet20")
    for execution in ("masked", "grouped", "sliced"):
        assert chain(images(0, shape), 2, execution).shape == (0, 10)
