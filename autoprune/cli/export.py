"""``autoprune export``: a stored network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autoprune.cli.console import say
from autoprune.cli.options import command
from autoprune.report.format import size
from autoprune.settings import ExportSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.artifacts import StoredNetwork

app = typer.Typer(add_completion=False)


def run(settings: ExportSettings, network: Path) -> None:
    """Write a stored network as safetensors, torch.export or ONNX.

    What is written is read back, and its outputs are compared with the network's before it counts.
    """
    from autoprune.artifacts import load, read_network

    stored = read_network(network)
    write(load(network), example_of(stored), settings.format, settings.out or network / "exported")


def write(module: nn.Module, example: Tensor, form: str, folder: Path) -> None:
    """Export ``module`` to ``folder`` and say what came of it."""
    from autoprune.export import export_network

    done = export_network(module, example, folder, form)
    batch = "any batch size" if done.any_batch else f"batches of {len(example)} only"
    say(f"Wrote {done.path} ({size(done.path.stat().st_size)}, {batch})")
    say(f"Read back: outputs differ by {done.difference:.1e} at most")


def example_of(stored: StoredNetwork) -> Tensor:
    """Two inputs of the kind that the network was trained on; the data themselves are read only where they must be."""
    import torch

    from autoprune.cli.opening import open_data, trained_on
    from autoprune.seeding import generator

    facts = stored.data.get("options") or {}
    if facts.get("input_type") == "torch.float32" and facts.get("input_shape"):
        return torch.randn(2, *facts["input_shape"], generator=generator(0, "export example"))
    return open_data(trained_on(stored), None)[0].example(2)


command(app, ExportSettings, run, arguments={"network": (Path, "Folder of a stored network.")})
