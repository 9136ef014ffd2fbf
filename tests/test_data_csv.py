"""Tables from text files, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.data import DataSplits, load_data
from autoprune.data.csv_table import read_table
from autoprune.errors import AutopruneError, DataError, SettingsError, UnknownNameError

ROWS = [f"{i},{i % 7},{'yes' if i % 2 else 'no'}" for i in range(40)]


def write(tmp_path: Path, *lines: str, name: str = "t.csv", end: str = "\n") -> Path:
    path = tmp_path / name
    path.write_bytes((end.join(lines) + end).encode())
    return path


def load(path: Path, **options: Any) -> DataSplits:
    return load_data("csv", path=path, **options)


def rows(data: DataSplits) -> list[list[float]]:
    """All rows (inputs, class) of train, validation and test, sorted."""
    parts = [torch.cat([s.x, s.y.view(-1, 1).float()], 1) for s in (data.train, data.validation, data.test)]
    return sorted(torch.cat(parts).tolist())


EXPECTED = [[float(i), float(i % 7), float(i % 2)] for i in range(40)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sep", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("header", [[], ["a,b,class"]])
def test_forms_of_the_same_table(tmp_path: Path, sep: str, header: list[str], end: str) -> None:
    path = write(tmp_path, *(line.replace(",", sep) for line in header + ROWS), "", end=end)
    data = load(path)
    assert rows(data) == EXPECTED
    assert data.classes == ("no", "yes")
    assert (data.name, data.input_shape, data.num_classes) == ("t", (2,), 2)


@pytest.mark.parametrize(("target", "ignore"), [("class", "id"), (1, 0), (-2, ["id"]), ("class", [0]), (1, "0")])
def test_target_and_ignored_columns(tmp_path: Path, target: str | int, ignore: Any) -> None:
    lines = ["id,class,value", *(f"{900 + i},{10 - i % 3},{i}" for i in range(30))]
    data = load(write(tmp_path, *lines), target=target, ignore=ignore)
    assert data.classes == ("8", "9", "10")  # by size, not by letter
    assert rows(data) == sorted([float(i), float(2 - i % 3)] for i in range(30))


def test_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff"a","b, c","class"', *(f'"{i}","{i % 7}","{i % 2}"' for i in range(40)))
    assert rows(load(path, target="class")) == EXPECTED
    assert read_table(path).names == ("a", "b, c", "class")


def test_a_header_of_numbers_has_to_be_told(tmp_path: Path) -> None:
    path = write(tmp_path, "2010,2011,2012", *(row.replace("yes", "1").replace("no", "0") for row in ROWS))
    assert rows(load(path, header=True, target="2012")) == EXPECTED
    assert read_table(path).names == ("column 0", "column 1", "column 2")


def test_standardised_by_train(tmp_path: Path) -> None:
    data = load(write(tmp_path, *ROWS))
    inputs = data.train.inputs()
    torch.testing.assert_close(inputs.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_missing_values(tmp_path: Path) -> None:
    lines = list(ROWS)
    lines[3] = "?,3,yes"
    lines[10] = "10,NaN,no"
    lines[12] = "12,5,"
    path = write(tmp_path, *lines)
    with pytest.raises(DataError, match=r"line 13 .* has no class \(''\)"):
        load(path)
    lines[12] = ROWS[12]
    write(tmp_path, *lines)
    with pytest.raises(DataError, match=r"line 4, 'column 0' of .* has no value \('\?'\); set missing"):
        load(path)
    whole = [row for i, row in enumerate(EXPECTED) if i not in (3, 10)]
    assert rows(load(path, missing="drop")) == whole
    filled = load(path, missing="mean")
    assert filled.train.mean is not None
    kept = [row for row in rows(filled) if row in whole]
    assert (kept, len(rows(filled))) == (whole, 40)
    strange = [row for row in rows(filled) if row not in whole]
    first, second = sorted(strange, key=lambda row: row[2], reverse=True)
    assert first == [pytest.approx(float(filled.train.mean[0])), 3.0, 1.0]
    assert second == [10.0, pytest.approx(float(filled.train.mean[1])), 0.0]


def replaced(index: int, line: str) -> list[str]:
    return [*ROWS[:index], line, *ROWS[index + 1 :]]


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        (replaced(4, "4,4"), {}, DataError, "line 5 of .* has 2 cells, the first line has 3"),
        (replaced(4, "4,4,no,"), {}, DataError, "line 5 of .* has 4 cells"),
        (replaced(4, "4,nan,no"), {}, DataError, r"line 5, 'column 1' .* has no value \('nan'\)"),
        (replaced(4, "4,inf,no"), {}, DataError, "must be a finite number, but is 'inf'"),
        (replaced(4, "4,1e39,no"), {}, DataError, "must be a finite number, but is '1e39'"),
        (replaced(4, "4,1_0,no"), {}, DataError, "must be a number, but is '1_0'"),
        (
            replaced(4, "4,red,no"),
            {"missing": "mean"},
            DataError,
            "must be a number, but is 'red'; take the column out",
        ),
        (replaced(4, '4,"4,no'), {}, DataError, "cannot be read as CSV|cells"),
        ([f"{i},{i}" for i in range(40)], {}, DataError, "should hold classes, but holds 40 values in 40 rows"),
        ([f"{i},0" for i in range(40)], {}, DataError, "should hold classes, but holds 1 values"),
        (["a,b", *(f"{i},{i % 2}" for i in range(9))], {"target": "c"}, UnknownNameError, "unknown column .* 'c'"),
        (["a,a", *(f"{i},{i % 2}" for i in range(9))], {}, DataError, "has the column 'a' twice"),
        (ROWS, {"target": 3}, SettingsError, "has columns 0 to 2, but got 3"),
        (ROWS, {"ignore": [0, 1]}, DataError, "no columns left for inputs"),
        (ROWS, {"missing": "zero"}, SettingsError, "refuse, drop, mean, but got 'zero'"),
        (ROWS, {"delimiter": "::"}, DataError, "cannot be read as CSV"),
        (ROWS, {"delimiter": ";"}, DataError, "has one column only"),
        (["", ""], {}, DataError, "is empty"),
        (["a,b,c"], {}, DataError, "holds 0 values in 0 rows"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, lines: list[str], options: dict[str, Any], error: type[AutopruneError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(write(tmp_path, *lines), **options)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with pytest.raises(DataError, match=r"no file '.*x\.csv'"):
        load(path)
    with pytest.raises(DataError, match="no file"):
        load(tmp_path)
    path.write_bytes(b"1,2,\xff\xfe\n")
    with pytest.raises(DataError, match=r"not text in UTF-8 \(byte 4\)"):
        load(path)
    path.write_bytes(b"1,\x002,3\n" * 9)
    with pytest.raises(DataError):
        load(path)


def test_paths_are_also_seen_from_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uci").mkdir()
    write(tmp_path / "uci", *ROWS)
    by_argument = load_data("csv:uci/t.csv", data_dir=tmp_path)
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    assert load_data("csv:uci/t.csv").digest == by_argument.digest
    monkeypatch.delenv("AUTOPRUNE_DATA")
    monkeypatch.chdir(tmp_path)
    assert load_data("csv:uci/t.csv").digest == by_argument.digest


@pytest.mark.parametrize(
    ("file", "options", "sizes"),
    [
        ("iris.data", {}, [50, 50, 50]),
        ("breast-cancer-wisconsin.data", {"ignore": 0, "missing": "drop"}, [444, 239]),
        ("breast-cancer-wisconsin.data", {"ignore": 0, "missing": "mean"}, [458, 241]),
        ("hepatitis.data", {"target": 0, "missing": "mean"}, [32, 123]),
        ("pima-indians-diabetes.data", {}, [500, 268]),
    ],
)
def test_published_tables(real_data: Path, file: str, options: dict[str, Any], sizes: list[int]) -> None:
    data = load_data(f"csv:uci/{file}", data_dir=real_data, **options)
    labels = torch.cat([data.train.y, data.validation.y, data.test.y])
    assert labels.bincount().tolist() == sizes
