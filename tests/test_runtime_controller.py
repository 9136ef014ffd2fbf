"""The three forms of a controller are one: step by step, on stored observations, and for a single sample in NumPy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import close
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autoprune.errors import ChainError
from autoprune.runtime import Controller
from autoprune.runtime.deciding import OneSample

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = [3, 8, 5, 16]


def _controller(groups: int = 4, code: int = 6, hidden: int = 7, seed: int = 0) -> Controller:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        controller = Controller(CHANNELS, groups, code=code, hidden=hidden)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(3)
    return controller


def _pooled(size: int, seed: int) -> list[Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return [torch.randn(size, c, generator=noise) for c in CHANNELS]


def _step_by_step(controller: Controller, pooled: list[Tensor]) -> Tensor:
    """``[stages, N, k]``"""
    state, found = controller.start(len(pooled[0])), []
    for stage, values in enumerate(pooled):
        scores, state = controller.step(stage, values, state)
        found.append(scores)
    return torch.stack(found)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_stored_observations_get_the_scores_of_the_steps(size: int, groups: int, seed: int) -> None:
    controller, pooled = _controller(groups, seed=seed), _pooled(size, seed)
    expected = _step_by_step(controller, pooled)
    stage = torch.randint(0, len(CHANNELS), (size,), generator=torch.Generator().manual_seed(seed))
    whole = controller.padded(pooled)
    known = torch.stack(
        [controller.padded([p[n : n + 1] for p in pooled[: int(s) + 1]])[0] for n, s in enumerate(stage)]
    )
    for features in (whole, known):  # what lies ahead plays no part
        assert close(controller(features, stage), expected[stage, torch.arange(size)], 1e-5)


def test_gradients_flow_through_stored_observations() -> None:
    controller, pooled = _controller(), _pooled(9, 1)
    stage = torch.arange(9) % 4
    controller(controller.padded(pooled), stage).square().sum().backward()
    stored = [p.grad.clone() for p in controller.parameters()]
    controller.zero_grad()
    _step_by_step(controller, pooled)[stage, torch.arange(9)].square().sum().backward()
    assert all(close(p.grad, g, 1e-4) for p, g in zip(controller.parameters(), stored, strict=True))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_a_single_sample_gets_the_same_scores(width: int, channels_last: bool, seed: int) -> None:
    controller = _controller(seed=seed)
    one, noise = OneSample(controller), torch.Generator().manual_seed(seed)
    state, deciding = controller.start(1), one.start()
    for stage, channels in enumerate(CHANNELS):
        there = max(1, channels * width // 4)
        value = torch.randn(1, there, 3, 2, generator=noise)
        if channels_last:
            value = value.contiguous(memory_format=torch.channels_last)
        flat = value.mean((2, 3)) if stage else value.flatten(1)[:, :there]
        with torch.no_grad():
            scores, state = controller.step(stage, flat, state)
        found = deciding.scores(stage, value if stage else flat, one.constants[stage].tolist())
        assert close(torch.tensor(found), scores[0])


def test_a_prefix_of_the_channels_is_the_rest_at_zero() -> None:
    controller, pooled = _controller(), _pooled(5, 2)
    state = controller.start(5)
    cut = pooled[3].clone()
    cut[:, 4:] = 0
    assert close(controller.step(3, pooled[3][:, :4], state)[0], controller.step(3, cut, state)[0])


def test_macs_are_those_that_run() -> None:
    controller = Controller(CHANNELS, 4)
    reads = torch.tensor([[3, 8, 5, 16], [3, 2, 1, 4]])
    for row, macs in zip(reads, controller.macs(reads).tolist(), strict=True):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            state = controller.start(1)
            for stage, there in enumerate(row.tolist()):
                _, state = controller.step(stage, torch.ones(1, there), state)
        assert counter.get_total_flops() == 2 * macs


def test_encoders_can_be_fitted_to_what_they_see() -> None:
    controller, pooled = _controller(), [5 + 3 * p for p in _pooled(400, 3)]
    pooled[1][:, 2] = 7.0  # a channel that never varies
    weights = [e.weight.clone() for e in controller.encoders]
    biases = [e.bias.clone() for e in controller.encoders]
    controller.standardise(pooled)
    for encoder, values, weight, bias in zip(controller.encoders, pooled, weights, biases, strict=True):
        deviation = values.std(0, correction=0)
        scaled = (values - values.mean(0)) / torch.where(deviation > 1e-6, deviation, 1.0)
        assert close(encoder(values), scaled @ weight.T + bias, 1e-4)


def test_bad_input() -> None:
    with pytest.raises(ChainError, match="a controller's code must be a whole number from 1 on, but got 0"):
        Controller([3], 4, code=0)
    with pytest.raises(ChainError, match=r"channels of stage 1 must be a whole number from 1 on, but got 2\.5"):
        Controller([3, 2.5], 4)  # type: ignore[list-item]
    with pytest.raises(ChainError, match="at least one stage"):
        Controller([], 4)
    controller = _controller()
    with pytest.raises(ChainError, match=r"features must be \[N, 32\] and stages \[N\], but got \[2, 31\] and \[2\]"):
        controller(torch.zeros(2, 31), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ChainError, match=r"stages must be 0 to 3, but got \[0, 4\]"):
        controller(torch.zeros(2, 32), torch.tensor([0, 4]))
    assert controller(torch.zeros(0, 32), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
