"""Convolutions as matrix products give what convolutions give."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import close, images
from torch import nn

from autoprune.runtime.products import MOST_ROWS, is_product, product


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3])),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.integers(2, 3), st.integers(1, 2)),
    st.booleans(),
    st.booleans(),
)
def test_products_are_convolutions(
    size: int,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
    channels_last: bool,
) -> None:
    module = nn.Conv2d(*channels, kernel, stride, padding, bias=bias)
    weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
    x = images(size, (channels[0], 4, 3))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert is_product(module)
        assert close(product(module, weight, module.bias)(x), module(x))
        many = images(MOST_ROWS + 1, (channels[0], 4, 3))
        assert close(product(module, weight, module.bias)(many), module(many))


def test_other_convolutions_stay() -> None:
    for options in ({"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        assert not is_product(nn.Conv2d(4, 4, 3, **options))  # type: ignore[arg-type]
    assert not is_product(nn.Linear(3, 3))
