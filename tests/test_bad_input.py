"""What a user can get wrong: each mistake gives its message and exit code 2, and none a traceback."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from autoprune.cli.main import app
from autoprune.errors import StudyError
from autoprune.locking import folder_lock

MODELS = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 20)
        self.fc2 = nn.Linear(20, 10)
    def forward(self, x):
        return self.fc2(self.fc1(x.flatten(1)).relu()), x

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 10)
    def forward(self, x):
        return self.fc(x.flatten(1))

def raising():
    raise RuntimeError("no weights today")

def number():
    return 3

def alone():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

not_callable = 5

def no_data():
    return {"train": 1}
"""
PLAN = '{"version": 1, "reconstruction": "none", "steps": null, "decisions": [%s]}'
DECISION = '{"layer": "%s", "method": "%s", "pattern": "%s", "sparsity": %s}'


def plan(*decisions: tuple[str, str, str, float]) -> str:
    return PLAN % ", ".join(DECISION % decision for decision in decisions)


FILES = {
    "plan_unknown.json": plan(("conv9", "l1_norm", "channel", 0.5)),
    "plan_output.json": plan(("fc2", "l1_norm", "unit", 0.5)),
    "plan_all.json": plan(("fc1", "l1_norm", "unit", 1.0)),
    "plan_little.json": plan(("conv1.0", "l1_norm", "channel", 0.001)),
    "plan_twice.json": plan(("fc1", "l1_norm", "unit", 0.5), ("fc1", "l1_norm", "unit", 0.2)),
    "plan_pattern.json": plan(("fc1", "magnitude", "unit", 0.5)),
    "plan_version.json": '{"version": 9, "decisions": []}',
    "plan_text.json": "half of everything",
    "thresholds_unknown.json": '{"conv9": 0.8}',
    "thresholds_nan.json": '{"conv1.0": NaN}',
    "thresholds_low.toml": '"conv1.0" = 0.0001',
    "text.toml": "trials =",
    "train.toml": 'command = "train"\n',
    "typo.toml": "trails = 3\n",
    "bad_table.csv": "a,b,class\n" + "1,2,x\n3,4,y\n" * 20 + "1,oops,y\n",
    "mine.py": MODELS,
}


@dataclass(frozen=True)
class Case:
    """A command line, and what it must say."""

    name: str
    command: str
    says: str
    code: int = 2


