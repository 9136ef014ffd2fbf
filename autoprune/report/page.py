"""The report: one HTML file that needs nothing else, no network and no server."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.files import write_text
from autoprune.report import figures
from autoprune.report.content import Report, Row
from autoprune.report.format import milliseconds, number, percent, size

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e4e9ee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: #5b6875; font-weight: 600; }
tr.best td { font-weight: 700; background: #f3f7fc; } .facts td { text-align: left; white-space: normal; }
.facts td:first-child { color: #5b6875; width: 13rem; } .scroll { overflow-x: auto; } p.note { color: #5b6875; }
"""


def write_report(report: Report, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page as text. Every name in it is escaped."""
    pictures = [
        ("Trials in order", figures.history(report.points)),
        ("The best network, group by group", figures.bars(report.bars)),
        ("Accuracy against cost", figures.front(report.points, report.metric)),
    ]
    parts = [f"<h1>{html.escape(report.title)}</h1>", _table(report.rows)]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in report.notes]
    parts += [
        f"<h2>{html.escape(heading)}</h2>{_inline(figure, first=place == 0)}"
        for place, (heading, figure) in enumerate(pictures)
    ]
    parts.append(f"<h2>What made it</h2>{_facts(report.facts)}")
    head = f'<meta charset="utf-8"><title>{html.escape(report.title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _inline(figure: Figure, *, first: bool) -> str:
    """A figure with the library in the page once, so that it opens without a network."""
    settings = {"displaylogo": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config=settings))


def _table(rows: Sequence[Row]) -> str:
    body = "".join(_row(row) for row in rows)
    head = "".join(f"<th>{html.escape(h)}</th>" for h in COLUMNS)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(row: Row) -> str:
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells_of(row))
    mark = ' class="best"' if row.name.startswith("best") else ""
    return f"<tr{mark}>{cells}</tr>"


COLUMNS = ("", "before retraining", "accuracy", "test", "MACs", "params", "bytes", "latency", "budget")


def cells_of(row: Row) -> tuple[str, ...]:
    """The cells of one row of the result table, as text; the same in the terminal and on the page."""
    before = row.recalibrated if row.recalibrated is not None else row.pruned
    return (
        row.name,
        percent(before if row.retrained is not None else None),
        row.note if row.accuracy is None and row.note else percent(row.accuracy),
        percent(row.test),
        number(row.macs),
        number(row.params),
        size(row.bytes),
        milliseconds(row.latency_ms),
        "" if row.fits is None else ("met" if row.fits else "not met"),
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return f'<table class="facts">{"".join(lines)}</table>'
