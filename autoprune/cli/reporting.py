"""What a search leaves: the table and the plan on the terminal, the report, pictures and numbers in the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.console import say
from autoprune.cli.results import show_bars, show_rows
from autoprune.report import Report, counted, report_of, write_report
from autoprune.report.format import duration

if TYPE_CHECKING:
    from autoprune.graph import LayerGraph
    from autoprune.opening import Opened
    from autoprune.search import SearchResult
    from autoprune.settings import SearchSettings

REPORT, RESULT, PICTURE, BEST = "report.html", "result.json", "plan.png", "best"


def write_files(report: Report, result: SearchResult, out: Path, wall_s: float) -> None:
    """Write the report, the picture of the plan and ``result.json``."""
    from autoprune import plots
    from autoprune.files import write_text

    write_text(out / RESULT, json.dumps(numbers_of(result, report, wall_s), indent=2, allow_nan=False) + "\n")
    if report.bars:
        plots.save(plots.bars(report.bars), out / BEST / PICTURE)
    write_report(report, out / REPORT)


def described(result: SearchResult, settings: SearchSettings, opened: Opened, graph: LayerGraph) -> Report:
    """The report of a search from the command line."""
    samples = f"{len(opened.data.validation)} validation samples"
    steps = settings.retrain_steps
    retrained = f"after {steps} steps of retraining (pruned: before them)" if steps else "without retraining"
    latency = f"latency at batch {settings.latency_batch} on {settings.latency_threads} thread(s)"
    return report_of(
        result,
        graph,
        title=f"{opened.spec.factory} on {opened.data.name}: {result.budget or 'no budget'}",
        facts=(
            ("network", opened.spec.factory),
            ("digest of the network", opened.stored.digest if opened.stored else ""),
            ("data", f"{opened.data.name}, {samples}"),
            ("retraining", f"{settings.retrain_steps} steps"),
        ),
        notes=(f"Accuracy on {samples}, {retrained}; {latency}.", *_met(result)),
    )


def _met(result: SearchResult) -> tuple[str, ...]:
    """One sentence where every network of the table meets the budget."""
    judged = [record for record in (*result.baselines.values(), result.best) if record is not None]
    every = result.budget is not None and judged and all(record.feasible for record in judged)
    return (f"Baselines and best found meet the budget: {result.budget}.",) if every else ()


def numbers_of(result: SearchResult, report: Report, wall_s: float) -> dict[str, Any]:
    """The result for programs: ``result.json``."""
    dense = result.profile.dense
    best = None if result.best is None or result.best.outcome is None else result.best
    ratios = {} if best is None or best.outcome is None else best.outcome.cost.ratios(dense)
    return {
        "version": 1,
        "rows": [row.to_dict() for row in report.rows],
        "best": None if best is None else {"trial": best.number, "source": best.name, "ratios": ratios},
        "front": [record.number for record in result.front],
        "budget": None if result.budget is None else result.budget.to_dict(),
        "limits": dict(result.profile.limits),
        "counts": result.counts,
        "controller": result.controller,
        "seed": result.seed,
        "study": result.study_name,
        "storage": result.storage,
        "interrupted": result.interrupted,
        "timed_out": result.timed_out,
        "wall_s": round(wall_s, 3),
    }


def show_result(report: Report, result: SearchResult) -> None:
    """The end of a search on the terminal: the table, the plan, the front."""
    say()
    show_rows(report.title, report.rows)
    for note in report.notes:
        say(note)
    if result.best is None:
        say("No trial gave a network within the budget; try more trials, or a wider space.")
    else:
        say(f"\nBest found: {result.best.name}. Units kept in each group:")
        show_bars(report.bars)
    if result.metrics:
        _show_front(result)


def show_stored(result: SearchResult, out: Path) -> None:
    """Where everything is, and what can be done next."""
    say(f"\n{counted(result)} in {duration(result.wall_s)}. Stored in {out}:")
    for name, what in _stored(out):
        say(f"  {name:<22} {what}")
    say("Next:")
    for line in _next(result, out):
        say(f"  {line}")


def _show_front(result: SearchResult) -> None:
    from autoprune.cli.console import show_table
    from autoprune.report.format import percent

    dense = result.profile.dense
    rows = [
        (
            r.name,
            percent(r.accuracy),
            *(f"{r.outcome.cost.ratios(dense).get(m, float('nan')):.1%}" for m in result.metrics),
        )
        for r in result.front
        if r.outcome is not None
    ]
    show_table("Pareto front", ("trial", "accuracy", *(f"{m} of dense" for m in result.metrics)), rows)


def _stored(out: Path) -> list[tuple[str, str]]:
    """What the run folder holds, of what a reader may want."""
    known = (
        ("best/model.safetensors", f"the pruned network; autoprune.load({str(out / BEST)!r}) makes it"),
        ("best/plan.json", "what was removed"),
        ("best/plan.png", "the same as a picture"),
        ("report.html", "this result with pictures"),
        ("study.db", "every trial"),
        ("base", "the dense network"),
        ("config.toml", "the settings that made it"),
        ("log.jsonl", "what happened when"),
    )
    return [(name, what) for name, what in known if (out / name).exists()]


def _next(result: SearchResult, out: Path) -> list[str]:
    lines = [f"autoprune study show {out}"]
    if (out / BEST / "model.safetensors").exists() and not result.interrupted:
        lines = [f"autoprune evaluate {out / BEST}", f"autoprune export {out / BEST} --format onnx", *lines]
    elif result.best is not None:
        lines = [f"autoprune study export {out}", *lines]
    if (out / "study.db").exists():
        lines.append(f"optuna-dashboard sqlite:///{out / 'study.db'}")
    return lines
