"""Where the knob is measured: rows are spent where decisions change, however the scores are scaled."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_toy import GROUPS, toy_task

from autoprune.runtime import Controller, RuntimePrunedNetwork, calibrate
from autoprune.runtime.calibrating import _parting

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=20))
def test_values_are_parted_near_their_middle(values: list[int]) -> None:
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    found = _parting(ordered)
    if len(set(values)) < 2:
        assert found is None
        return
    assert found is not None
    below, above = sum(v < found for v in values), sum(v > found for v in values)
    assert below + above == len(values)  # none of them is hit
    splits = [sum(v < cut for v in values) for cut in sorted(set(values))[1:]]
    near = sorted(splits, key=lambda split: abs(split - len(values) / 2))[:2]
    assert below in near


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_rows_are_spent_where_decisions_change(scale: float) -> None:
    """At the second stage all samples change their minds close to a knob of 3, at the first one far from there."""
    task = toy_task(12)
    torch.manual_seed(0)
    controller = Controller(task.chain.channels, GROUPS).requires_grad_(False)
    for part in (controller.decoder.weight, controller.decoder.bias):
        torch.nn.init.zeros_(part)
    torch.nn.init.normal_(controller.decoder.weight[-1:])
    groups = torch.arange(GROUPS)
    controller.offsets.copy_(-scale * (groups.flip(0) ** 2))
    controller.paid.copy_(torch.tensor([[100.0], [-3.0]]) * groups)
    table = calibrate(RuntimePrunedNetwork(task.chain, controller), task.data.validation, rows=9)
    assert len(table.rows) >= 8
    assert max(high.share - low.share for low, high in pairwise(table.rows)) < 0.35


def test_rows_are_found_that_lie_in_a_thousandth_of_the_knobs() -> None:
    """All samples are alike, and change their minds one group after the other."""
    task = toy_task(12)
    controller = Controller(task.chain.channels, GROUPS).requires_grad_(False)
    for part in (controller.decoder.weight, controller.decoder.bias):
        torch.nn.init.zeros_(part)
    steps = torch.tensor([[-1.0, 0.4980, 0.4988], [-0.9, 0.4984, 0.4992]])
    controller.paid[:, 1:] = -steps.cumsum(1)
    chain, data = task.chain, task.data.validation
    table = calibrate(RuntimePrunedNetwork(chain, controller), data)
    rows = torch.tensor([[1, 1], [2, 1], [2, 2], [3, 2], [3, 3], [4, 3], [4, 4]])
    expected = (chain.macs(rows) + controller.macs(chain.reads(rows))).double() / chain.dense_macs
    assert [row.share for row in table.rows] == pytest.approx(expected.tolist())


def test_rows_lie_next_to_the_shares_that_are_asked_for() -> None:
    task = toy_task(40)
    torch.manual_seed(1)
    network = RuntimePrunedNetwork(task.chain, Controller(task.chain.channels, GROUPS).requires_grad_(False))
    ends = calibrate(network, task.data.validation, rows=2)
    length = ends.most - ends.least
    wanted = [ends.least + part * length for part in (0.3, 0.55, 0.7)]

    def farthest(shares: list[float]) -> float:
        rows = calibrate(network, task.data.validation, rows=5, shares=shares).rows
        return max(min(abs(row.share - share) for row in rows) for share in wanted) / length

    assert farthest(wanted) < 0.02 < 0.05 < farthest([])


def test_a_row_says_what_the_network_does_at_its_knob() -> None:
    task = toy_task(40)
    torch.manual_seed(1)
    network = RuntimePrunedNetwork(task.chain, Controller(task.chain.channels, GROUPS).requires_grad_(False))
    data = task.data.validation
    for row in calibrate(network, data, rows=7).rows:
        network.knob = row.knob
        run = network.run(data.inputs())
        assert row.macs == pytest.approx(float((run.macs + run.controller_macs).double().mean()))
        assert row.accuracy == pytest.approx(float((run.logits.argmax(1) == data.y).double().mean()))
