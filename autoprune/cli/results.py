"""Networks that a plan gives: judged once more in float32, measured, stored, and as lines of the result table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.console import say, show_table
from autoprune.report import COLUMNS, Bar, Row, cells_of

if TYPE_CHECKING:
    from autoprune.applied import PrunedModel
    from autoprune.costs import Budget, LatencySettings
    from autoprune.objective import Objective
    from autoprune.opening import Opened
    from autoprune.outcome import Outcome

PLAN_JSON = "plan.json"
OUTCOME_JSON = "outcome.json"
BAR_WIDTH = 32


def row_of(
    name: str,
    outcome: Outcome,
    objective: Objective,
    latency: LatencySettings,
    *,
    budget: Budget | None = None,
    test: bool = True,
    trial: int | None = None,
    built: PrunedModel | None = None,
) -> Row:
    """One line of the result table: the network of ``outcome`` is built, judged in float32, and measured."""
    if not outcome.ok:
        return Row(name, None, fits=False, trial=trial, note=f"{outcome.status.value}: {outcome.reason}")
    pruned = built or objective.build(outcome.plan)
    measured = objective.measure(outcome.plan, latency).median_ms
    cost = outcome.cost if outcome.cost.latency_ms is not None else _with_latency(outcome, measured)
    return Row(
        name=name,
        accuracy=objective.confirm(pruned, "validation").accuracy,
        pruned=outcome.stages.get("pruned"),
        recalibrated=outcome.stages.get("recalibrated"),
        retrained=outcome.stages.get("retrained"),
        test=objective.confirm(pruned, "test").accuracy if test else None,
        macs=cost.macs,
        params=cost.params,
        bytes=cost.bytes,
        latency_ms=measured,
        fits=None if budget is None else budget.fits(cost, objective.dense_cost),
        trial=trial,
    )


def show_rows(title: str, rows: Sequence[Row]) -> None:
    """The result table; the last line is what it is about."""
    columns, cells = used_columns(rows)
    show_table(title, columns, cells, emphasis=len(rows) - 1)


def used_columns(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and cells without the columns in which nothing stands; ``budget`` only where one is not met."""
    cells = [cells_of(row) for row in rows]
    empty = ("", "-", "met")
    kept = [i for i in range(len(COLUMNS)) if i == 0 or any(line[i] not in empty for line in cells)]
    heads = tuple("pruned" if COLUMNS[i] == "before retraining" else COLUMNS[i] for i in kept)
    return heads, [tuple(line[i] for i in kept) for line in cells]


def show_bars(bars: Sequence[Bar]) -> None:
    """A plan as bars of text."""
    wide = max((len(b.name) for b in bars), default=0)
    for bar in bars:
        full = round(bar.share * BAR_WIDTH)
        picture = "█" * full + "░" * (BAR_WIDTH - full)
        say(f"  {bar.name:<{wide}}  {picture}  {bar.kept:>4} of {bar.size:<4} {bar.method}".rstrip())


def store(
    folder: Path, pruned: PrunedModel, outcome: Outcome, opened: Opened, metrics: Mapping[str, Any] | None = None
) -> None:
    """Store a pruned network with its plan and its outcome."""
    import json

    from autoprune.artifacts import save_network
    from autoprune.files import write_text
    from autoprune.surgery import attributes

    write_text(folder / PLAN_JSON, outcome.plan.to_json() + "\n")
    write_text(folder / OUTCOME_JSON, json.dumps(outcome.to_dict(), indent=2, allow_nan=False) + "\n")
    save_network(
        folder,
        pruned.module,
        opened.spec,
        data=opened.described(),
        metrics=dict(metrics or {}),
        plan=outcome.plan,
        attributes=attributes(pruned.module),
    )


def _with_latency(outcome: Outcome, latency_ms: float) -> Any:
    from dataclasses import replace

    return replace(outcome.cost, latency_ms=latency_ms)
