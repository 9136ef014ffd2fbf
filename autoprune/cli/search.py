"""``autoprune search``: the main job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoprune.cli.console import say
from autoprune.cli.errors import INTERRUPTED
from autoprune.cli.options import command
from autoprune.errors import StudyError
from autoprune.settings import SearchSettings

if TYPE_CHECKING:
    from autoprune.objective import Objective
    from autoprune.opening import Opened
    from autoprune.search import SearchResult
    from autoprune.space import SearchSpace

app = typer.Typer(add_completion=False)
BASE, CACHE, CONFIG = "base", "cache", "config.toml"
SMALL = (
    2_000_000  # MACs below which a second thread gains a fifth on an idle machine, and costs ten times on a busy one
)


def run(settings: SearchSettings) -> None:
    """Search the best smaller network within a budget.

    Without a base network one is trained first. The run is a folder: the same command goes on where it was stopped, and
    more --trials continue it. Ctrl-C ends it with what it has.
    """
    from autoprune.cli.record import made_with
    from autoprune.cli.reporting import described, show_result, show_stored, write_files
    from autoprune.opening import default_folder, open_base, use_threads

    started = time.monotonic()
    use_threads(settings.threads)
    opened = open_base(settings)
    out = settings.out or default_folder("runs", opened)
    check(settings, opened, out)
    settings.save(out / CONFIG, made_with())
    opened = with_base(settings, opened, out / BASE)
    objective = objective_for(settings, opened, out / CACHE)
    result = searched(settings, opened, objective, out)
    report = described(result, settings, opened, objective.graph)
    show_result(report, result)
    write_files(report, result, out, time.monotonic() - started)
    show_stored(result, out)
    if result.interrupted:
        say("Stopped by Ctrl-C; the same command goes on.")
        raise typer.Exit(INTERRUPTED)


def check(settings: SearchSettings, opened: Opened, out: Path) -> None:
    """Refuse what cannot work, before anything is trained, written or evaluated; small networks run on one thread.

    Raises:
        AutopruneError: unknown names, a budget that cannot be met, a storage that cannot be opened, another network.
    """
    from autoprune.opening import use_threads
    from autoprune.search.request import checked

    objective = objective_for(settings, opened, None)
    values = asked(settings, objective)
    request = checked(objective, metrics=values.pop("pareto"), **values)
    if request.budget is not None:
        request.space.profile(objective, request.budget.analytic)
    if settings.threads is None and objective.graph.macs < SMALL:
        use_threads(1)
    _check_storage(settings, out)
    _check_folder(opened, out)


def _check_storage(settings: SearchSettings, out: Path) -> None:
    """Open the storage that a URL names, before the work it is for."""
    from autoprune.search.storage import Address, close

    if settings.storage is not None:
        address = Address.of(out, settings.storage)
        close(address.open(make=True), address)


def _check_folder(opened: Opened, out: Path) -> None:
    """A run folder is one network's.

    Raises:
        StudyError: it holds another base network.
    """
    from autoprune.artifacts import MODEL_JSON, read_network

    if not (out / BASE / MODEL_JSON).is_file():
        return
    there = read_network(out / BASE)
    if there.spec != opened.spec or (opened.stored is not None and opened.stored.digest != there.digest):
        raise StudyError(
            f"the run folder {str(out)!r} belongs to another network ({there.spec.factory}, {there.digest[:12]} there; "
            f"{opened.spec.factory} here); choose another folder with --out"
        )


def with_base(settings: SearchSettings, opened: Opened, folder: Path) -> Opened:
    """``opened`` with its trained network in ``folder``: copied from where it is, or trained now."""
    from dataclasses import replace

    from autoprune.artifacts import MODEL_JSON, MODEL_TENSORS, read_network
    from autoprune.cli.train import fitting, train
    from autoprune.files import write_bytes

    if opened.stored is None:
        train(opened, folder, fitting(opened, {"epochs": settings.train_epochs, "seed": settings.seed}))
    elif not (folder / MODEL_JSON).is_file():
        for name in (MODEL_TENSORS, MODEL_JSON):
            write_bytes(folder / name, (opened.stored.folder / name).read_bytes())
    return replace(opened, stored=read_network(folder))


def objective_for(settings: SearchSettings, opened: Opened, cache: Path | None) -> Objective:
    """The objective of a search; latency is measured for every plan only where it is searched for."""
    from autoprune.opening import objective_of

    named = [text.partition("=")[0].strip() for text in settings.budget]
    latency = "latency_ms" in (*named, *settings.pareto)
    return objective_of(settings, opened, race=settings.race, latency=latency, cache_dir=cache)


def space_of(settings: SearchSettings, objective: Objective) -> SearchSpace:
    """The search space that the settings describe."""
    from autoprune.space import SearchSpace

    return SearchSpace.from_graph(
        objective.graph,
        methods=settings.methods,
        include=settings.include,
        exclude=settings.exclude,
        max_sparsity=settings.max_sparsity,
        round_to=settings.round_to,
        reconstruction=settings.reconstruction,
        levels=settings.levels,
    )


def searched(settings: SearchSettings, opened: Opened, objective: Objective, out: Path) -> SearchResult:
    """Run the search, with progress."""
    from autoprune.cli.watching import Watch
    from autoprune.search import search

    with Watch(settings.trials) as watch:
        return search(
            objective,
            **asked(settings, objective),
            run_dir=out,
            storage=settings.storage,
            study_name=settings.study_name,
            progress=watch,
            spec=opened.spec,
            test=settings.test,
        )


def asked(settings: SearchSettings, objective: Objective) -> dict[str, Any]:
    """What the settings ask of a search, as arguments of :func:`autoprune.search.search`."""
    return {
        "budget": settings.budget or None,
        "controller": settings.controller,
        "trials": settings.trials,
        "space": space_of(settings, objective),
        "pareto": settings.pareto,
        "handling": settings.handling,
        "pruner": settings.pruner,
        "seed": settings.seed,
        "workers": settings.workers,
        "timeout_s": settings.timeout_s,
        "options": settings.controller_options | _folders(settings),
    }


def _folders(settings: SearchSettings) -> dict[str, Any]:
    """What a controller starts from, as options of it."""
    named = {"folder": settings.policy, "predictor": settings.predictor}
    return {name: str(folder) for name, folder in named.items() if folder is not None}


command(app, SearchSettings, run)
