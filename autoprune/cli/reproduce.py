"""``autoprune reproduce``: published experiments, each as one command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.options import command
from autoprune.errors import StudyError
from autoprune.report.format import duration, milliseconds, number, percent, size
from autoprune.settings import ReproducePredictorSettings, SearchSettings

if TYPE_CHECKING:
    from autoprune.costs import LatencySettings
    from autoprune.opening import Opened
    from autoprune.search.threshold.experiment import Case, Line, Setup

app = typer.Typer(help="Published experiments, each as one command.", no_args_is_help=True, add_completion=False)
CONFIG, RESULT = "config.toml", "result.json"
FREE = frozenset({"threads", "out", "bases", "data_dir"})  # may differ when a run goes on


@app.callback()
def _group() -> None:
    """Keep the name of a single command."""


def run(settings: ReproducePredictorSettings) -> None:
    """Thresholds by hand against thresholds by the predictor: one layer, then all layers, of each network.

    Accuracy, test time, size on disk, trials and seconds as a table and JSON; the norms of every layer with the chosen
    thresholds as pictures. The same command goes on where it was stopped.
    """
    from autoprune.cli.record import made_with
    from autoprune.locking import folder_lock
    from autoprune.opening import use_threads

    use_threads(settings.threads)
    cases = list(_opened(settings))  # every name is checked before anything is trained
    with folder_lock(settings.out, "experiment", StudyError):
        _check_folder(settings)
        settings.save(settings.out / CONFIG, made_with())
        lines: list[Line] = []
        for inner, opened, place in cases:
            lines += _network(settings, inner, opened, place)
            _write(settings, lines)
    show_lines(lines)
    say(f"Stored in {settings.out}")


def _opened(settings: ReproducePredictorSettings) -> Iterator[tuple[SearchSettings, Opened, Path]]:
    """For each network its settings, what they name, and its folder.

    Raises:
        AutopruneError: names, folders or a predictor that cannot be used.
    """
    from autoprune.opening import open_base
    from autoprune.search.threshold.controller import THRESHOLD_MLP
    from autoprune.space import SearchSpace
    from autoprune.tracing import trace

    given = settings.model_dump()
    shared = {name: given[name] for name in SearchSettings.model_fields if name in given and name != "predictor"}
    for name in ("trials", "out", "drop", "data", "data_options", "model_options"):
        shared.pop(name, None)
    named: dict[str, Any] = {"data": settings.data, "data_options": settings.data_options}
    wanted: list[dict[str, Any]] = [{"base": Path(folder)} for folder in settings.bases]
    wanted = wanted or [{"model": m, "model_options": settings.model_options, **named} for m in settings.models]
    for one in wanted:
        inner = SearchSettings.make({**shared, **one})
        opened = open_base(inner)
        space = SearchSpace.from_graph(
            trace(opened.module().eval(), opened.data.example(2)),
            methods=(settings.method,),
            max_sparsity=settings.max_sparsity,
        )
        options = {"drop": settings.drop} | ({"predictor": str(settings.predictor)} if settings.predictor else {})
        THRESHOLD_MLP.check(("params",), options, space)
        place = inner.base.name if inner.base is not None else opened.spec.factory
        yield inner, opened, settings.out / place


def _check_folder(settings: ReproducePredictorSettings) -> None:
    """A run folder is one experiment's.

    Raises:
        StudyError: it holds one with other settings.
    """
    path = settings.out / CONFIG
    if not path.is_file():
        return
    changed = settings.differences(type(settings).load(path), ignore=FREE)
    if changed:
        name, (here, there) = next(iter(changed.items()))
        raise StudyError(
            f"the run folder {str(settings.out)!r} holds an experiment with {name} {there!r}, but got {here!r}; "
            "give the same settings to go on, or choose another folder with --out"
        )


def _network(settings: ReproducePredictorSettings, inner: SearchSettings, opened: Opened, place: Path) -> list[Line]:
    """All lines of one network, and the pictures of its norms."""
    from autoprune.cli.search import BASE, CACHE, with_base
    from autoprune.opening import latency_of, objective_of
    from autoprune.search.threshold.experiment import Case, Setup

    opened = with_base(inner, opened, place / BASE)
    objective = objective_of(inner, opened, cache_dir=place / CACHE)
    setup = Setup(
        settings.method,
        settings.max_sparsity,
        settings.cost,
        settings.drop,
        settings.trials,
        settings.final_steps,
        settings.seed,
        "" if settings.predictor is None else str(settings.predictor),
    )
    lines: list[tuple[Case, Line]] = []
    for scope in settings.scopes:
        case = Case.of(opened, objective, scope, place / scope, setup)
        mine = _scope(settings, case, setup)
        _picture(case, mine)
        lines += [(case, line) for line in mine]
    return _timed(lines, latency_of(inner))


def _timed(lines: list[tuple[Case, Line]], settings: LatencySettings) -> list[Line]:
    """All lines with their times, which are taken anew where one of them has none yet."""
    from autoprune.search.threshold.experiment import timed

    made = [line for _, line in lines]
    if all(line.test_s for line in made):
        return made
    say("Taking the times of all networks side by side")
    folders = [case.place(line.how) for case, line in lines]
    objective = lines[0][0].objective
    made = timed(made, folders, objective.graph.norms, objective.data.test, settings)
    for (case, _), line in zip(lines, made, strict=True):
        _store(_file(case, line.how), line.to_dict())
    return made


def _file(case: Case, how: str) -> Path:
    return case.folder / "lines" / f"{how}.json"


def _scope(settings: ReproducePredictorSettings, case: Case, setup: Setup) -> list[Line]:
    """Before, by hand, automated; lines that are there are not made again."""
    from autoprune.cli.watching import Watch
    from autoprune.plan import Plan
    from autoprune.search.threshold.experiment import AUTOMATED, BEFORE, BY_HAND, Line

    lines: list[Line] = []

    def kept(how: str) -> bool:
        path = _file(case, how)
        if path.is_file():
            lines.append(Line(**json.loads(path.read_text(encoding="utf-8"))))
        return path.is_file()

    def made(how: str, plan: Plan, trials: int, seconds: float, short: float | None = None) -> None:
        before = lines[0] if lines else None
        lines.append(case.line(how, plan, before, trials=trials, seconds=seconds, short=short))
        _store(_file(case, how), lines[-1].to_dict())

    say(f"{case.opened.spec.factory}, {case.scope}: {', '.join(g.name for g in case.space.groups)}")
    hand = case.hand_plan()
    if not kept(BEFORE):
        made(BEFORE, Plan(), 0, 0.0)
    if hand.decisions and not kept(BY_HAND):
        made(BY_HAND, hand, 1, 0.0)
    for target in settings.targets:
        how = AUTOMATED[target]
        if (target == "size" and (len(case.space.groups) == 1 or not hand.decisions)) or kept(how):
            continue  # one layer at a given size leaves no choice
        with Watch(setup.trials) as watch:
            result = case.searched(target, hand, watch)
        if result.interrupted:
            raise KeyboardInterrupt
        best = case.chosen(target, result)
        if best is not None and best.plan is not None:
            made(how, best.plan, result.evaluated, sum(t.wall_s for t in result.trials), best.accuracy)
    return lines


def _picture(case: Case, lines: list[Line]) -> None:
    """The norms of the layers with every line's thresholds."""
    from autoprune import plots, threshold_plots
    from autoprune.thresholds import sorted_shares

    drawn = []
    for group in case.space.groups:
        shares = sorted_shares(case.objective.ranker.scores(group.name, case.setup.method))
        marks = {one.how: one.thresholds[group.name] for one in lines if one.thresholds.get(group.name)}
        drawn.append(threshold_plots.NormPlot(group.name, shares, marks))
    title = f"{case.opened.spec.factory}, {case.scope}: norms by {case.setup.method} and the thresholds chosen"
    plots.save(threshold_plots.norms(drawn, title), case.folder / "norms.png")


