"""Notebooks: they run from the first cell to the last, and what is kept in them names no machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import autoprune

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    return pytest.importorskip("nbformat").read(path, as_version=4)


def test_there_is_one() -> None:
    assert FOLDER / "search_digits.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_outputs_are_whole_and_name_no_machine(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run it once and keep the outputs"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    outputs = [str(o.get("text") or o.get("data", {}).get("text/plain", "")) for cell in code for o in cell.outputs]
    assert [text for text in outputs if re.search(r"(^|\s)/(home|root|tmp|usr|work)/", text)] == []
    assert path.stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a kernel of its own, in an empty folder."""
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(Path(autoprune.__file__).resolve().parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client.NotebookClient(notebook, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing where it is run"
