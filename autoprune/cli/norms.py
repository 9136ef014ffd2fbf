"""The norms of every layer, drawn, with thresholds by the knee and by a predictor: ``autoprune inspect --norms``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.cli.console import say, show_table
from autoprune.report.format import number, percent
from autoprune.thresholds import Thresholds, knee, sorted_shares, threshold_of, units_below

if TYPE_CHECKING:
    from autoprune.graph import LayerGraph
    from autoprune.opening import Opened
    from autoprune.settings import InspectSettings
    from autoprune.threshold_plots import NormPlot

KNEE, PREDICTED = "knee", "predicted"


def check_norms(settings: InspectSettings) -> None:
    """Refuse names and files that cannot be, before any work.

    Raises:
        UnknownNameError: no such method.
        ArtifactError: no such predictor, or one of other features.
    """
    from autoprune.methods import get_method
    from autoprune.search.threshold.stored import read_predictor

    get_method(settings.method)
    if settings.predictor is not None:
        read_predictor(settings.predictor)


def show_norms(settings: InspectSettings, opened: Opened, graph: LayerGraph, out: Path) -> None:
    """A table, a picture and files of thresholds.

    Raises:
        UnknownNameError, MethodError: a glob that matches nothing, or a method that cannot rank these units.
    """
    from autoprune import plots, threshold_plots
    from autoprune.opening import objective_of

    objective = objective_of(settings, opened, graph=graph)
    groups = [g for g in graph.select(settings.include, settings.exclude) if settings.include or g.pattern != "input"]
    shares = {g.name: sorted_shares(objective.ranker.scores(g.name, settings.method)) for g in groups}
    chosen = {KNEE: {name: threshold_of(values, knee(values)) for name, values in shares.items()}}
    if settings.predictor is not None:
        chosen[PREDICTED] = _predicted(settings, objective)
    drawn = [
        threshold_plots.NormPlot(name, values, {who: t[name] for who, t in chosen.items() if name in t})
        for name, values in shares.items()
    ]
    _table(settings, drawn)
    for who, values in chosen.items():
        Thresholds(values, settings.method).save(out / f"thresholds-{who}.json")
    title = f"Norms of the filters of {opened.spec.factory} by {settings.method}"
    plots.save(threshold_plots.norms(drawn, title), out / "norms.png")
    say(f"Stored {out / 'norms.png'} and {' and '.join(str(out / f'thresholds-{who}.json') for who in chosen)}")
    say(f"Next:  autoprune prune --base {settings.base} --thresholds {out / f'thresholds-{list(chosen)[-1]}.json'}")


def _predicted(settings: InspectSettings, objective: object) -> dict[str, float]:
    """Thresholds that the predictor would choose for all layers together."""
    from autoprune.cli.meter import Meter
    from autoprune.search.baselines import IMAGES
    from autoprune.search.threshold.facts import facts_of
    from autoprune.search.threshold.foretell import affordable
    from autoprune.search.threshold.stored import load_predictor
    from autoprune.sensitivity import LEVELS, sensitivity
    from autoprune.space import SearchSpace

    assert settings.predictor is not None
    space = SearchSpace.from_graph(
        objective.graph,  # type: ignore[attr-defined]
        methods=(settings.method,),
        include=settings.include,
        exclude=settings.exclude,
    )
    with Meter("Plan", len(space.groups) * len(LEVELS)) as meter:
        curves = sensitivity(objective, space, images=IMAGES, progress=lambda done, _: meter.update(done))  # type: ignore[arg-type]
    facts = facts_of(objective, space).knowing(curves)  # type: ignore[arg-type]
    steps = settings.retrain_steps
    facts = replace(facts, steps=steps, batch=128 if steps else 0)
    found = affordable(load_predictor(settings.predictor), space, facts, objective.costs, settings.drop)  # type: ignore[attr-defined]
    say(
        f"Predicted: a drop of {100 * found.drop:.2f} +- {100 * found.spread:.2f} points after {steps} steps of "
        f"retraining, {percent(found.macs, 1)} of the multiply-accumulates left"
    )
    return found.thresholds


def _table(settings: InspectSettings, drawn: list[NormPlot]) -> None:
    """A line for each group: the spread of its norms, and what each threshold removes."""
    names = list(dict.fromkeys(name for g in drawn for name in g.thresholds))
    rows = [
        (
            g.name,
            number(len(g.shares)),
            f"{g.shares[0]:.2f}",
            f"{g.shares[len(g.shares) // 2]:.2f}",
            f"{g.shares[-1]:.2f}",
            *(cell for name in names for cell in _cells(g, name)),
        )
        for g in drawn
    ]
    heads = ("group", "units", "smallest", "middle", "largest", *(h for n in names for h in (n, "removes")))
    show_table(f"Norms by {settings.method}, in units of each group's mean", heads, rows)


def _cells(group: NormPlot, name: str) -> tuple[str, str]:
    if name not in group.thresholds:
        return "-", "-"
    threshold = group.thresholds[name]
    count = units_below(group.shares, threshold)
    return f"{threshold:.3f}", f"{count} ({percent(count / len(group.shares), 0)})"