USAGE = [
    Case("unknown command", "sarch", r"No such command 'sarch'.*Did you mean 'search'"),
    Case("unknown list", "list modles", r"No such command 'modles'.*Did you mean 'models'"),
    Case("unknown option", "search --trails 5", r"No such option: --trails.*--trials"),
    Case("not a number", "search --trials many", r"'--trials'.*valid integer"),
    Case("not a choice", "search --handling clip", r"'--handling'.*project.*reject"),
    Case("missing argument", "evaluate", r"Missing argument 'NETWORK'"),
]
SETTINGS = [
    Case("no trials", "search --trials 0", r"setting 'trials': .*equal to 1, but got 0"),
    Case("negative seed", "search --seed -1", r"setting 'seed': .*but got -1"),
    Case("everything removed", "prune --base base --sparsity 1.0", r"setting 'sparsity': .*less than 1, but got 1\.0"),
    Case("sparsity nan", "prune --base base --sparsity nan", r"setting 'sparsity': .*finite"),
    Case("whole group may go", "search --max-sparsity 1", r"setting 'max_sparsity': .*less than 1"),
    Case("one level", "search --levels 1", r"setting 'levels'"),
    Case("option without value", "search --model-options width", r"NAME=VALUE, but got 'width'"),
    Case("no amount", "prune --base base", r"exactly one of plan, thresholds, sparsity and budget"),
    Case("two amounts", "prune --base base --sparsity 0.5 --budget macs=0.5", r"but got sparsity and budget"),
    Case("no config", "search --config none.toml", r"cannot read settings 'none\.toml': No such file"),
    Case("config not toml", "search --config text.toml", r"settings 'text\.toml' are not TOML"),
    Case("config of another", "search --config train.toml", r"for 'autoprune train', not for 'autoprune search'"),
    Case("typo in config", "search --config typo.toml", r"unknown setting 'trails'; did you mean 'trials'.*typo\.toml"),
    Case("base and model", "search --base base --model mlp", r"model cannot be given with base"),
    Case("no base to prune", "prune --sparsity 0.5", r"prune needs a trained network.*--base"),
    Case("sensitivity untrained", "inspect --sensitivity", r"sensitivity needs a trained network.*--base"),
]
NAMES = [
    Case("model", "train --model resnet21", r"unknown model 'resnet21'; did you mean .*'resnet20'"),
    Case("dataset", "train --data digit", r"unknown dataset 'digit'; did you mean 'digits'"),
    Case("method", "search --methods l1norm", r"unknown method 'l1norm'; did you mean 'l1_norm'"),
    Case("controller", "search --controller tpee", r"unknown controller 'tpee'; did you mean 'tpe'"),
    Case("pruner", "search --pruner medium", r"unknown pruner 'medium'; did you mean 'median'"),
    Case(
        "reconstruction", "prune --base base --sparsity 0.5 --reconstruction mauch", r"unknown reconstruction 'mauch'"
    ),
    Case("budget metric", "search --budget mac=0.5", r"unknown budget metric 'mac'; did you mean 'macs'"),
    Case("front metric", "search --pareto flops", r"unknown cost metric 'flops'"),
    Case("glob", "search --base base --include conv8*", r"unknown layer or glob 'conv8\*'"),
    Case("model option", "train --model mlp --model-options widht=3", r"'mlp' cannot be called with options.*widht"),
    Case("data option", "train --data-options sise=3", r"unknown option of dataset 'digits'.*'sise'"),
    Case("data option that is a setting", "train --data-options seed=3", r"cannot hold 'seed'.*setting data_seed"),
    Case(
        "controller option", "search --controller tpe --controller-options x=1", r"unknown option of controller 'tpe'"
    ),
    Case("own module", "train --model nowhere:net --data digits", r"no module named 'nowhere'"),
    Case("own function", "train --model mine:alon --data digits", r"unknown attribute 'alon'; did you mean 'alone'"),
    Case("no default model", "train --data mine:no_data", r"no default model for data 'mine:no_data'.*--model"),
]
LIMITS = [
    Case("unreadable budget", "search --budget macs", r"must read metric=amount.*'macs'"),
    Case("zero budget", "search --budget macs=0", r"budget macs must be above 0, but got '0'"),
    Case("budget unit", "search --budget bytes=3furlongs", r"budget bytes must be a number.*'3furlongs'"),
    Case("budget twice", "search --budget macs=0.5 --budget macs=0.4", r"two budgets for 'macs'"),
    Case("impossible budget", "search --budget macs=0.0001", r"cannot be met: the smallest sub-network"),
    Case("nothing left", "search --base base --exclude *", r"no prunable group is left"),
    Case("rounding too coarse", "search --round-to 512", r"nothing can be removed with round_to=512"),
    Case("front with cmaes", "search --controller cmaes --pareto macs", r"'cmaes' searches one objective"),
    Case("no retraining", "search --base base --pruner median --retrain-steps 0", r"stops retraining early, but there"),
    Case("measured by two", "search --base base --budget latency_ms=0.9 --workers 2", r"use workers=1, not 2"),
    Case("mask by units", "prune --base base --sparsity 0.5 --method magnitude", r"method 'magnitude'.*ranks weight"),
    Case("no groups", "search --model mine:alone --data digits", r"no channels or hidden units that can be removed"),
]
PLANS = [
    Case("no plan", "prune --base base --plan none.json", r"cannot read the plan 'none\.json': No such file"),
    Case("not a plan", "prune --base base --plan plan_text.json", r"'plan_text\.json': not a plan"),
    Case("version", "prune --base base --plan plan_version.json", r"version 9, but this release reads version 1"),
    Case("layer", "prune --base base --plan plan_unknown.json", r"unknown group or layer 'conv9'"),
    Case("output", "prune --base base --plan plan_output.json", r"'fc2' must stay whole: it is the network's output"),
    Case(
        "all units", "prune --base base --plan plan_all.json", r"sparsity of layer 'fc1' must be in \[0, 1\), but got 1"
    ),
    Case("no unit", "prune --base base --plan plan_little.json", r"removes none of its 16 units"),
    Case("twice", "prune --base base --plan plan_twice.json", r"two decisions for layer 'fc1'"),
    Case("method of weights", "prune --base base --plan plan_pattern.json", r"method 'magnitude'.*not pattern 'unit'"),
]
THRESHOLDS = [
    Case(
        "no thresholds", "prune --base base --thresholds none.json", r"cannot read the thresholds 'none\.json': No such"
    ),
    Case("not thresholds", "prune --base base --thresholds text.toml", r"'text\.toml' are not JSON or TOML"),
    Case("threshold of", "prune --base base --thresholds thresholds_unknown.json", r"unknown group or layer 'conv9'"),
    Case("threshold nan", "prune --base base --thresholds thresholds_nan.json", r"'conv1\.0'.*finite number.*got nan"),
    Case("threshold low", "prune --base base --thresholds thresholds_low.toml", r"the thresholds remove nothing"),
    Case("norms untrained", "inspect --norms", r"norms need a trained network.*--base"),
    Case(
        "norms method",
        "inspect --base base --norms --method l1norm",
        r"unknown method 'l1norm'; did you mean 'l1_norm'",
    ),
    Case("no norms", "inspect --base base --predictor empty", r"predictor goes with norms"),
    Case(
        "no predictor",
        "inspect --base base --norms --predictor empty",
        r"there is no predictor in 'empty'.*train STUDY",
    ),
    Case(
        "predictor of tpe", "search --base base --predictor empty", r"goes with controller threshold_mlp, but got 'tpe'"
    ),
    Case(
        "search without predictor",
        "search --base base --controller threshold_mlp --predictor none",
        r"there is no predictor in 'none'",
    ),
    Case("few trials", "predictor train run", r"at least 10 evaluated trials.*\(run\) have 4"),
    Case("predictor place", "predictor train run --out base", r"'base' is there and holds no predictor"),
    Case("predictor study", "predictor train empty", r"there is no study in 'empty'"),
    Case("report of none", "predictor report none run", r"there is no predictor in 'none'"),
    Case("experiment scope", "reproduce predictor --scopes most", r"must be largest or all, and 'most' is not"),
    Case("experiment base", "reproduce predictor --bases none", r"no folder 'none'"),
    Case("experiment model", "reproduce predictor --data digits --models vgg", r"unknown model 'vgg'"),
    Case("experiment method", "reproduce predictor --bases base --method l3_norm", r"unknown method 'l3_norm'"),
    Case(
        "controller drop",
        "search --base base --controller threshold_mlp --controller-options drop=2",
        r"option 'drop' must be a number from 0 on and below 1, but got 2",
    ),
]
NETWORKS = [
    Case("no folder", "evaluate none", r"no folder 'none'"),
    Case("empty folder", "evaluate empty", r"no stored network in 'empty'.*model\.json is missing"),
    Case("a level too high", "evaluate parent", r"did you mean 'parent/best'"),
    Case("broken json", "evaluate broken_json", r"'broken_json/model\.json' is not JSON"),
    Case("other version", "evaluate other_version", r"has version 7, but this release reads version 1"),
    Case("truncated", "evaluate truncated", r"'truncated/model\.safetensors' is not a whole safetensors file"),
    Case("changed", "evaluate changed", r"is not the file that model\.json describes.*SHA-256 differs"),
    Case("no weights", "export headless", r"cannot read 'headless/model\.safetensors': No such file"),
    Case("other data", "evaluate base --data iris", r"cannot take samples of 'iris' \(shape \[4\]\)"),
    Case("returns a pair", "search --model mine:Pair --data digits", r"must return one tensor of logits"),
    Case("trace fails", "inspect --model mine:Broken --data digits", r"shapes cannot be multiplied|forward"),
    Case(
        "factory raises", "train --model mine:raising --data digits", r"'mine:raising' raised RuntimeError: no weights"
    ),
    Case("no module", "train --model mine:number --data digits", r"must return a torch\.nn\.Module, but returned int"),
    Case("not callable", "train --model mine:not_callable --data digits", r"must be a function, but is a int"),
]
DATA = [
    Case(
        "no files, no network",
        "train --data mnist --data-dir empty --data-options download=false",
        r"train-images-idx3-ubyte.*SHA-256.*ba891046.*empty/mnist",
    ),
    Case("truncated file", "train --data mnist --data-dir bad_mnist", r"train-images-idx3-ubyte"),
    Case("no table", "train --model mlp --data csv:none.csv", r"none\.csv"),
    Case("text in a table", "train --model mlp --data csv:bad_table.csv", r"bad_table\.csv.*oops"),
    Case("no splits", "train --model mlp --data mine:no_data", r"mine:no_data|train"),
]
STUDIES = [
    Case("no study", "study show empty", r"there is no study at 'empty/study\.db'"),
    Case("no place", "study list none", r"there is no folder 'none'"),
    Case("no trial", "study show run --trial 99", r"no trial 99 \(there are: 0 to 3\)"),
    Case("not a database", "study show corrupt", r"cannot use the study storage 'corrupt/study\.db'.*not a database"),
    Case("not a run folder", "study export empty", r"'empty' is not a run folder"),
    Case("other budget", "search --base base --out run --budget macs=0.6", r"the budget changed"),
    Case("other space", "search --base base --out run --max-sparsity 0.5", r"the search space changed"),
    Case("other retraining", "search --base base --out run --retrain-steps 7", r"objective's settings changed.*steps"),
    Case("other network", "search --out run --data wine", r"the run folder 'run' belongs to another network"),
    Case("no url", "search --base base --storage nowhere", r"must be a URL such as sqlite"),
    Case(
        "no driver",
        "search --base base --storage postgresql://u@127.0.0.1:1/x",
        r"cannot use the study storage.*psycopg",
    ),
    Case("no server folder", "search --base base --storage sqlite:////proc/none/s.db", r"cannot use the study storage"),
    Case(
        "unknown dialect", "search --base base --storage carrier://pigeon/x", r"cannot use the study storage.*carrier"
    ),
]
CASES = [*USAGE, *SETTINGS, *NAMES, *LIMITS, *PLANS, *THRESHOLDS, *NETWORKS, *DATA, *STUDIES]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def said(result: Result) -> str:
    """The output without frames and line breaks."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


def check(result: Result, says: str, code: int = 2) -> None:
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    assert re.search(says, said(result)), said(result)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a trained network, a finished search, and everything that can be wrong with files."""
    folder, before = tmp_path_factory.mktemp("bad"), Path.cwd()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.chdir(folder)
    try:
        for name, text in FILES.items():
            (folder / name).write_text(text)
        assert call("train", "--epochs", 2, "--out", "base").exit_code == 0
        assert call("search", *QUICK, "--base", "base", "--out", "run", "--trials", 1).exit_code == 0
        _break_networks(folder)
        (folder / "corrupt").mkdir()
        (folder / "corrupt" / "study.db").write_bytes(b"not a database at all" * 100)
        (folder / "bad_mnist" / "mnist").mkdir(parents=True)
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (folder / "bad_mnist" / "mnist" / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0" * 50)[:-9])
        yield folder
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


QUICK = ("--retrain-steps", 0, "--no-test")


def _break_networks(folder: Path) -> None:
    (folder / "empty").mkdir()
    shutil.copytree(folder / "base", folder / "parent" / "best")
    for name in ("broken_json", "other_version", "truncated", "changed", "headless"):
        shutil.copytree(folder / "base", folder / name)
    (folder / "broken_json" / "model.json").write_text("{")
    text = (folder / "other_version" / "model.json").read_text()
    (folder / "other_version" / "model.json").write_text(text.replace('"version": 1', '"version": 7', 1))
    data = (folder / "truncated" / "model.safetensors").read_bytes()
    (folder / "truncated" / "model.safetensors").write_bytes(data[:-100])
    (folder / "changed" / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (folder / "headless" / "model.safetensors").unlink()


def test_there_are_enough_cases_and_no_two_alike() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES) == len({case.command for case in CASES})


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_a_mistake_is_told_in_a_line(case: Case, place: Path) -> None:
    result = call(*case.command.split())
    check(result, case.says, case.code)
    if case not in USAGE:
        assert result.stderr.startswith("error: ")


def test_nothing_is_written_before_names_and_budgets_are_checked(place: Path) -> None:
    for options in ("--budget macs=0.0001", "--controller tpee", "--methods l1norm", "--storage nowhere"):
        check(call("search", "--out", "untouched", *options.split()), "error: ")
        assert not (place / "untouched").exists()


def root_mount(target: Path, options: str) -> None:
    """Mount a small file system in memory, or skip where that is not allowed."""
    target.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")


@pytest.mark.parametrize("room", [16, 128, 400])
def test_a_full_disk(room: int, place: Path) -> None:
    """Too small for the network, for the study, for the report."""
    target = place / f"small{room}"
    root_mount(target, f"size={room}k")
    try:
        result = call("search", *QUICK, "--base", "base", "--trials", 4, "--out", target / "run")
        check(result, r"No space left|disk is full|disk I/O error")
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def test_a_folder_that_cannot_be_written(place: Path) -> None:
    target = place / "fixed"
    root_mount(target, "size=1m")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(target)], check=True)
        check(call("search", *QUICK, "--base", "base", "--out", target / "run"), r"Read-only file system")
        check(call("train", "--epochs", 1, "--out", target / "net"), r"Read-only file system")
        check(call("export", "base", "--format", "safetensors", "--out", target), r"Read-only file system")
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def test_a_run_folder_that_another_search_holds(place: Path) -> None:
    with folder_lock(place / "run", "search", StudyError):
        check(call("search", *QUICK, "--base", "base", "--out", "run", "--trials", 1), r"another search runs in 'run'")


def test_our_own_faults_are_said_in_a_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoprune.artifacts

    def fault(folder: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(autoprune.artifacts, "read_network", fault)
    result = call("evaluate", "base")
    assert result.exit_code == 1
    assert re.search(
        r"internal error: ZeroDivisionError: a fault \(test_bad_input\.py:\d+\); AUTOPRUNE_DEBUG=1", said(result)
    )
    assert "Traceback" not in result.output
    monkeypatch.setenv("AUTOPRUNE_DEBUG", "1")
    assert "Traceback" in call("evaluate", "base").output


def test_the_same_in_a_process_of_its_own(place: Path) -> None:
    """What a shell sees: exit code 2, one line on the standard error, nothing on the standard output."""
    code = "from autoprune.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "evaluate", "none"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no folder 'none'\n")
