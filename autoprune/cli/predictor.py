"""``autoprune predictor``: what studies teach about thresholds, and how far it can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.options import command
from autoprune.errors import SettingsError
from autoprune.report.format import percent
from autoprune.settings import PredictorReportSettings, PredictorTrainSettings

if TYPE_CHECKING:
    from autoprune.search.studies import StoredStudy
    from autoprune.search.threshold.training import Calibration

app = typer.Typer(
    help="Learn from studies what pruning costs; judge what was learned.", no_args_is_help=True, add_completion=False
)
STUDIES = (list[str], "Run folders, folders of run folders, SQLite files, storage URLs; PLACE#NAME for one of several.")


def train(settings: PredictorTrainSettings, studies: list[str]) -> None:
    """Train a predictor of thresholds on every trial of these studies.

    'autoprune search --controller threshold_mlp --predictor FOLDER' starts from it, on any network.
    """
    from dataclasses import replace

    from autoprune.search.threshold.stored import check_place, store_predictor
    from autoprune.search.threshold.training import TRAINING, calibration, described
    from autoprune.search.threshold.training import train as learn

    check_place(settings.out)
    found = _studies(studies)
    fitting = replace(TRAINING, steps=settings.fit_steps, members=settings.members, hidden=settings.hidden)
    surrogate = learn(found, settings=fitting, seed=settings.seed)
    store_predictor(settings.out, surrogate, described(found, settings.seed, fitting))
    _show("How well it fits what it was trained on", [calibration(surrogate, study) for study in found])
    say(f"Stored in {settings.out}")
    say(f"Next:  autoprune search --controller threshold_mlp --predictor {settings.out}")
    say(f"       autoprune predictor report {settings.out} STUDY")


def report(settings: PredictorReportSettings, predictor: Path, studies: list[str]) -> None:
    """Compare what a predictor foretells with what these studies measured, as a table, JSON and a picture."""
    from autoprune import plots, threshold_plots
    from autoprune.files import write_text
    from autoprune.search.threshold.stored import load_predictor, read_predictor
    from autoprune.search.threshold.training import calibration, pruned_in

    facts = read_predictor(predictor)
    surrogate = load_predictor(predictor)
    studied = [(study, facts.between(str(study.facts["model"]), pruned_in(study))) for study in _studies(studies)]
    found = [calibration(surrogate, study, between=between) for study, between in studied]
    _show(f"The predictor in {predictor}", found)
    out = settings.out or predictor.with_name(f"{predictor.name}-report")
    data: dict[str, Any] = {"predictor": dict(facts.trained), "studies": [one.to_dict() for one in found]}
    write_text(out / "calibration.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    plots.save(threshold_plots.calibration(found), out / "calibration.png")
    say(f"Stored {out / 'calibration.png'} and {out / 'calibration.json'}")


def _studies(places: list[str]) -> list[StoredStudy]:
    from autoprune.cli.compare import studies_in

    found = {(study.where, study.name): study for place in places for study in studies_in(place)}
    if not found:
        raise SettingsError("name at least one study")
    return list(found.values())


def _show(title: str, found: list[Calibration]) -> None:
    rows = [
        (
            one.study,
            "yes" if one.seen else "no",
            str(one.trials),
            "-" if one.rank_correlation is None else f"{one.rank_correlation:.3f}",
            f"{100 * one.error:.2f}",
            f"{100 * one.bias:+.2f}",
            *(percent(share, 0) for share in one.coverage.values()),
        )
        for one in found
    ]
    heads = (
        "study",
        "trained on",
        "trials",
        "rank correlation",
        "error",
        "bias",
        *(f"in {n}" for n in _intervals(found)),
    )
    show_table(title, heads, rows)
    say(
        "Error (mean, absolute) and bias (predicted minus measured) in points of accuracy; the last two columns are the"
    )
    say("share of the trials inside the interval that should hold 68 % and 95 % of them.")


def _intervals(found: list[Calibration]) -> list[str]:
    return list(found[0].coverage)


command(app, PredictorTrainSettings, train, name="train", arguments={"studies": STUDIES})
command(
    app,
    PredictorReportSettings,
    report,
    name="report",
    arguments={"predictor": (Path, "Folder of the predictor."), "studies": STUDIES},
)
