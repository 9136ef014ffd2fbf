"""What a layer sees, row by row, and the sums over it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.calibration.moments import BLOCK, Moments, patches
from autoprune.seeding import generator


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("same"), st.just("valid")),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    channels=st.integers(1, 3),
)
def test_weight_times_patches_is_the_convolution(kernel, stride, dilation, padding, mode, channels) -> None:
    stride = (1, 1) if padding == "same" else stride
    conv = nn.Conv2d(
        channels, 2, kernel, stride, padding, dilation=dilation, padding_mode=mode, bias=False, dtype=torch.float64
    )
    x = torch.randn(3, channels, 7, 6, generator=generator(1, "x"), dtype=torch.float64)
    rows = torch.cat(list(patches(conv, x, None, generator(0))))
    want = conv(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows @ conv.weight.flatten(1).T, want)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv1d(2, 3, 3, padding=1), (4, 2, 9)), (nn.Conv3d(2, 3, 2), (4, 2, 4, 3, 5))]
)
def test_patches_of_other_dimensions(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=generator(2))
    rows = torch.cat(list(patches(layer, x, None, generator(0))))
    want = layer(x).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(rows @ layer.weight.flatten(1).T + layer.bias, want)
    torch.testing.assert_close(torch.cat(list(patches(layer, x[0], None, generator(0)))), rows[: len(want) // 4])


def test_patches_come_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(8, 2, 6, 6, generator=generator(2))
    whole = list(patches(conv, x, None, generator(0)))
    monkeypatch.setattr("autoprune.calibration.moments.CHUNK_ELEMENTS", 2000)
    blocks = list(patches(conv, x, None, generator(0)))
    assert len(whole) == 1
    assert max(block.numel() for block in blocks) <= 2000
    assert torch.equal(torch.cat(blocks), whole[0])


def test_drawn_positions_are_different_ones_of_each_sample() -> None:
    conv = nn.Conv2d(1, 1, 1)
    x = torch.arange(5 * 36.0).view(5, 1, 6, 6)
    rows = torch.cat(list(patches(conv, x, 10, generator(0)))).view(5, 10)
    for sample, drawn in enumerate(rows):
        assert len(set(drawn.tolist())) == 10
        assert all(sample * 36 <= v < (sample + 1) * 36 for v in drawn.tolist())
    assert len({tuple(r) for r in (rows % 36).tolist()}) == 5


def test_token_inputs_of_a_linear_layer_are_positions() -> None:
    layer = nn.Linear(4, 2)
    x = torch.randn(3, 5, 4, generator=generator(2))
    assert torch.equal(torch.cat(list(patches(layer, x, None, generator(0)))), x.flatten(0, 1))
    assert torch.cat(list(patches(layer, x, 2, generator(0)))).shape == (6, 4)
    assert torch.cat(list(patches(layer, x[0, 0], 2, generator(0)))).shape == (1, 4)


def test_a_large_mean_costs_no_digits_and_wide_inputs_are_summed_in_blocks() -> None:
    rows = torch.randn(300, BLOCK + 30, generator=generator(1), dtype=torch.float64) + 1e7
    moments = Moments()
    for part in rows.split(64):
        moments.add(part)
    mean, covariance = moments.finish()
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(covariance, (rows - rows.mean(0)).T.cov(correction=0), rtol=1e-7, atol=1e-9)
    assert torch.equal(covariance, covariance.T)
