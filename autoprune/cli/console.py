"""Text for people: tables, numbers with units, and lines that stay apart from what a program reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 120


def console(*, stderr: bool = False) -> Console:
    """A console on the standard output; wide enough for tables where that is a file or a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    narrow = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=WIDE if narrow else None, highlight=False, soft_wrap=False)


def say(text: str = "", *, style: str | None = None) -> None:
    """One line of text; nothing in it is read as markup."""
    console().print(text, style=style, markup=False, soft_wrap=True)


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, left: Iterable[int] = (0,), emphasis: int = -1
) -> None:
    """A table; columns in ``left`` are set left, the others right; row ``emphasis`` is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen = set(left)
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if place in chosen else "right", overflow="fold")
    for place, row in enumerate(rows):
        table.add_row(*(Text(str(cell)) for cell in row), style="bold" if place == emphasis else None)
    console().print(table)


def percent(value: float | None, digits: int = 2) -> str:
    """``0.9712`` as ``97.12 %``."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None) -> str:
    """A count with thousands apart: ``266,610``."""
    return "-" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def milliseconds(value: float | None) -> str:
    """A time in ms with three digits that count."""
    return "-" if value is None else f"{value:.3g} ms"


def duration(seconds: float | None) -> str:
    """``95`` as ``1:35``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
