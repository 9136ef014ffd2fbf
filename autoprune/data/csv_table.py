"""A table in a text file: one row a sample, one column its class, the others numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.data.sources import data_root
from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal
from autoprune.errors import DataError, SettingsError, unknown_name

MISSING = ("refuse", "drop", "mean")
_EMPTY = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
_LARGEST = torch.finfo(torch.float32).max
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Table:
    """Cells of a text table.

    Attributes:
        path: where it came from.
        names: of the columns, from the header or ``column 1 ...``.
        rows: cells without blanks around them.
        lines: line number of each row in the file, from 1.
    """

    path: Path
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]


def load_csv(
    *,
    path: str | Path,
    seed: int = 0,
    data_dir: Path | None = None,
    target: str | int = -1,
    ignore: str | int | Sequence[str | int] = (),
    header: bool | None = None,
    delimiter: str | None = None,
    missing: str = "refuse",
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """A table of numbers with a class column, ``[N, F]`` float32, standardised by the train split.

    Args:
        path: the file, seen from the working folder or from the data root.
        seed: decides the splits.
        data_dir: the data root.
        target: column of the classes: its name, or its number from 0 (from the end if negative).
        ignore: columns to leave out (an id, say), in the same way; several as a list or with commas between.
        header: whether the first line holds names; by default, when none of its cells is a number.
        delimiter: one character; by default the one of ``, ; tab |`` that the first line holds most of.
        missing: what to do with a sample whose cells are empty, ``?`` or ``nan``: ``refuse`` the file, ``drop`` the
            sample, or put in the ``mean`` of the train split.
        validation: how much is held out for validation.
        test: how much is held out for test.
        calibration: how much is drawn from train.

    Raises:
        DataError: no such file, lines of different lengths, a cell that is no finite number, or no classes.
        SettingsError: an option outside what it may be.
    """
    if missing not in MISSING:
        raise SettingsError(f"missing must be one of {', '.join(MISSING)}, but got {missing!r}")
    table = read_table(_find(path, data_dir), header=header, delimiter=delimiter)
    label = _column(table, target)
    left_out = {_column(table, name) for name in _several(ignore)} | {label}
    features = [i for i in range(len(table.names)) if i not in left_out]
    if not features:
        raise DataError(f"'{table.path}' has no columns left for inputs beside {table.names[label]!r}")
    if missing == "drop":
        table = _dropped(table, [*features, label])
    classes, y = _classes(table, label)
    x = torch.tensor([[_number(table, row, i, missing) for i in features] for row in range(len(table.rows))])
    sizes = Sizes(validation, test, calibration)
    name, source = table.path.stem, f"table {table.path.name}"
    return deal(
        name,
        Samples(x, torch.tensor(y)),
        seed=seed,
        sizes=sizes,
        impute=missing == "mean",
        classes=classes,
        source=source,
    )


def read_table(path: Path, *, header: bool | None = None, delimiter: str | None = None) -> Table:
    """Cells of a text table; empty lines are left out.

    Raises:
        DataError: unreadable, not text in UTF-8, empty, or lines of different lengths.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        sep = delimiter or _guess_delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True, skipinitialspace=True)
        cells = [(reader.line_num, tuple(cell.strip() for cell in row)) for row in reader]
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not text in UTF-8 (byte {error.start}); save it as a UTF-8 CSV file") from error
    except (csv.Error, TypeError) as error:
        raise DataError(f"'{path}' cannot be read as CSV: {error}") from error
    cells = [(line, row) for line, row in cells if any(row)]
    if not cells:
        raise DataError(f"'{path}' is empty")
    _check_widths(path, cells)
    first = cells[0][1]
    if header if header is not None else all(_parse(cell) is None for cell in first):
        names, cells = first, cells[1:]
    else:
        names = tuple(f"column {i}" for i in range(len(first)))
    if len(set(names)) != len(names):
        raise DataError(f"'{path}' has the column {next(n for n in names if names.count(n) > 1)!r} twice; rename one")
    return Table(path, names, tuple(row for _, row in cells), tuple(line for line, _ in cells))


def _find(path: str | Path, data_dir: Path | None) -> Path:
    here = Path(path).expanduser()
    there = data_root(data_dir) / here
    for candidate in (here, there):
        if candidate.is_file():
            return candidate
    raise DataError(f"no file '{here}' (nor '{there}'); give the path of a CSV file")


def _guess_delimiter(text: str) -> str:
    first = text.lstrip("\r\n").partition("\n")[0]
    return max(_DELIMITERS, key=first.count)


def _check_widths(path: Path, cells: list[tuple[int, tuple[str, ...]]]) -> None:
    width = len(cells[0][1])
    if width < 2:
        raise DataError(f"'{path}' has one column only; inputs and a class are needed (set delimiter if it is not ',')")
    for line, row in cells:
        if len(row) != width:
            raise DataError(f"line {line} of '{path}' has {len(row)} cells, the first line has {width}")


def _several(names: str | int | Sequence[str | int]) -> list[str | int]:
    if isinstance(names, str):
        return [part.strip() for part in names.split(",") if part.strip()]
    return [names] if isinstance(names, int) else list(names)


def _column(table: Table, name: str | int) -> int:
    if isinstance(name, str) and name in table.names:
        return table.names.index(name)
    try:
        number = int(name)
    except ValueError:
        raise unknown_name(f"column of '{table.path}'", str(name), table.names) from None
    if not -len(table.names) <= number < len(table.names):
        raise SettingsError(f"'{table.path}' has columns 0 to {len(table.names) - 1}, but got {number}")
    return number % len(table.names)


def _parse(cell: str) -> float | None:
    """The number in a cell, NaN for one that is missing, ``None`` for anything else."""
    if cell.lower() in _EMPTY:
        return math.nan
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _dropped(table: Table, columns: list[int]) -> Table:
    whole = [i for i, row in enumerate(table.rows) if not any(row[c].lower() in _EMPTY for c in columns)]
    rows, lines = tuple(table.rows[i] for i in whole), tuple(table.lines[i] for i in whole)
    return Table(table.path, table.names, rows, lines)


def _number(table: Table, row: int, column: int, missing: str) -> float:
    cell = table.rows[row][column]
    value = _parse(cell)
    if value is not None and abs(value) <= _LARGEST:
        return value
    place = f"line {table.lines[row]}, {table.names[column]!r} of '{table.path}'"
    if value is None:
        raise DataError(f"{place} must be a number, but is {cell!r}; take the column out with ignore, or encode it")
    if math.isnan(value) and missing == "mean":
        return value
    if math.isnan(value):
        raise DataError(f"{place} has no value ({cell!r}); set missing to 'drop' or 'mean', or fill it in")
    raise DataError(f"{place} must be a finite number, but is {cell!r}")


def _classes(table: Table, column: int) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes in order (numbers by size), and the class of each row."""
    cells = [row[column] for row in table.rows]
    for line, cell in zip(table.lines, cells, strict=True):
        if cell.lower() in _EMPTY:
            raise DataError(
                f"line {line} of '{table.path}' has no class ({cell!r}); fill it in or set missing to 'drop'"
            )
    numbers = {cell: _parse(cell) for cell in set(cells)}
    numeric = all(value is not None for value in numbers.values())
    names = sorted(numbers, key=lambda cell: (numbers[cell] if numeric else 0.0, cell))
    if len(names) < 2 or 2 * len(names) > len(cells):
        raise DataError(
            f"column {table.names[column]!r} of '{table.path}' should hold classes, but holds {len(names)} values in "
            f"{len(cells)} rows; set target to the class column"
        )
    return tuple(names), [names.index(cell) for cell in cells]
