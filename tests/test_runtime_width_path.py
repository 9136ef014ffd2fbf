"""The path of widths: measured harm against brute force, growth, and what lies between its rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runtime_networks import zoo
from runtime_toy import GROUPS, toy_path, toy_task
from torch import nn

from autoprune.errors import ChainError
from autoprune.search.runtime.backbone import Along
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


def test_training_goes_along_the_path() -> None:
    chain, _, _ = zoo("vgg11_bn")
    stages = len(chain.stages)
    middle = [1 + chain.groups // 2] * stages
    path = WidthPath(chain, torch.tensor([[1] * stages, middle, [chain.groups] * stages]))
    torch.manual_seed(0)
    decide = Along(chain, path).start(path.shares[1:2].repeat(4000))
    actions = torch.stack([decide(SimpleNamespace(stage=s)) for s in range(stages)], 1)  # type: ignore[arg-type]
    assert actions.double().mean(0).tolist() == pytest.approx(middle, abs=0.05)
    assert int(actions.min()) >= 1
    assert int(actions.max()) <= chain.groups
    assert actions.unique().numel() > 1


def test_what_the_path_is_expected_to_lose_is_in_the_measure_of_real_losses() -> None:
    task = toy_task(6)
    path = toy_path(task)
    found = path.expected(task.chain, task.data.calibration)
    x, y = task.data.calibration.inputs(), task.data.calibration.y
    rows = path.at(torch.linspace(float(path.shares[0]), 1.0, 9, dtype=torch.float64)).round().long()
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(task.chain(x, row).double(), y)) for row in rows]
    summed = [float(sum(path.harm[s, int(a) - 1] for s, a in enumerate(row))) for row in rows]
    factor = sum(h * (loss - losses[-1]) for h, loss in zip(summed, losses, strict=True)) / sum(h * h for h in summed)
    assert torch.allclose(found, path.harm * max(factor, 0.0), atol=1e-6)
