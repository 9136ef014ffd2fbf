"""Scores against brute force."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoprune import saliency
from autoprune.seeding import generator


def brute_distances(rows: Tensor) -> Tensor:
    return torch.stack([torch.stack([(a - b).square().sum().sqrt() for b in rows]).sum() for a in rows])


@settings(max_examples=40, deadline=None)
@given(
    units=st.integers(1, 12),
    entries=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([0.0, 1.0, 1e6]),
    twins=st.booleans(),
)
def test_distance_sums_equal_brute_force(units: int, entries: int, seed: int, shift: float, twins: bool) -> None:
    rows = torch.randn(units, entries, generator=generator(seed), dtype=torch.float64) + shift
    if twins:
        rows[-1] = rows[0]
    want = brute_distances(rows - rows.mean(0))
    torch.testing.assert_close(saliency.distance_sums(rows), want, rtol=1e-10, atol=1e-12)


def test_distances_of_near_twins_do_not_cancel() -> None:
    rows = torch.randn(1, 400, generator=generator(1), dtype=torch.float64).repeat(6, 1)
    rows[3:] = -rows[3:]  # far from the mean, so that products of lengths would swallow the differences
    rows += 1e-9 * torch.randn(6, 400, generator=generator(2), dtype=torch.float64)
    far = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")[:, 3:].sum(1)
    near = brute_distances(rows[:3])
    torch.testing.assert_close(saliency.distance_sums(rows)[:3] - far[:3], near, rtol=1e-4, atol=0)


def test_distance_sums_work_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(11, 3, generator=generator(1), dtype=torch.float64)
    whole = saliency.distance_sums(rows)
    monkeypatch.setattr(saliency, "CHUNK_ROWS", 4)
    torch.testing.assert_close(saliency.distance_sums(rows), whole)


def test_a_filter_moved_by_a_constant_keeps_its_place() -> None:
    rows = torch.randn(9, 5, generator=generator(4), dtype=torch.float64)
    assert torch.equal(saliency.distance_sums(rows).argsort(), saliency.distance_sums(rows + 3.0).argsort())


def test_known_answers() -> None:
    line = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    assert saliency.distance_sums(line).tolist() == [3.0, 2.0, 3.0]  # the middle one goes, where a norm takes 0
    assert saliency.row_norm(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), 1).tolist() == [7.0, 0.0]
    assert saliency.row_norm(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), 2).tolist() == [5.0, 0.0]
    gates = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert saliency.gate_squares(gates).tolist() == [5.0, 0.0]
    assert torch.equal(saliency.gate_squares(2 * gates), 4 * saliency.gate_squares(gates))  # doubling the loss


def test_nothing_to_score() -> None:
    assert saliency.distance_sums(torch.zeros(0, 3)).shape == (0,)
    assert saliency.distance_sums(torch.zeros(4, 3)).tolist() == [0.0] * 4


@pytest.mark.parametrize("module", ["autoprune.saliency", "autoprune.masking", "autoprune.reconstruction.repairs"])
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
