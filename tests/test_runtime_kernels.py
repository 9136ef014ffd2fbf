"""Convolutions with weights laid out once give what convolutions give, within the memory they may take."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import close, images, random_actions, zoo
from torch import nn

from autoprune.runtime import Chain, Compiled, Controller, RuntimePrunedNetwork, kernels
from autoprune.runtime.kernels import LEAST, Room, Weights, can_lay_out, convolution

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not can_lay_out(torch.zeros(1, 1, 1, 1), 1), reason="this torch cannot lay weights out"),
]


def _weights(module: nn.Conv2d) -> Weights:
    bias = None if module.bias is None else module.bias.detach()
    return Weights(module.weight.detach().contiguous(memory_format=torch.channels_last), bias)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 5),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3])),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.integers(2, 3), st.integers(1, 2)),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)
def test_laid_out_weights_give_the_same(
    size: int,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: int,
    bias: bool,
    channels_last: bool,
) -> None:
    kernel = (kernel[0] if dilation == 1 else min(kernel[0], 3), kernel[1])
    module = nn.Conv2d(*channels, kernel, stride, padding, dilation, bias=bias)
    weights, room = _weights(module), Room(1 << 20)
    run = convolution(module, weights, room, part=True)
    for count in (size, 1, 7):  # laid out at the first of them that is not empty, then used for all
        x = images(count, (channels[0], 4, 3)) if count else torch.zeros(0, channels[0], 4, 3)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            found, plain = run(x), module(x)
        assert found.shape == plain.shape
        assert close(found, plain)
    assert weights.laid is not None
    assert room.left == (1 << 20) - 4 * weights.weight.numel()


def test_a_room_is_not_overdrawn() -> None:
    module, x = nn.Conv2d(4, 8, 3, padding=1), images(3, (4, 5, 5))
    room = Room(4 * module.weight.numel() - 1)
    weights = _weights(module)
    with torch.no_grad():
        assert close(convolution(module, weights, room, part=True)(x), module(x))
    assert weights.laid is None
    assert room.left == 4 * module.weight.numel() - 1


def test_other_convolutions_stay() -> None:
    room, x = Room(1 << 20), images(3, (4, 6, 6))
    for options in ({"groups": 2}, {"padding": "same"}, {"dtype": torch.float64}):
        module = nn.Conv2d(4, 4, 3, **options)  # type: ignore[arg-type]
        weights = _weights(module)
        with torch.no_grad():
            assert close(
                convolution(module, weights, room, part=True)(x.to(module.weight)), module(x.to(module.weight))
            )
        assert weights.laid is None
    small = nn.Conv2d(4, 4, 3)
    weights = _weights(small)
    convolution(small, weights, room, part=False)(x)
    assert weights.laid is None
    assert room.left == 1 << 20


@pytest.mark.filterwarnings("ignore:TF32")
def test_without_the_calls_nothing_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(kernels, "_laid_out", missing)
    kernels._works.cache_clear()
    try:
        assert not can_lay_out(torch.zeros(1, 1, 3, 3), 1)
    finally:
        monkeypatch.undo()
        kernels._works.cache_clear()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_lay_out(torch.zeros(1, 1, 3, 3), 1)
    assert can_lay_out(torch.zeros(1, 1, 3, 3), 1)


def test_groups_and_single_images_of_a_chain_share_what_is_laid_out() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(96 * 64, 5),
    ).eval()  # fmt: skip
    chain, x = Chain(model, images(2, (3, 8, 8)), groups=2), images(4, (3, 8, 8))
    compiled = Compiled(chain)
    start = compiled._room.left
    with torch.inference_mode():
        value = compiled.prelude(x[:1])
        for stage in range(len(chain.stages)):
            value = compiled.run_stage(stage, value, [2] * (stage + 1))
    alone = start - compiled._room.left
    assert alone == 4 * max(p.numel() for n, p in model.named_parameters() if n == "2.weight") >= 4 * LEAST
    actions = random_actions(4, chain, 0)
    with torch.inference_mode():
        walk = compiled.begin(x)
        for stage in range(len(chain.stages)):
            walk = walk.step(actions[:, stage])
        once = compiled._room.left
        assert close(walk.output, chain(x, actions, "masked"))
        again = compiled.begin(x)
        for stage in range(len(chain.stages)):
            again = again.step(actions[:, stage])
    assert compiled._room.left == once < start - alone
    assert torch.equal(again.output, walk.output)


def test_a_network_that_has_run_can_be_copied() -> None:
    chain, _, shape = zoo("resnet20")
    network = RuntimePrunedNetwork(chain, Controller(chain.channels, chain.groups, code=4, hidden=4))
    x = images(6, shape)
    first, start = network(x), network.compiled._room.left
    with torch.inference_mode():
        walk, actions = network.compiled.begin(x), random_actions(6, chain)
        for stage in range(len(chain.stages)):
            walk = walk.step(actions[:, stage])
    assert network.compiled._room.left < start
    assert torch.equal(copy.deepcopy(network)(x), first)
