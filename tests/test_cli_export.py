"""Exporting a network that was stored from Python and says nothing of its data."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from typer.testing import CliRunner

from autoprune.artifacts import NetworkSpec, save_network
from autoprune.cli.main import app


def own_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))


def test_the_shape_can_be_given(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    save_network(folder, own_network(), NetworkSpec(f"{__name__}:own_network", {}))
    unknown = CliRunner().invoke(app, ["export", str(folder)])
    assert unknown.exit_code == 2
    assert "give --input-shape" in unknown.output
    wrong = CliRunner().invoke(app, ["export", str(folder), "--input-shape", "3,2"])
    assert wrong.exit_code == 2
    assert "such as 3x32x32, but got '3,2'" in wrong.output
    done = CliRunner().invoke(app, ["export", str(folder), "--format", "safetensors", "--input-shape", "3x2x2"])
    assert done.exit_code == 0, done.output
    assert (folder / "exported" / "model.safetensors").is_file()
