"""What a search wins on real data: dense, baselines and best found with the same retraining, over several seeds.

Runs ``autoprune search`` once a seed (a killed run goes on where it was) and gathers the stored results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import write


def searched(folder: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "autoprune", "search", "--base", options.base, "--out", str(folder)]
    command += ["--budget", options.budget, "--trials", str(options.trials), "--seed", str(seed)]
    command += ["--retrain-steps", str(options.steps), "--threads", str(options.threads)]
    command += ["--controller", options.controller, *options.more]
    result = folder / "result.json"
    if not result.exists():
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="folder of a trained network")
    parser.add_argument("--name", required=True, help="name of the result file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--controller", default="tpe")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options, options.more = parser.parse_known_args()
    runs = {seed: searched(options.out / f"{options.name}-{seed}", options, seed) for seed in options.seeds}
    names = [row["name"] for row in runs[options.seeds[0]]["rows"]]
    rows = [_row(name, [_find(run, name) for run in runs.values()]) for name in names]
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "base")}
    write(f"accuracy-{options.name}", rows, settings)


def _find(run: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in run["rows"] if row["name"] == name)


def _row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"network": name}
    for field in ("accuracy", "recalibrated", "test"):
        values = [entry[field] for entry in found if entry.get(field) is not None]
        if not values:
            continue
        row[field] = {"mean": round(statistics.mean(values), 4), "runs": [round(v, 4) for v in values]}
        row[field]["std"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
    for cost in ("macs", "params", "bytes"):
        row[cost] = [entry[cost] for entry in found]
    return row


if __name__ == "__main__":
    main()
