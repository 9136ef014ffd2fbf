"""``autoprune study``: what searches left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.compare import compare
from autoprune.cli.console import say, show_facts, show_table
from autoprune.cli.errors import reported
from autoprune.cli.options import command
from autoprune.errors import StudyError
from autoprune.report.format import duration, milliseconds, percent
from autoprune.settings import StudyExportSettings

if TYPE_CHECKING:
    from autoprune.search import TrialRecord
    from autoprune.search.studies import StoredStudy, StudySummary

app = typer.Typer(help="Look into studies; take networks out of them.", no_args_is_help=True, add_completion=False)

Where = Annotated[str, typer.Argument(help="Run folder, SQLite file, or URL of an Optuna storage.", show_default=False)]
Name = Annotated[str | None, typer.Option("--name", help="Name of the study, where there are several.")]


@app.command("list")
def list_(
    where: Annotated[str, typer.Argument(help="Folder of run folders, run folder, SQLite file, or URL.")] = "runs",
) -> None:
    """Every study in a place."""
    with reported():
        from autoprune.search.studies import list_studies

        found = list_studies(where)
        if not found:
            say(f"No study in {where}; 'autoprune search' makes one.")
            return
        heads = ("study", "where", "budget", "trials", "best", "last change")
        show_table(f"Studies in {where}", heads, [_line(s) for s in found], left=(0, 1, 2, 3, 5), fold=(2, 3))


@app.command("show")
def show(
    where: Where,
    name: Name = None,
    trial: Annotated[int | None, typer.Option("--trial", help="One trial, layer by layer.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="So many of the best trials.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All trials, in order.")] = False,
) -> None:
    """The trials of a study, or one of them."""
    with reported():
        from autoprune.search.studies import open_study

        study = open_study(where, name)
        if trial is not None:
            show_trial(study, study.trial(trial))
            return
        chosen = list(study.trials) if everything else sorted(study.trials, key=_rank)[:top]
        counts = ", ".join(f"{count} {status}" for status, count in sorted(study.counts.items()))
        title = f"Study {study.name!r}: {study.budget or 'no budget'}; {len(study.trials)} trials ({counts})"
        heads = ("trial", "from", "status", "accuracy", "MACs", "params", "bytes", "latency", "budget", "time")
        best = study.best
        place = next((i for i, t in enumerate(chosen) if best is not None and t.number == best.number), -1)
        show_table(title, heads, [_trial_line(t) for t in chosen], left=(1, 2), emphasis=place)
        if len(chosen) < len(study.trials):
            say(f"{len(study.trials) - len(chosen)} more with --all; one of them layer by layer with --trial N.")


@app.command("best")
def best(where: Where, name: Name = None) -> None:
    """The best trial of a study."""
    with reported():
        from autoprune.search.studies import open_study

        study = open_study(where, name)
        if study.best is None:
            raise StudyError(f"the study {study.name!r} has no trial that meets its budget yet; search on")
        show_trial(study, study.best)


def show_trial(study: StoredStudy, record: TrialRecord) -> None:
    """One trial: what became of it, and what it left of each group."""
    from autoprune.cli.results import show_bars
    from autoprune.report import bars_of

    outcome = record.outcome
    facts = [
        ("status", record.status if outcome is None or not outcome.reason else f"{record.status}: {outcome.reason}")
    ]
    if outcome is not None:
        facts += [(f"accuracy, {stage}", percent(value)) for stage, value in outcome.stages.items()]
        facts += [("accuracy", f"{percent(outcome.accuracy)} on {outcome.images} samples ({outcome.precision})")]
        facts += [(metric, f"{value:,.6g} ({share:.1%} of dense)") for metric, value, share in _costs(record)]
    facts += [("within budget", "yes" if record.feasible else "no"), ("time", f"{record.wall_s:.2f} s")]
    if record.plan is not None:
        facts += [("repair", record.plan.reconstruction), ("plan digest", record.plan.digest)]
    show_facts(f"{record.name} of study {study.name!r}", facts)
    if outcome is not None:
        show_bars(bars_of(outcome, {group.name: group.size for group in study.space.groups}))


def export(settings: StudyExportSettings, run: Path) -> None:
    """Build the network of a trial again, bit for bit, and store it; the best one by default."""
    from autoprune.cli.export import example_of, write
    from autoprune.cli.search import BASE, CACHE, CONFIG, objective_for
    from autoprune.opening import open_base
    from autoprune.search.studies import export_trial, open_study
    from autoprune.settings import SearchSettings

    if not (run / CONFIG).is_file():
        raise StudyError(
            f"{str(run)!r} is not a run folder ({CONFIG} is missing); 'autoprune search' makes run folders"
        )
    made = SearchSettings.load(run / CONFIG)
    given: dict[str, Any] = {
        "base": run / BASE,
        "model": None,
        "model_options": {},
        "data_dir": settings.data_dir or made.data_dir,
    }
    made = SearchSettings.make({**made.values(), **given})
    opened = open_base(made)
    study = open_study(made.storage or run, made.study_name if made.storage is None else made.study_name or run.name)
    out = settings.out or run / ("best" if settings.trial is None else f"trial-{settings.trial}")
    objective = objective_for(made, opened, run / CACHE)
    assert opened.stored is not None
    record = export_trial(study, objective, opened.spec, out, settings.trial, opened.stored.data)
    say(f"Stored {record.name} in {out}: validation {percent(record.accuracy)}")
    if settings.format != "safetensors":
        from autoprune.artifacts import load

        write(load(out), example_of(opened.stored), settings.format, out)


def _line(found: StudySummary) -> tuple[Any, ...]:
    where = str(found.folder or found.where)
    if found.problem:
        return found.name, where, f"cannot be read: {found.problem}", "", "", ""
    counts = ", ".join(f"{count} {status}" for status, count in sorted((found.counts or {}).items()))
    best_ = "-" if found.best is None else f"{percent(found.best[1])} (trial {found.best[0]})"
    changed = "-" if found.changed is None else f"{found.changed:%Y-%m-%d %H:%M}"
    goal = found.budget + (f"; front against {', '.join(found.metrics)}" if found.metrics else "")
    return found.name, where, goal, counts, best_, changed


def _trial_line(record: TrialRecord) -> tuple[str, ...]:
    shares = {metric: f"{share:.1%}" for metric, _, share in _costs(record)}
    cost = None if record.outcome is None else record.outcome.cost
    return (
        str(record.number),
        record.baseline or record.controller,
        record.status,
        percent(record.accuracy),
        *(shares.get(metric, "-") for metric in ("macs", "params", "bytes")),
        milliseconds(None if cost is None else cost.latency_ms),
        "met" if record.feasible else "not met",
        duration(record.wall_s) if record.wall_s >= 60 else f"{record.wall_s:.2f} s",
    )


def _costs(record: TrialRecord) -> list[tuple[str, float, float]]:
    """(metric, value, share of dense) of an evaluated trial."""
    outcome = record.outcome
    if outcome is None:
        return []
    return [(metric, outcome.cost.value(metric), share) for metric, share in outcome.ratios.items()]


def _rank(record: TrialRecord) -> tuple[bool, float, float, int]:
    """The order of the best: usable, accurate, small, early."""
    macs = record.outcome.cost.macs if record.outcome is not None else 0
    return not record.usable, -(record.accuracy or 0.0), macs, record.number


app.command("compare")(compare)
command(app, StudyExportSettings, export, name="export", arguments={"run": (Path, "Run folder of a search.")})
