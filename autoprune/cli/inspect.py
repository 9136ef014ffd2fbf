"""``autoprune inspect``: what a network is made of, and where it can lose what."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.options import command
from autoprune.errors import SettingsError
from autoprune.report.format import number, percent
from autoprune.settings import InspectSettings

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.graph import LayerGraph
    from autoprune.opening import Opened
    from autoprune.sensitivity import Sensitivity

app = typer.Typer(add_completion=False)


def run(settings: InspectSettings) -> None:
    """Show layers, costs, groups, how sensitive each group is, and the norms of its filters."""
    from autoprune.opening import open_base, use_threads
    from autoprune.tracing import trace

    use_threads(settings.threads)
    for name in ("sensitivity", "norms"):
        if getattr(settings, name) and settings.base is None:
            needs = "needs" if name == "sensitivity" else "need"
            raise SettingsError(
                f"{name} {needs} a trained network; name its folder with --base ('autoprune train' makes one)"
            )
    if settings.norms:
        from autoprune.cli.norms import check_norms

        check_norms(settings)
    opened = open_base(settings)
    graph = trace(opened.module().eval(), opened.data.example(2))
    show_layers(graph, opened.spec.factory)
    show_groups(graph)
    if settings.sensitivity:
        show_sensitivity(settings, opened, graph)
    if settings.norms:
        from autoprune.cli.norms import show_norms

        show_norms(settings, opened, graph, folder_of(settings, opened))


def folder_of(settings: InspectSettings, opened: Opened) -> Path:
    """Where tables and pictures go."""
    from autoprune.opening import default_folder

    return settings.out or default_folder("runs", opened).with_name(f"{opened.name}-inspect")


def show_layers(graph: LayerGraph, name: str) -> None:
    """A line for each layer, in the order they run."""
    owners = {slot.layer: g.name for g in graph.groups.values() for slot in g.producers}
    rows = [
        (
            layer.name,
            layer.kind,
            _shape(layer.output_shape),
            _shape(layer.weight_shape),
            number(layer.params),
            number(layer.macs),
            percent(layer.macs / graph.macs if graph.macs else 0.0, 1),
            owners.get(layer.name, ""),
        )
        for layer in graph.layers.values()
    ]
    heads = ("layer", "kind", "output", "weight", "params", "MACs", "of all", "group")
    title = f"{name}: {number(graph.params)} parameters, {number(graph.macs)} MACs for one sample"
    show_table(title, heads, rows, left=(0, 1, 2, 3, 7))


def show_groups(graph: LayerGraph) -> None:
    """A line for each group: what can be pruned, and why the rest cannot."""
    rows = [
        (
            g.name,
            g.pattern.value,
            number(g.size),
            ", ".join(dict.fromkeys(slot.layer for slot in g.producers)) or "-",
            ", ".join(dict.fromkeys(slot.layer for slot in g.consumers)) or "-",
            "yes" if g.protected is None else f"no: {g.protected}",
        )
        for g in graph.groups.values()
    ]
    heads = ("group", "unit", "units", "made by", "used by", "can be pruned")
    show_table("Groups: units that go together", heads, rows, left=(0, 1, 3, 4, 5), fold=(3, 4, 5))


def show_sensitivity(settings: InspectSettings, opened: Opened, graph: LayerGraph) -> None:
    """Accuracy with one group pruned at a time, as a table, a CSV file and a picture."""
    from autoprune import plots
    from autoprune.files import write_text

    found = _measured(settings, opened, graph)
    levels = settings.sparsities
    rows = [(c.group, number(c.size), *(percent(plots.nearest(c, x), 1) for x in levels)) for c in found.curves]
    title = f"Validation accuracy with one group pruned by {found.method} (dense {percent(found.accuracy)})"
    show_table(title, ("group", "units", *(f"-{level:.0%}" for level in levels)), rows)
    out = folder_of(settings, opened)
    write_text(out / "sensitivity.csv", _csv(found))
    plots.save(plots.sensitivity(found), out / "sensitivity.png")
    say(f"Stored {out / 'sensitivity.png'} and {out / 'sensitivity.csv'}")


def _measured(settings: InspectSettings, opened: Opened, graph: LayerGraph) -> Sensitivity:
    from autoprune.cli.meter import Meter
    from autoprune.opening import objective_of
    from autoprune.sensitivity import sensitivity
    from autoprune.space import SearchSpace

    levels = settings.sparsities
    space = SearchSpace.from_graph(
        graph,
        methods=(settings.method,),
        include=settings.include,
        exclude=settings.exclude,
        max_sparsity=max(levels),
    )
    objective = objective_of(settings, opened, graph=graph)
    with Meter("Plan", len(space.groups) * len(levels)) as meter:
        return sensitivity(objective, space, levels=levels, progress=lambda done, _: meter.update(done))


def _csv(found: Sensitivity) -> str:
    """Curves as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "units", "removed", "sparsity", "accuracy", "loss"))
    for c in found.curves:
        for removed, sparsity, accuracy, loss in zip(c.removed, c.sparsity, c.accuracy, c.loss, strict=True):
            writer.writerow((c.group, c.size, removed, f"{sparsity:g}", accuracy, loss))
    return text.getvalue()


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes)) or "-"


command(app, InspectSettings, run)
