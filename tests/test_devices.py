"""Networks run where their data lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from autoprune import Objective, Plan
from autoprune.cli.main import app
from autoprune.data import DataSplits
from autoprune.devices import device_of, placed, read_device
from autoprune.errors import SettingsError
from autoprune.plan import LayerDecision

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_devices_by_name() -> None:
    assert read_device("cpu") == torch.device("cpu")
    for name in ("cuda:97", "nonsense", "meta"):
        with pytest.raises(SettingsError, match=f"device '{name}'"):
            read_device(name)


def test_a_network_is_copied_only_to_another_device() -> None:
    network = nn.Linear(2, 3)
    assert placed(network, torch.device("cpu")) is network
    assert device_of(nn.ReLU()) == torch.device("cpu")
    moved = placed(network, torch.device("meta"))
    assert device_of(moved).type == "meta"
    assert device_of(network).type == "cpu"


@pytest.mark.parametrize("command", ["train", "search --budget macs=0.5", "runtime train"])
def test_an_unknown_device_is_told_before_any_work(command: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(app, [*command.split(), "--device", "cuda:97", "--out", str(out)])
    assert done.exit_code == 2
    assert "device 'cuda:97' cannot be used" in " ".join(done.output.split())
    assert not out.exists()


@pytest.mark.gpu
@CUDA
def test_outcomes_on_a_gpu_are_those_of_the_cpu(model: nn.Module, data: DataSplits) -> None:
    on_cpu, on_gpu = Objective(model, data), Objective(model, data.to("cuda"))
    group = next(iter(on_cpu.graph.groups))
    for steps in (0, 5):
        plan = Plan((LayerDecision(group, "l1_norm", "channel", 0.5),), steps=steps)
        a, b = on_cpu(plan), on_gpu(plan)
        assert b.cost == a.cost
        assert b.accuracy == pytest.approx(a.accuracy, abs=0.02)
    assert device_of(on_gpu.build(Plan(steps=3)).module).type == "cpu"
    assert "device" in on_gpu.identity
    assert "device" not in on_cpu.identity
