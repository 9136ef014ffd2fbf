"""``autoprune study compare``: studies and controllers side by side, as a table, a picture and numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.errors import reported
from autoprune.errors import SettingsError, StudyError, unknown_name

if TYPE_CHECKING:
    from autoprune.search.comparison import Comparison, Summary
    from autoprune.search.studies import StoredStudy

Named = tuple[str | None, "StoredStudy"]
_LABELLED = re.compile(r"([^=/\\:#]+)=(.+)", re.DOTALL)


def compare(
    studies: Annotated[
        list[str],
        typer.Argument(
            help="Run folder, folder of run folders, SQLite file, storage URL (PLACE#NAME for one study of several), "
            "or name of a controller; LABEL=PLACE puts studies into a group of that name.",
            show_default=False,
            metavar="STUDY",
        ),
    ],
    where: Annotated[str, typer.Option("--where", help="Where studies of a controller are looked for.")] = "runs",
    out: Annotated[Path | None, typer.Option("--out", help="PNG file for a picture of the curves.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="JSON file for rows and curves.")] = None,
    loose: Annotated[
        bool, typer.Option("--loose", help="Compare across search spaces and settings of evaluation too.")
    ] = False,
) -> None:
    """Put studies side by side at equal numbers of evaluations, grouped by controller, over their seeds."""
    with reported():
        from autoprune.search.comparing import compare as compared

        if out is not None and out.suffix.lower() != ".png":
            raise SettingsError(f"--out must be a .png file, but got {str(out)!r}")
        named = [entry for text in studies for entry in studies_of(text, where)]
        found = compared([study for _, study in named], labels=[label for label, _ in named], loose=loose)
        show_comparison(found)
        _write(found, out, json)


def studies_of(text: str, where: str) -> list[Named]:
    """The studies that one argument names, with their label.

    Raises:
        StudyError: there is none.
        UnknownNameError: no such study in that place, or neither a place nor a controller.
    """
    from autoprune.search import CONTROLLERS
    from autoprune.search.studies import open_studies

    label, place = None, text
    labelled = None if Path(text).exists() else _LABELLED.fullmatch(text)
    if labelled is not None:
        label, place = labelled.groups()
    if re.fullmatch(r"[\w+-]+", place) and not Path(place).exists():
        if place not in CONTROLLERS:
            raise unknown_name("study or controller", place, CONTROLLERS)
        mine = [study for study in open_studies(where) if study.controllers == (place,)]
        if not mine:
            raise StudyError(f"no study in {where} is by the controller {place!r} alone; say where with --where")
        return [(label, study) for study in mine]
    return [(label, study) for study in studies_in(place)]


def studies_in(place: str) -> list[StoredStudy]:
    """The study ``PLACE#NAME``, or every study in a place."""
    from autoprune.search.studies import open_studies, open_study

    where, sign, name = ("", "", place) if Path(place).exists() else place.rpartition("#")
    return [open_study(where, name)] if sign else open_studies(place)


def show_comparison(found: Comparison) -> None:
    """The tables and the notes."""
    heads, rows = table_of(found)
    title = f"Best {found.quantity} so far at equal numbers of evaluations"
    show_table(title, heads, rows)
    for line in explained(found):
        say(line)
    if found.differences:
        say()
        first = found.groups[0].label
        title = f"Differences from {first} at {found.evaluations} evaluations, seed by seed"
        show_table(title, ("controller", "common seeds", "difference", "higher in", "p"), _differences(found))
        say("p: two-sided sign-flip test of paired differences, given from 5 common seeds on, for each line by itself.")


def table_of(found: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows: a line for each group, then the baselines; counts that are 0 everywhere are left out."""
    last = found.evaluations
    counts = [group.counts(last) for group in found.groups]
    shown = [name for name in counts[0] if any(count[name] for count in counts)]
    rows = [
        (
            group.label,
            str(len(group.members)),
            *(written(group.at(n), found) for n in found.checkpoints),
            f"{group.seconds(last):.3g} s",
            f"{group.deciding(last):.2g} s",
            *(str(count[name]) for name in shown),
        )
        for group, count in zip(found.groups, counts, strict=True)
    ]
    before, after = ("",) * (len(found.checkpoints) - 1), ("",) * (2 + len(shown))
    rows += [
        (_baseline(name), str(summary.seeds), *before, written(summary, found), *after)
        for name, summary in found.baselines.items()
    ]
    return ("controller", "seeds", *(f"at {n}" for n in found.checkpoints), "evaluating", "deciding", *shown), rows


def _baseline(name: str) -> str:
    return "baselines" if name == "all" else f"baseline {name}"


def written(summary: Summary, found: Comparison, *, sign: str = "") -> str:
    """``97.21% ± 0.33``, or a hypervolume; ``-`` without a value."""
    if summary.mean is None:
        return "-"
    scale, digits, unit = (1, 4, "") if found.metrics else (100, 2, "%")
    spread = "" if summary.spread is None else f" ± {scale * summary.spread:.{digits}f}"
    return f"{scale * summary.mean:{sign}.{digits}f}{unit}{spread}"


def explained(found: Comparison) -> tuple[str, ...]:
    """What the numbers are, and what a reader must know."""
    what = "Accuracy on the validation split, of the best trial within the budget"
    if found.metrics:
        costs = " and ".join(found.metrics)
        what = f"Hypervolume that the front covers, from accuracy 0 and dense {costs} to accuracy 1 at no cost"
    several = any(len(group.members) > 1 for group in found.groups)
    spread = "mean ± sample standard deviation over seeds" if several else "one seed each, so no spread is known"
    return (
        f"{what}; {spread}.",
        "An evaluation is a proposal that was judged, anew or by what is known of the same plan (repeated). One that",
        "failed or was stopped early counts, but cannot be best; one rejected unseen does not. Baselines, from which",
        "controllers may learn, stand apart. Counts are sums over seeds; times are means for one evaluation: of the",
        "judging, and of the controller itself.",
        *found.notes,
    )


def _differences(found: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            d.label,
            str(len(d.values)),
            written(d.summary, found, sign="+").replace("%", " points"),
            f"{d.higher} of {len(d.values)}",
            "-" if d.p_value is None else f"{d.p_value:.3f}",
        )
        for d in found.differences
    ]


def _write(found: Comparison, out: Path | None, numbers: Path | None) -> None:
    import json

    from autoprune import plots
    from autoprune.files import write_text

    if out is not None:
        plots.save(plots.comparison(found), out)
        say(f"Stored the curves in {out}")
    if numbers is not None:
        write_text(numbers, json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n")
        say(f"Stored the numbers in {numbers}")
