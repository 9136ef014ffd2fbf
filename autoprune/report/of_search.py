"""What a search found, as the plain data that a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autoprune.report.content import Bar, Point, Report, Row

if TYPE_CHECKING:
    from autoprune.graph import LayerGraph
    from autoprune.outcome import Outcome
    from autoprune.search import Row as Found
    from autoprune.search import SearchResult, TrialRecord


def report_of(
    result: SearchResult,
    graph: LayerGraph,
    *,
    title: str = "",
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The report of a search.

    Args:
        result: of :func:`autoprune.search.search`.
        graph: of the dense network.
        title: of the page.
        facts: name and value, beside those that the result knows.
        notes: sentences under the table.
    """
    budget = str(result.budget or "no budget")
    metric = result.metrics[0] if result.metrics else (result.budget.metrics[0] if result.budget else "macs")
    outcome = None if result.best is None else result.best.outcome
    known = (
        ("budget", budget),
        ("controller", f"{result.controller}, seed {result.seed}"),
        ("trials", counted(result)),
        ("study", f"{result.study_name} in {result.storage}"),
    )
    return Report(
        title=title or f"Search within {budget}",
        facts=(*facts, *known),
        rows=tuple(row_of(row, result) for row in result.rows),
        points=points_of(result, metric),
        bars=() if outcome is None else bars_of(outcome, sizes_of(graph)),
        metric=metric,
        notes=(*notes, *result.notes),
    )


def row_of(found: Found, result: SearchResult) -> Row:
    """One line of the result table."""
    outcome, cost = found.outcome, found.cost
    record = next((r for r in result.trials if r.number == found.trial), None)
    stages = {} if outcome is None else outcome.stages
    return Row(
        name=found.name,
        accuracy=found.accuracy,
        pruned=stages.get("pruned"),
        recalibrated=stages.get("recalibrated"),
        retrained=stages.get("retrained"),
        test=found.test,
        macs=None if cost is None else cost.macs,
        params=None if cost is None else cost.params,
        bytes=None if cost is None else cost.bytes,
        latency_ms=found.latency_ms,
        fits=None if record is None or result.budget is None else record.feasible,
        trial=found.trial,
        note=found.note,
    )


def points_of(result: SearchResult, metric: str = "macs") -> tuple[Point, ...]:
    """Every finished trial, in order; those that nothing beats in accuracy and cost are marked.

    In a Pareto search that is its front; else the front of accuracy against ``metric`` within the budget.
    """
    points = [_point(record) for record in result.trials if record.finished]
    front = {record.number for record in result.front} if result.metrics else front_of(points, metric)
    return tuple(replace(point, front=point.number in front) for point in points)


def front_of(points: Iterable[Point], metric: str) -> set[int]:
    """Numbers of the feasible points that no other is at least as accurate and as cheap as."""
    usable = [p for p in points if p.accuracy is not None and p.feasible and p.status == "ok" and metric in p.ratios]
    front: set[int] = set()
    best = float("-inf")
    for point in sorted(usable, key=lambda p: (p.ratios[metric], -(p.accuracy or 0.0), p.number)):
        if point.accuracy is not None and point.accuracy > best:
            best = point.accuracy
            front.add(point.number)
    return front


def bars_of(outcome: Outcome, sizes: Mapping[str, int]) -> tuple[Bar, ...]:
    """Groups and the units that the plan of ``outcome`` leaves; ``sizes`` are those of the dense network, in order."""
    layers = {layer.name: layer for layer in outcome.layers}
    names = [*sizes, *(name for name in layers if name not in sizes)]
    if layers and all(layer.pattern == "weight" for layer in layers.values()):
        names = list(layers)  # single weights: layers, not groups
    bars = []
    for name in names:
        layer = layers.get(name)
        if layer is None:
            bars.append(Bar(name, sizes[name], sizes[name]))
        else:
            bars.append(Bar(name, layer.size, layer.size - layer.removed, layer.method))
    return tuple(bars)


def sizes_of(graph: LayerGraph) -> dict[str, int]:
    """Units of every group that can be pruned, inputs aside."""
    return {group.name: group.size for group in graph.prunable if group.pattern.value != "input"}


def counted(result: SearchResult) -> str:
    """``53 trials (50 ok, 3 failed)``."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items()))
    return f"{len(result.trials)} trials ({counts})"


def _point(record: TrialRecord) -> Point:
    outcome = record.outcome
    return Point(
        number=record.number,
        accuracy=record.accuracy if record.status in ("ok", "stopped") else None,
        ratios={} if outcome is None else dict(outcome.ratios),
        feasible=record.feasible,
        status=record.status,
        source=record.baseline or record.controller,
        baseline=bool(record.baseline),
    )
