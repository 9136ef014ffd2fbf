from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.augment import augment_batch
from autoprune.errors import UnknownNameError
from autoprune.seeding import generator


@given(
    st.integers(1, 5), st.integers(1, 3), st.sampled_from([8, 11, 32]), st.sampled_from([8, 16]), st.integers(0, 1000)
)
@settings(max_examples=25, deadline=None)
def test_every_image_is_a_shifted_window_perhaps_mirrored(n: int, c: int, h: int, w: int, seed: int) -> None:
    images = torch.randint(1, 255, (n, c, h, w), dtype=torch.uint8)
    before = images.clone()
    out = augment_batch(images, "flip_crop", generator(seed))
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    pad = max(1, h // 8)
    padded = torch.nn.functional.pad(images.float(), (pad, pad, pad, pad), mode="reflect").to(torch.uint8)
    for before_one, after in zip(padded, out, strict=True):
        windows = [before_one[:, i : i + h, j : j + w] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
        assert any(torch.equal(after, x) or torch.equal(after, x.flip(-1)) for x in windows)


def test_offsets_and_flips_are_uniform_and_differ_between_images() -> None:
    image = torch.arange(1, 65, dtype=torch.float32).view(1, 1, 8, 8).expand(4000, 1, 8, 8)
    out = augment_batch(image, "flip_crop", generator(3))
    kinds = {tuple(x.flatten().tolist()) for x in out}
    assert len(kinds) == 18  # 3 rows x 3 columns x mirrored or not
    for column in (3, 4):  # the pixel stays, or is mirrored, or is mirrored back by a shift: 1 of 9 each
        assert 0.09 < float((out[:, 0, 3, column] == 28).float().mean()) < 0.13


def test_same_generator_same_batch() -> None:
    images = torch.rand(6, 3, 16, 16)
    a, b, c = (augment_batch(images, "flip_crop", generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert augment_batch(images, "none", generator(1)) is images


def test_unknown_kind() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'flip_crop'"):
        augment_batch(torch.rand(1, 1, 8, 8), "flipcrop", generator(0))