def _store(path: Path, data: dict[str, Any]) -> None:
    from autoprune.files import write_text

    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _write(settings: ReproducePredictorSettings, lines: list[Line]) -> None:
    _store(settings.out / RESULT, {"settings": settings.values(), "lines": [line.to_dict() for line in lines]})


def show_lines(lines: list[Line]) -> None:
    """The tables: what became of accuracy and what it took to choose, then what is left."""
    names = [(one.network, one.scope, one.how) for one in lines]
    judged = [
        (
            percent(one.validation),
            percent(one.test),
            f"{100 * one.drop:+.2f}",
            str(one.trials),
            duration(one.seconds),
            one.note,
        )
        for one in lines
    ]
    left = [
        (
            number(one.params),
            number(one.macs),
            size(one.bytes),
            f"{one.test_s:.2f} s",
            milliseconds(one.latency_ms),
        )
        for one in lines
    ]
    first = ("network", "layers", "thresholds")
    for title, heads, cells in (
        ("Filter pruning by thresholds on norms", ("validation", "test", "drop", "trials", "time", ""), judged),
        ("What is left", ("params", "MACs", "on disk", "test time", "latency"), left),
    ):
        rows = [(*name, *cell) for name, cell in zip(names, cells, strict=True)]
        show_table(title, (*first, *heads), rows, left=(0, 1, 2))
    say("Drop: points of test accuracy lost to the network before pruning. Published: 5 points for one layer by hand,")
    say("1 to 3 hoped for. Trials: plans evaluated to choose, baselines of the search among them.")


command(app, ReproducePredictorSettings, run, name="predictor")
