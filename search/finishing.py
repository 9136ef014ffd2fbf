"""The end of a search: choose the best, confirm it in float32, measure, fill the table, store the best network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.files import write_text
from autoprune.plan import Plan
from autoprune.search.baselines import BASELINES
from autoprune.search.progress import Progress
from autoprune.search.records import TrialRecord
from autoprune.search.result import Row, SearchResult, best_of, cheapest_near, pareto_front

if TYPE_CHECKING:
    from autoprune.artifacts import NetworkSpec

BASE, BEST = "base", "best"
PLAN_FILE = "plan.json"


def finish(
    result: SearchResult, objective: Any, *, spec: NetworkSpec | None, confirm: bool, test: bool, watch: Progress
) -> SearchResult:
    """Everything that follows the last trial. After an interruption nothing is retrained."""
    result = choose(result)
    builds = hasattr(objective, "build") and not result.interrupted
    table = _Table(result, objective, watch, confirm=confirm and builds, test=test and builds)
    rows = table.rows()
    result = replace(result, rows=rows, notes=(*result.notes, *_notes(result)))
    if result.run_dir is not None and result.best is not None and result.best.plan is not None:
        store_plan(result.run_dir / BEST, result.best)
        if spec is not None and builds:
            trained_on = base_data(result.run_dir)
            store_network(result.run_dir / BEST, objective, result.best, spec, table.built, rows[-1], trained_on)
    return result


def choose(result: SearchResult) -> SearchResult:
    """``result`` with its best trial and its front."""
    if not result.metrics:
        best = best_of(result.trials)
        return replace(result, best=best, front=() if best is None else (best,))
    front = pareto_front(result.trials, result.metrics)
    if result.budget is not None:
        return replace(result, best=best_of(result.trials), front=front)
    dense = {m: result.profile.dense.value(m) for m in result.metrics if getattr(result.profile.dense, m) is not None}
    known = tuple(m for m in result.metrics if m in dense)
    return replace(
        result, best=cheapest_near(front, known, {**dense, "accuracy": result.dense.accuracy or 1.0}), front=front
    )


def _notes(result: SearchResult) -> tuple[str, ...]:
    """What a reader of the table should know about the trials."""
    notes = []
    failed = [t for t in result.trials if t.status == "failed"]
    if failed:
        reason = failed[-1].outcome.reason if failed[-1].outcome is not None else "unknown"
        notes.append(f"{len(failed)} of {len(result.trials)} trials failed; the last one: {reason}")
    rejected = result.counts.get("rejected", 0)
    if rejected:
        notes.append(f"{rejected} proposals missed the budget and were never evaluated")
    if result.exhausted:
        notes.append(f"{result.controller} has nothing left to propose")
    return tuple(notes)


@dataclass
class _Table:
    """Fills the rows of the result table."""

    result: SearchResult
    objective: Any
    watch: Progress
    confirm: bool
    test: bool
    built: Any = None  # the best network, kept to be stored

    def rows(self) -> tuple[Row, ...]:
        """Dense, baselines, best found."""
        wanted: list[tuple[str, TrialRecord | None]] = [
            *((name, self.result.baselines.get(name)) for name in BASELINES),
            ("best found", self.result.best),
        ]
        rows = [self._row("dense", Plan(steps=0), Row("dense", self.result.dense))]  # as it is, never retrained
        for place, (name, record) in enumerate(wanted, start=1):
            self.watch.notice("table", place, len(wanted))
            if record is None or record.outcome is None or record.plan is None:
                note = "not evaluated" if record is None else record.status
                rows.append(Row(name, None, None if record is None else record.number, note=note))
                continue
            note = record.outcome.reason if record.status != "ok" else ""
            rows.append(self._row(name, record.plan, Row(name, record.outcome, record.number, note=note)))
        return tuple(rows)

    def _row(self, name: str, plan: Plan, row: Row) -> Row:
        best = name == "best found"
        row = replace(row, latency_ms=self.objective.latency(plan))
        if row.outcome is None or not row.outcome.ok or not (self.test or (self.confirm and best)):
            return row
        network = self.objective.build(plan)
        if best:
            self.built = network
        confirmed = self.objective.confirm(network, "validation").accuracy
        test = self.objective.confirm(network, "test").accuracy if self.test else None
        return replace(row, confirmed=confirmed, test=test)


def store_plan(folder: Path, record: TrialRecord) -> None:
    """Write ``plan.json`` of a trial.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    assert record.plan is not None
    write_text(folder / PLAN_FILE, record.plan.to_json() + "\n")


def base_data(run_dir: Path) -> dict[str, Any] | None:
    """What the base network of a run folder was trained on; ``None`` where the folder holds none."""
    from autoprune.artifacts import MODEL_JSON, read_network

    return read_network(run_dir / BASE).data if (run_dir / BASE / MODEL_JSON).is_file() else None


def _facts_of(data: Any) -> dict[str, Any]:
    return {"name": data.name, "digest": data.digest, "num_classes": data.num_classes}


def store_network(
    folder: Path,
    objective: Any,
    record: TrialRecord,
    spec: NetworkSpec,
    built: Any = None,
    row: Row | None = None,
    trained_on: Mapping[str, Any] | None = None,
) -> None:
    """Write the network of a trial, built again from its plan.

    Args:
        folder: where.
        objective: with the base network.
        record: the trial.
        spec: how the dense network is made.
        built: its network, where it has been built already.
        row: its line in the table, for what was confirmed.
        trained_on: what loads the data again, as the base network's description has it.

    Raises:
        ArtifactError: the folder cannot be written.
        AutopruneError: the plan has no usable network.
    """
    from autoprune import surgery
    from autoprune.artifacts import save_network

    assert record.plan is not None
    pruned = built if built is not None else objective.build(record.plan)
    metrics: dict[str, Any] = {"trial": record.number, "source": record.name}
    if record.outcome is not None:
        metrics |= {
            "accuracy": record.outcome.accuracy,
            "stages": dict(record.outcome.stages),
            "cost": record.outcome.cost.to_dict(),
            "ratios": dict(record.outcome.ratios),
        }
    if row is not None:
        metrics |= {"confirmed": row.confirmed, "test": row.test, "latency_ms": row.latency_ms}
    save_network(
        folder,
        pruned.module,
        spec,
        data=trained_on if trained_on is not None else _facts_of(objective.data),
        metrics=json.loads(json.dumps(metrics)),
        plan=record.plan,
        attributes=surgery.attributes(pruned.module),
    )
