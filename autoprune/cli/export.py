"""``autoprune export``: a stored network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autoprune.cli.console import say
from autoprune.cli.options import command
from autoprune.errors import SettingsError
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
    shape = None if settings.input_shape is None else shape_of(settings.input_shape)
    write(load(network), example_of(stored, shape), settings.format, settings.out or network / "exported")


def write(module: nn.Module, example: Tensor, form: str, folder: Path) -> None:
    """Export ``module`` to ``folder`` and say what came of it."""
    from autoprune.export import export_network

    done = export_network(module, example, folder, form)
    batch = "any batch size" if done.any_batch else f"batches of {len(example)} only"
    say(f"Wrote {done.path} ({size(done.path.stat().st_size)}, {batch})")
    say(f"Read back: outputs differ by {done.difference:.1e} at most")


def shape_of(text: str) -> tuple[int, ...]:
    """``(3, 32, 32)`` of ``3x32x32``.

    Raises:
        SettingsError: anything else.
    """
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise SettingsError(f"--input-shape must be whole numbers joined by x, such as 3x32x32, but got {text!r}")
    return tuple(int(part) for part in parts)


def example_of(stored: StoredNetwork, shape: tuple[int, ...] | None = None) -> Tensor:
    """Two inputs of the kind that the network was trained on; the data themselves are read only where they must be.

    Raises:
        SettingsError: neither the caller nor the stored network knows the shape.
    """
    import torch

    from autoprune.opening import open_data, trained_on
    from autoprune.seeding import generator

    facts = stored.data.get("options") or {}
    if shape is None and facts.get("input_type", "torch.float32") == "torch.float32":
        shape = facts.get("input_shape") or stored.spec.options.get("input_shape")
    if shape is not None:
        return torch.randn(2, *shape, generator=generator(0, "export example"))
    try:
        asked = trained_on(stored)
    except SettingsError:
        raise SettingsError(
            f"the network in {str(stored.folder)!r} does not say what its input looks like; give --input-shape"
        ) from None
    return open_data(asked, None)[0].example(2)


command(app, ExportSettings, run, arguments={"network": (Path, "Folder of a stored network.")})
