"""Counts are exact at every sparsity, ties go by position."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import PlanError
from autoprune.masking import mask_from_order, order_of, removed_count


@given(size=st.integers(1, 5000), sparsity=st.floats(0, 1, exclude_max=True))
def test_the_count_is_exact(size: int, sparsity: float) -> None:
    removed = removed_count(size, sparsity)
    assert removed == min(math.floor(sparsity * size + 0.5), size - 1)
    assert abs(removed - sparsity * size) <= 0.5 or removed == size - 1


@given(size=st.integers(1, 3000), data=st.data())
def test_a_count_survives_the_way_through_a_sparsity(size: int, data: st.DataObject) -> None:
    removed = data.draw(st.integers(0, size - 1))
    assert removed_count(size, removed / size) == removed


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    sparsities=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_masks_are_nested_and_take_the_lowest_first(scores: list[int], sparsities: tuple[float, float]) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    order = order_of(values)
    less, more = (mask_from_order(order, s, values.shape) for s in sorted(sparsities))
    assert bool((less | ~more).all())
    assert int((~more).sum()) == removed_count(len(scores), max(sparsities))
    want = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    assert order.tolist() == want


def test_half_is_rounded_up_not_to_even() -> None:
    assert [removed_count(5, s) for s in (0.1, 0.3, 0.5, 0.7)] == [1, 2, 3, 4]


def test_nothing_at_zero_and_one_stays_at_the_end() -> None:
    order = torch.arange(6).flip(0)
    assert bool(mask_from_order(order, 0.0, (2, 3)).all())
    assert mask_from_order(order, 0.999, (2, 3)).tolist() == [[True, False, False], [False, False, False]]
    assert mask_from_order(torch.tensor([0]), 0.9, (1,)).tolist() == [True]


def test_errors_name_what_came() -> None:
    with pytest.raises(PlanError, match=r"sparsity must be in \[0, 1\), but got 1.0"):
        mask_from_order(torch.arange(4), 1.0, (4,))
    with pytest.raises(PlanError, match=r"order of 4 entries cannot mask shape \(2, 3\) with 6 entries"):
        mask_from_order(torch.arange(4), 0.5, (2, 3))
