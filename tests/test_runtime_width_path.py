"""The path of widths: measured harm against brute force, growth, and what lies between its rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import zoo
from runtime_toy import GROUPS, toy_path, toy_task
from torch import nn

from autoprune.errors import ChainError
from autoprune.search.runtime import width_path as module
from autoprune.search.runtime.backbone import Along
from autoprune.search.runtime.width_path import Curve, WidthPath, _down, sensitivities

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


def test_training_goes_along_the_path() -> None:
    chain, _, _ = zoo("vgg11_bn")
    stages = len(chain.stages)
    middle = [1 + chain.groups // 2] * stages
    path = WidthPath(chain, torch.tensor([[1] * stages, middle, [chain.groups] * stages]))
    torch.manual_seed(0)
    along = Along(chain, path)
    actions = along.rows(path.shares[1:2].repeat(4000))
    decide = along.start(float(path.shares[1]), 3)
    together = torch.stack([decide(SimpleNamespace(stage=s)) for s in range(stages)], 1)  # type: ignore[arg-type]
    assert together.shape == (3, stages)
    assert bool((together == together[0]).all())
    assert actions.double().mean(0).tolist() == pytest.approx(middle, abs=0.05)
    assert int(actions.min()) >= 1
    assert int(actions.max()) <= chain.groups
    assert actions.unique().numel() > 1


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
    worth = path.worth(task.chain, task.data.calibration, prices)
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
    task = toy_task(6)
    path = toy_path(task)
    chain: Any = task.chain
    with pytest.MonkeyPatch.context() as patch:
        share = lambda row: float(chain.macs(row)) / chain.dense_macs  # noqa: E731
        patch.setattr(module, "_loss", lambda chain, row, split, samples: 0.3 + 2 * math.exp(-3 * share(row)))
        curve = path._curve(chain, task.data.calibration, 8, 0.0)
        assert (curve.fall, curve.steepness) == (pytest.approx(2, rel=0.05), pytest.approx(3, rel=0.05))
        worth = path.worth(chain, task.data.calibration, (1.0, 1.0))
        least = float(path.shares[0])
        assert float(worth[:, 0].sum()) == pytest.approx(2 * (math.exp(-3 * least) - math.exp(-3)), rel=0.3)
        steep = path._curve(chain, task.data.calibration, 8, 0.6)
        slope = steep.slope(torch.tensor([least, 0.5, 0.6, 0.9, 1.0], dtype=torch.float64))
    assert bool((slope.diff() < 0).all())
    lost = 2 * (math.exp(-3 * least) - math.exp(-3 * 0.6))
    assert steep.below == pytest.approx(lost / (0.6 - least), rel=0.3)


def test_only_what_was_measured_below_the_least_share_counts_there() -> None:
    curve = Curve(fall=1.0, steepness=2.0, least=0.5, below=7.0)
    found = curve.slope(torch.tensor([0.2, 0.4, 0.5], dtype=torch.float64))
    assert found.tolist() == pytest.approx([7.0, 7.0, 2 * math.exp(-1)], abs=0.01)
    assert float(found[0]) > float(found[1])
