"""The command line, in this process: every command on a small network that was really trained."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import autoprune
from autoprune.cli.main import COMMANDS, app
from autoprune.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")

Cli = Callable[..., Result]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def good(*arguments: object) -> str:
    """Standard output of a command that must work."""
    result = call(*arguments)
    assert result.exit_code == 0, f"{arguments}\n{result.output}\n{result.exception!r}"
    return result.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained network."""
    folder = tmp_path_factory.mktemp("cli") / "base"
    good("train", "--model", "digits_cnn", "--epochs", 6, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    """A finished search."""
    folder = base.parent / "run"
    options = ("--retrain-steps", 4, "--methods", "l1_norm", "--methods", "fpgm")
    text = good("search", "--base", base, "--trials", 5, "--out", folder, *options)
    assert "best found" in text
    return folder


def test_every_command_has_help() -> None:
    overview = good("--help")
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", overview)
        assert "Usage: " in good(name, "--help")


def test_help_shows_every_setting_with_its_default() -> None:
    from autoprune.settings import COMMANDS as SETTINGS

    for name, cls in SETTINGS.items():
        text = good(*name.split(), "--help")
        for setting in cls.model_fields:
            assert f"--{setting.replace('_', '-')}" in text, (name, setting)
    assert "macs=0.5" in good("search", "--help")


def test_version() -> None:
    assert good("--version").strip() == f"autoprune {autoprune.__version__}"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", ["l1_norm", "fpgm", "taylor_fo", "mauch_yang"]),
        ("models", ["resnet20", "digits_cnn", "package.module:factory"]),
        ("datasets", ["digits", "cifar10"]),
        ("controllers", ["tpe", "greedy", "nsga2"]),
    ],
)
def test_lists_come_from_the_registries(kind: str, names: list[str]) -> None:
    text = good("list", kind)
    assert all(name in text for name in names)


