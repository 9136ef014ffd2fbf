"""What all benchmarks share: networks, data, timing with a record of foreign load, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"


def network(name: str, checkpoint: str | None = None) -> nn.Module:
    """A trained network from ``checkpoint``, else one with random weights and lively batch norms."""
    from autoprune import build_model, load

    if checkpoint:
        return load(checkpoint).eval()
    torch.manual_seed(0)
    model = build_model(name, input_shape=(3, 32, 32), num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def cifar(images: int) -> Any:
    """CIFAR-10 with only ``images`` in the validation split."""
    from dataclasses import replace

    from autoprune import load_data

    data = load_data("cifar10")
    return replace(data, validation=data.validation.subset(torch.arange(images)))


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, cores that other processes kept busy meanwhile)."""
    machine, own, start = _machine_cpu(), time.process_time(), time.perf_counter()
    run()
    wall = time.perf_counter() - start
    return wall, max(0.0, (_machine_cpu() - machine - (time.process_time() - own)) / wall)


def _machine_cpu() -> float:
    """Busy seconds of all cores since boot."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float | int]:
    """min / median / max of at least one figure."""
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


def worker(module: str, *arguments: object, threads: int, environment: dict[str, str] | None = None) -> Any:
    """Run ``python -m module arguments`` in a fresh process and read the JSON in its last line of output."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def write(name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """``results/NAME.json``: the rows and everything that made them."""
    facts = {
        "threads": settings.pop("threads", None),
        "python": platform.python_version(),
        "processor": _processor(),
        **{package: _version(package) for package in ("torch", "optuna", "torch-pruning", "numpy", "autoprune")},
    }
    if str(settings.get("device", "cpu")).startswith("cuda"):
        facts["accelerator"] = torch.cuda.get_device_name()
    if settings.get("checkpoint"):
        settings["checkpoint"] = Path(settings["checkpoint"]).name
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"settings": settings, "machine": facts, "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    for row in rows:
        print(json.dumps(row))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} cores"
    return platform.processor()


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> float:
    """The obvious evaluation loop."""
    right = 0
    with torch.no_grad():
        for at in range(0, len(y), batch):
            right += int((model(x[at : at + batch]).argmax(1) == y[at : at + batch]).sum())
    return right / len(y)
