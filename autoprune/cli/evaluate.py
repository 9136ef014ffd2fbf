"""``autoprune evaluate``: what a stored network can do and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autoprune.cli.console import show_facts
from autoprune.cli.options import command
from autoprune.errors import GraphError, ModelError
from autoprune.report.format import number, percent, size
from autoprune.settings import EvaluateSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autoprune.costs import Latency
    from autoprune.data import DataSplits
    from autoprune.graph import LayerGraph

app = typer.Typer(add_completion=False)


def run(settings: EvaluateSettings, network: Path) -> None:
    """Judge and measure a stored network, dense or pruned."""
    from autoprune.artifacts import MODEL_TENSORS, load, read_network
    from autoprune.evaluation import evaluate
    from autoprune.opening import open_data, trained_on, use_threads

    use_threads(settings.threads)
    stored = read_network(network)
    module = load(network)
    asked = trained_on(stored) if settings.data is None else {"data": settings.data, "seed": 0, "options": {}}
    data, _ = open_data(asked, settings.data_dir)
    _check_fit(module, data)
    split = getattr(data, settings.split)
    judged = evaluate(module, split)
    graph = _traced(module, data.example(2))
    rows = [
        ("network", f"{stored.spec.factory}, {'dense' if stored.plan is None else 'pruned'}"),
        ("data", f"{data.name}, {settings.split} split, {len(split)} samples"),
        ("accuracy", percent(judged.accuracy)),
        ("loss", f"{judged.loss:.4f}"),
        ("params", number(sum(p.numel() for p in module.parameters()))),
        ("MACs", "unknown: the network cannot be traced" if graph is None else number(graph.macs)),
        ("bytes", size((network / MODEL_TENSORS).stat().st_size)),
    ]
    if settings.latency:
        rows.append(("latency", str(_latency(module, graph, data.example(2), settings))))
    show_facts(str(network), rows)


def _check_fit(module: nn.Module, data: DataSplits) -> None:
    """Run the network once on the data.

    Raises:
        ModelError: it cannot take them.
    """
    import torch

    try:
        with torch.no_grad():
            module(data.example(2))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the network cannot take samples of {data.name!r} (shape {list(data.input_shape)}): {reason}"
        ) from error


def _traced(module: nn.Module, example: Tensor) -> LayerGraph | None:
    from autoprune.tracing import trace

    try:
        return trace(module, example, prove=False)
    except GraphError:
        return None


def _latency(module: nn.Module, graph: LayerGraph | None, example: Tensor, settings: EvaluateSettings) -> Latency:
    from autoprune.costs import LatencySettings, measure_latency
    from autoprune.deploy import deployed

    norms = () if graph is None else graph.norms
    wanted = LatencySettings(batch=settings.latency_batch, threads=settings.latency_threads)
    return measure_latency(deployed(module, norms), example, wanted)


command(app, EvaluateSettings, run, arguments={"network": (Path, "Folder of a stored network.")})
