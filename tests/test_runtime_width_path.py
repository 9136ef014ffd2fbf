"""The path of widths: measured harm against brute force, growth, and what lies between its rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import close, zoo
from runtime_toy import GROUPS, toy_path, toy_task
from torch import nn

from autoprune.errors import ChainError
from autoprune.runtime import Controller
from autoprune.search.runtime.backbone import Along
from autoprune.search.runtime.judging import Table, judge
from autoprune.search.runtime.path_losses import Curve, Losses
from autoprune.search.runtime.width_path import WidthPath, _down, sensitivities

pytestmark = pytest.mark.usefixtures("one_thread")


def test_harm_is_the_loss_that_one_stage_adds() -> None:
    task = toy_task(6)
    found = sensitivities(task.chain, task.data.calibration, 6)
    x, y = task.data.calibration.inputs(slice(0, 6)), task.data.calibration.y[:6]

    def loss(row: list[int]) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(task.chain(x, row).double(), y))

    whole = loss([GROUPS] * len(task))
    for stage in range(len(task)):
        rows = [[a if s == stage else GROUPS for s in range(len(task))] for a in range(1, GROUPS + 1)]
        added = torch.tensor([loss(row) - whole for row in rows], dtype=torch.float64)
        expected = added.flip(0).clamp(min=0).cummax(0).values.flip(0)
        assert torch.allclose(found[stage], expected, atol=1e-6)


def test_the_path_grows_from_the_least_to_the_whole_network() -> None:
    task = toy_task(6)
    path = toy_path(task)
    assert path.rows[0].tolist() == [1] * len(task)
    assert path.rows[-1].tolist() == [GROUPS] * len(task)
    assert bool((path.rows.diff(dim=0) >= 0).all())
    assert torch.equal(path.at(path.shares), path.rows.double())
    assert torch.equal(path.at(torch.tensor([0.0, 2.0])), path.rows[[0, -1]].double())
    between = path.at((path.shares[:1] + path.shares[1:2]) / 2)
    assert torch.allclose(between, path.rows[:2].double().mean(0))


def test_the_least_harmful_stage_becomes_narrow_first() -> None:
    chain: Any = SimpleNamespace(groups=3, stages=(0, 1), dense_macs=6, macs=lambda row: torch.as_tensor(row).sum(-1))
    harm = torch.tensor([[5.0, 0.1, 0.0], [0.3, 0.2, 0.0]], dtype=torch.float64)
    assert _down(chain, harm, [3, 3]) == [2, 3]  # 0.1 a group, then 0.15 a group for both, then 4.9
    assert _down(chain, harm, [2, 3]) == [2, 1]
    assert _down(chain, harm, [2, 1]) == [1, 1]


@pytest.mark.parametrize("rows", [[[1, 1], [4, 3]], [[1, 2], [4, 4]], [[1, 1], [1, 3], [4, 2], [4, 4]]])
def test_rows_that_do_not_grow_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(ChainError, match="a path must grow"):
        WidthPath(toy_task(6).chain, torch.tensor(rows))


@pytest.mark.parametrize("size", [1, 8, 64])
def test_shares_count_what_decisions_cost(size: int) -> None:
    chain, _, _ = zoo("vgg11_bn")
    controller = Controller(chain.channels, chain.groups, code=size, hidden=size)
    path = WidthPath.even(chain, controller.macs)
    costs = chain.macs(path.rows) + controller.macs(chain.reads(path.rows))
    assert torch.equal(path.shares, costs.double() / chain.dense_macs)
    assert torch.equal(path.taken(path.shares), path.rows)
    low, high = path.reached((0.5, 1.0))
    assert low == 0.5
    assert path.row(high).tolist() == [chain.groups] * len(chain.stages)
    assert WidthPath.even(chain).reached((0.5, 1.0)) == (0.5, 1.0)


def test_even_widths_differ_by_one_group_at_most() -> None:
    chain, _, _ = zoo("vgg11_bn")
    path = WidthPath.even(chain)
    assert int((path.rows.amax(1) - path.rows.amin(1)).max()) == 1
    assert len(path.rows) == 1 + (chain.groups - 1) * len(chain.stages)
    assert bool((path.rows.diff(dim=0).sum(1) == 1).all())


def test_training_goes_along_the_path() -> None:
    chain, _, _ = zoo("vgg11_bn")
    stages = len(chain.stages)
    middle = [1 + chain.groups // 2] * stages
    path = WidthPath(chain, torch.tensor([[1] * stages, middle, [chain.groups] * stages]))
    for share, row in ((float(path.shares[1]), middle), (0.0, [1] * stages), (1.0, [chain.groups] * stages)):
        decide = Along(path).start(share, 3)
        together = torch.stack([decide(SimpleNamespace(stage=s)) for s in range(stages)], 1)  # type: ignore[arg-type]
        assert together.tolist() == [row] * 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_a_controller_that_scores_by_what_actions_are_worth_goes_along_the_path(seed: int) -> None:
    task = toy_task(6)
    draws = torch.Generator().manual_seed(seed)
    rows = [[1] * len(task)]
    while min(rows[-1]) < GROUPS:
        stage = int(torch.randint(len(task), (), generator=draws))
        more = int(torch.randint(1, 3, (), generator=draws))
        row = [min(a + more, GROUPS) if s == stage else a for s, a in enumerate(rows[-1])]
        rows += [row] if row != rows[-1] else []
    path = WidthPath(task.chain, torch.tensor(rows))
    prices = (0.7, 1.3)
    curve = path.losses(task.chain, task.data.calibration).curve
    worth = path.worth(curve, prices)
    assert not worth[:, -1].any()
    assert bool((worth.diff(dim=1) <= 0).all())
    groups = torch.arange(GROUPS, dtype=torch.float64)
    steps = -worth.diff(dim=1) / torch.tensor(prices, dtype=torch.float64)[:, None]
    knobs = steps.flatten().sort().values
    knobs = knobs[torch.cat([torch.tensor([True]), knobs.diff() > 1e-6 * knobs[-1]])]  # equal ones but for rounding
    taken = [[1] * len(task)]
    for knob in [*(-(knobs[1:] + knobs[:-1]) / 2).flip(0).tolist(), 0.0]:
        row = [int((knob * price * groups - own).argmax()) + 1 for price, own in zip(prices, worth, strict=True)]
        taken += [row] if row != taken[-1] else []
    assert taken == rows


def test_what_actions_are_worth_adds_up_to_the_losses_along_the_path() -> None:
    """Where the losses fall by an exponential in the share, they are found again."""
    path = toy_path(toy_task(6))
    least = float(path.shares[0])

    def falling(begin: float) -> Losses:
        shares = torch.linspace(begin, 1.0, 9, dtype=torch.float64)
        along = 0.3 + 2 * (-3 * shares)[:, None].exp() + torch.tensor([-0.1, 0.0, 0.1])  # of three samples
        return Losses(least, torch.full((3,), 0.3 + 2 * math.exp(-3 * least)).double(), begin, shares, along)

    curve = falling(least).curve
    assert (curve.fall, curve.steepness) == (pytest.approx(2, rel=0.05), pytest.approx(3, rel=0.05))
    worth = path.worth(curve, (1.0, 1.0))
    assert float(worth[:, 0].sum()) == pytest.approx(2 * (math.exp(-3 * least) - math.exp(-3)), rel=0.3)
    steep = falling(0.6).curve
    slope = steep.slope(torch.tensor([least, 0.5, 0.6, 0.9, 1.0], dtype=torch.float64))
    assert bool((slope.diff() < 0).all())
    lost = 2 * (math.exp(-3 * least) - math.exp(-3 * 0.6))
    assert steep.below == pytest.approx(lost / (0.6 - least), rel=0.3)


def test_only_what_was_measured_below_the_least_share_counts_there() -> None:
    curve = Curve(fall=1.0, steepness=2.0, least=0.5, below=7.0)
    found = curve.slope(torch.tensor([0.2, 0.4, 0.5], dtype=torch.float64))
    assert found.tolist() == pytest.approx([7.0, 7.0, 2 * math.exp(-1)], abs=0.01)
    assert float(found[0]) > float(found[1])


def test_losses_along_the_path_are_those_of_its_rows() -> None:
    task = toy_task(6)
    path = toy_path(task)
    found = path.losses(task.chain, task.data.calibration, 0.6, 12)
    few = task.data.calibration.subset(slice(0, 12))
    assert float(found.shares[0]) == pytest.approx(0.6, abs=0.25)
    assert float(found.shares[-1]) == 1.0
    assert close(found.along[-1], judge(task.chain, few, Table(torch.full((len(task),), GROUPS))).losses)
    assert close(found.first, judge(task.chain, few, Table(torch.ones(len(task)).long())).losses)
    right = task.chain(few.inputs(slice(0, 12)), torch.ones(len(task)).long()).softmax(1)
    assert close(found.errors.first, 1 - right[torch.arange(12), few.y].double(), 1e-6)
