"""What the README and CONTRIBUTING show, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from autoprune.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


def run_apart(code: str, folder: Path) -> str:
    """What ``code`` prints in a process of its own, where every warning is an error."""
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=folder,
        env={"PYTHONPATH": str(Path(autoprune.__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_worked_example_runs_and_gives_what_it_says(tmp_path: Path) -> None:
    example, _ = blocks("README.md")
    assert "class Net(nn.Module)" in example
    assert "DataLoader" in example
    check = (
        "\ndense, *others = result.rows\n"
        "assert result.best.outcome.cost.macs <= 0.5 * graph.macs\n"
        "assert autoprune.trace(smaller, data.example()).macs == result.best.outcome.cost.macs\n"
        "assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())\n"
        "assert half.module.block.weight.shape == (12, 12, 3, 3) and model.block.weight.shape == (24, 24, 3, 3)\n"
        "assert dense.accuracy > 0.9 and result.rows[-1].accuracy > 0.9\n"
    )
    printed = run_apart(example + check, tmp_path)
    assert re.search(r"^best found +accuracy 0\.\d{4} +macs +[\d,]+$", printed, re.MULTILINE)
    assert (tmp_path / "my-run" / "report.html").is_file()


def test_the_environment_runs_and_meets_the_budget(tmp_path: Path) -> None:
    _, example = blocks("README.md")
    check = '\nassert info["cost"]["macs"] <= 0.5\nassert 0 < reward <= 1\n'
    assert '"decisions"' in run_apart(example + check, tmp_path).replace("'", '"')


def test_the_method_of_contributing_passes_the_conformance_suite() -> None:
    from autoprune.testing import check_method

    (example,) = blocks("CONTRIBUTING.md")
    names: dict[str, object] = {}
    exec(example, names)
    check_method(names["METHOD"])


def test_the_tour_names_every_command_and_only_flags_that_exist() -> None:
    from typer.testing import CliRunner

    from autoprune.cli.main import app

    tour = re.findall(r"^\| `autoprune ([a-z]+)([^`]*)`(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _, _ in tour} == set(COMMANDS)
    for name, first, rest in tour:
        if name == "study":
            continue
        below = first.split()[:1] if name == "runtime" else []
        text = CliRunner().invoke(app, [name, *below, "--help"], env={"COLUMNS": "300"}).output
        for flag in re.findall(r"--[a-z-]+", first + rest):
            assert flag in text, (name, flag)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:autoprune|search|envs|tests|notebooks|\.ci)/[\w./-]*|[A-Z]+\.md)(?<!-v0)`", text)
    assert len(named) > 2
    assert [path for path in named if not (ROOT / path).exists()] == []
