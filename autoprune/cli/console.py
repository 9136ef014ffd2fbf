"""Text for people: tables, numbers with units, and lines that stay apart from what a program reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

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
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    left: Iterable[int] = (0,),
    fold: Iterable[int] = (),
    emphasis: int = -1,
) -> None:
    """A table; columns in ``left`` are set left, those in ``fold`` may break over lines, row ``emphasis`` is bold.

    Nothing is ever cut: on a terminal that is too narrow the lines are longer than it is wide.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    left, fold = set(left), set(fold)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if place in left else "right"
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=place not in fold)
    for place, row in enumerate(rows):
        table.add_row(*(Text(str(cell)) for cell in row), style="bold" if place == emphasis else None)
    screen = console()
    screen.width = max(screen.width, screen.measure(table).minimum)
    screen.print(Text(title, style="bold"))
    screen.print(table)


def show_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value))
    screen = console()
    screen.print(Text(title, style="bold"))
    screen.print(Padding(table, (0, 0, 1, 2)))