def test_train_stores_a_network_that_loads(base: Path) -> None:
    metrics = json.loads((base / "model.json").read_text())["metrics"]
    assert metrics["validation"]["accuracy"] > 0.9
    module = autoprune.load(base)
    assert module(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    config = tomllib.loads((base / "config.toml").read_text())
    assert config["command"] == "train"
    assert config["made_with"]["training"]["epochs"] == 6


def test_train_again_repeats_nothing(base: Path) -> None:
    before = (base / "model.safetensors").stat().st_mtime_ns
    text = good("train", "--model", "digits_cnn", "--epochs", 6, "--out", base)
    assert "Epoch" not in text
    assert (base / "model.safetensors").stat().st_mtime_ns == before


def test_inspect_shows_layers_costs_groups_and_reasons(base: Path) -> None:
    text = good("inspect", "--base", base)
    assert "23,034 parameters, 460,416 MACs" in text
    assert re.search(r"conv2\.0 +conv +32x8x8 +32x16x3x3 +4,608 +294,912 +64\.1%", text)
    assert re.search(r"fc2 +unit +10 .*no: .*output", text)


def test_inspect_needs_no_trained_network() -> None:
    text = good("inspect", "--data", "wine", "--model-options", "hidden=[7]")
    assert re.search(r"mlp: 122 parameters, 112 MACs", text)  # 13 x 7 + 7 and 7 x 3 + 3


def test_sensitivity_as_table_and_picture(base: Path, tmp_path: Path) -> None:
    text = good("inspect", "--base", base, "--sensitivity", "--out", tmp_path, "--sparsities", 0.5, "--sparsities", 0.9)
    assert "-50%" in text
    lines = list(csv.DictReader((tmp_path / "sensitivity.csv").read_text().splitlines()))
    assert {line["group"] for line in lines} == {"conv1.0", "conv2.0", "conv3.0", "fc1"}
    assert all(0 <= float(line["accuracy"]) <= 1 for line in lines)
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_prune_makes_a_smaller_network(base: Path, tmp_path: Path) -> None:
    good("prune", "--base", base, "--sparsity", 0.5, "--retrain-steps", 0, "--out", tmp_path / "half")
    module = autoprune.load(tmp_path / "half")
    assert module.get_submodule("conv2.0").weight.shape == (16, 8, 3, 3)
    assert sum(p.numel() for p in module.parameters()) == 6018
    plan = Plan.from_json((tmp_path / "half" / "plan.json").read_text())
    assert set(plan.sparsities().values()) == {0.5}


def test_prune_follows_a_plan_file(base: Path, tmp_path: Path) -> None:
    good("prune", "--base", base, "--sparsity", 0.25, "--exclude", "fc1", "--retrain-steps", 3, "--out", tmp_path / "a")
    text = good(
        *(
            "prune",
            "--base",
            base,
            "--plan",
            tmp_path / "a" / "plan.json",
            "--retrain-steps",
            3,
            "--out",
            tmp_path / "b",
        )
    )
    assert re.search(r"fc1 +█+ +64 of 64", text)
    digests = [json.loads((tmp_path / n / "model.json").read_text())["digest"] for n in "ab"]
    assert digests[0] == digests[1]


def test_prune_meets_a_budget(base: Path, tmp_path: Path) -> None:
    good(
        "prune",
        "--base",
        base,
        "--budget",
        "macs=0.4",
        "--budget",
        "params=50%",
        "--retrain-steps",
        0,
        "--out",
        tmp_path,
    )
    graph = autoprune.trace(autoprune.load(tmp_path), torch.zeros(2, 1, 8, 8))
    assert graph.macs <= 0.4 * 460_416
    assert graph.params <= 0.5 * 23_034


def test_masked_networks_claim_no_gain(base: Path, tmp_path: Path) -> None:
    options = ("--pattern", "weight", "--method", "magnitude", "--sparsity", 0.5, "--retrain-steps", 2)
    text = good("prune", "--base", base, *options, "--out", tmp_path)
    assert "Only masked" in text
    weight = autoprune.load(tmp_path).get_submodule("fc1").weight
    assert (weight == 0).float().mean() >= 0.5


def test_search_ends_with_the_table_and_keeps_its_promises(run: Path, base: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["dense", "uniform", "global", "greedy", "best found"]
    assert all(rows[name]["macs"] <= 0.5 * 460_416 and rows[name]["fits"] for name in list(rows)[1:])
    assert rows["best found"]["accuracy"] == max(rows[name]["accuracy"] for name in list(rows)[1:])
    assert rows["best found"]["retrained"] is not None
    assert all(row["latency_ms"] > 0 and row["test"] is not None for row in rows.values())
    assert result["counts"] == {"ok": 8}
    pruned = autoprune.load(run / "best")
    assert sum(p.numel() for p in pruned.parameters()) == rows["best found"]["params"]
    assert (run / "base" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    for name in ("config.toml", "study.db", "report.html", "log.jsonl", "best/plan.json", "best/plan.png"):
        assert (run / name).is_file(), name


def test_the_same_search_again_repeats_no_trial(run: Path, base: Path) -> None:
    options = ("--retrain-steps", 4, "--methods", "l1_norm", "--methods", "fpgm")
    finished = (run / "log.jsonl").read_text().count("trial_finished")
    text = good("search", "--base", base, "--trials", 5, "--out", run, *options)
    assert "Going on: 5 of 5 trials are done" in text
    assert (run / "log.jsonl").read_text().count("trial_finished") == finished


def test_a_stored_config_makes_the_same_search(run: Path, tmp_path: Path) -> None:
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["methods"] == ["l1_norm", "fpgm"]
    good("search", "--config", run / "config.toml", "--out", tmp_path / "again")
    histories = [
        [(r["name"], r["accuracy"], r["macs"]) for r in json.loads((folder / "result.json").read_text())["rows"]]
        for folder in (run, tmp_path / "again")
    ]
    assert histories[0] == histories[1]


def test_search_for_a_front(base: Path, tmp_path: Path) -> None:
    options = ("--pareto", "macs", "--controller", "nsga2", "--trials", 6, "--retrain-steps", 0, "--no-test")
    text = good("search", "--base", base, *options, "--out", tmp_path)
    assert "Pareto front" in text
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["budget"] is None
    assert result["front"]
    assert all(row["test"] is None for row in result["rows"])


def test_studies_can_be_looked_into(run: Path) -> None:
    assert re.search(r"run .*macs <= 50% of dense +8 ok", good("study", "list", run.parent))
    text = good("study", "show", run, "--top", 3)
    assert "5 more with --all" in text
    assert len(re.findall(r" ok +\d", good("study", "show", run, "--all"))) == 8
    assert "of study 'run'" in good("study", "best", run)
    assert re.search(r"conv2\.0 +[█░]+ +\d+ of 32", good("study", "show", run, "--trial", 3))


def test_any_trial_is_rebuilt_bit_for_bit(run: Path, tmp_path: Path) -> None:
    good("study", "export", run, "--out", tmp_path / "best")
    digests = [json.loads((f / "model.json").read_text())["digest"] for f in (run / "best", tmp_path / "best")]
    assert digests[0] == digests[1]
    good("study", "export", run, "--trial", 4, "--out", tmp_path / "four", "--format", "torch")
    assert (tmp_path / "four" / "model.pt2").is_file()
    plan = json.loads((tmp_path / "four" / "plan.json").read_text())
    assert json.loads((tmp_path / "four" / "model.json").read_text())["plan"] == plan


def test_evaluate_gives_the_numbers_of_the_search(run: Path) -> None:
    row = json.loads((run / "result.json").read_text())["rows"][-1]
    text = good("evaluate", run / "best", "--split", "validation", "--no-latency")
    assert f"{100 * row['accuracy']:.2f}%" in text
    assert f"{row['macs']:,}" in text
    assert "latency" not in text
    assert "batch 2" in good("evaluate", run / "best", "--latency-batch", 2)


def test_export_of_a_pruned_network(run: Path, tmp_path: Path) -> None:
    assert "any batch size" in good("export", run / "best", "--format", "safetensors", "--out", tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    onnx = pytest.importorskip("onnxruntime")
    good("export", run / "best", "--out", tmp_path)
    session = onnx.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 8, 8)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = autoprune.load(run / "best")(x)
    assert torch.allclose(torch.from_numpy(got), wanted, atol=1e-4)
