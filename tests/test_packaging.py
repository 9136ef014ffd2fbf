"""What a user installs: every module, nothing twice, pinned, quick to answer."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(lines: list[str]) -> set[str]:
    names = {canonical(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]) for line in lines}
    return names - {"autoprune"}


def modules_of(root: Path) -> set[str]:
    """Every module and asset of a checkout, as it stands in a wheel."""
    found = set()
    for folder, _, files in os.walk(root / "autoprune", followlinks=True):
        paths = {(Path(folder) / f).relative_to(root) for f in files}
        found |= {str(p) for p in paths if p.suffix == ".py" or p.name == "py.typed" or "assets" in p.parts}
    return found


def test_the_folders_at_the_root_are_links_inside_the_package() -> None:
    for name in ("envs", "search"):
        link = ROOT / "autoprune" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
        assert (ROOT / name / "__init__.py").is_file()


def test_nobody_imports_the_folders_by_their_short_names() -> None:
    pattern = re.compile(r"^\s*(from|import) (envs|search)\b", re.MULTILINE)
    files = [p for folder in ("autoprune", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    assert [str(p) for p in files if pattern.search(p.read_text())] == []
    assert "envs" not in sys.modules
    assert "search" not in sys.modules


def test_every_dependency_is_pinned_once_and_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines), lines
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    assert requirement_names([*PROJECT["dependencies"], *extras]) <= set(pins)
    for requirement in [*PROJECT["dependencies"], *extras]:
        bound = re.search(r">=([0-9.]+)", requirement)
        if bound:
            pin = pins[canonical(re.split(r"[\[<>=]", requirement)[0])]
            assert numbers(pin) >= numbers(bound.group(1)), requirement


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def test_the_base_install_has_what_the_base_imports() -> None:
    base = requirement_names(PROJECT["dependencies"])
    needed = {"torch", "numpy", "optuna", "scikit-learn", "pydantic", "typer", "rich", "plotly", "matplotlib", "cmaes"}
    assert needed | {"safetensors", "pooch", "platformdirs", "filelock", "scipy", "tomli-w", "pillow"} <= base


def readme_commands() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_starts_with_the_two_commands_that_ci_runs() -> None:
    first, second = readme_commands()[:2]
    assert "-c constraints.txt" in first
    assert first.strip().endswith("autoprune search")
    assert "[dev]" in second
    assert second.strip().endswith("pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command" in script
    awk = re.search(r"awk -v want=\"\$1\" '(.*?)' README.md", script)
    assert awk
    for place, command in enumerate((first, second), start=1):
        arguments = ["awk", "-v", f"want={place}", awk.group(1), str(ROOT / "README.md")]
        assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == command


def cpu_seconds(arguments: list[str]) -> float:
    """Processor time of a command: what it costs, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_within_half_a_second() -> None:
    command = [sys.executable, "-c", "from autoprune.cli.main import main; main()", "--help"]
    assert min(cpu_seconds(command) for _ in range(5)) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from autoprune.cli.main import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    app(['--help'])\n"
        "print(sorted({'torch', 'numpy', 'optuna', 'pydantic', 'plotly', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def run(arguments: list[str], cwd: Path, seconds: int = 600) -> str:
    """Standard output of a command; what went wrong otherwise."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        arguments, cwd=cwd, env=clean, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "autoprune"
    run(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel of a clean clone, made by way of the source distribution."""
    run([sys.executable, "-m", "build", "--outdir", str(clone.parent / "dist"), str(clone)], clone.parent)
    (found,) = (clone.parent / "dist").glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_of_a_clean_clone_holds_every_module(clone: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {n for n in names if n.startswith("autoprune/")}
    assert packed == modules_of(clone)
    assert "autoprune/search/__init__.py" in packed
    assert "autoprune/envs/__init__.py" in packed
    assert "autoprune/envs/assets/digits_cnn/model.safetensors" in packed
    assert not any(n.startswith(("envs/", "search/", "tests/")) for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_outside_the_checkout(clone: Path, wheel: Path) -> None:
    home = clone.parent / "empty"
    venv.create(home / "venv", with_pip=True)
    python = str(home / "venv" / "bin" / "python")
    constraints = str(clone / "constraints.txt")
    run([python, "-m", "pip", "install", "--quiet", "-c", constraints, str(wheel)], home, seconds=1500)
    where = run([python, "-c", "import autoprune.search; print(autoprune.__file__)"], home)
    assert str(home) in where
    autoprune = str(home / "venv" / "bin" / "autoprune")
    assert "search" in run([autoprune, "--help"], home)
    assert "l1_norm" in run([autoprune, "list", "methods"], home)
    assert "best" in run([autoprune, "search", "--trials", "3"], home)
    assert (home / "runs" / "digits-digits_cnn" / "best" / "model.safetensors").is_file()
    missing = "from autoprune.errors import MissingExtraError as E\ntry: import autoprune.envs\nexcept E as e: print(e)"
    assert "autoprune[rl]" in run([python, "-c", missing], home)
    run([python, "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[rl]"], home, seconds=1500)
    begin = "import gymnasium as g, autoprune.envs; print(g.make('autoprune/Layerwise-v0').reset(seed=0)[0].shape)"
    assert run([python, "-c", begin], home).strip() == "(11,)"
