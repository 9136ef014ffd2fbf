"""What learners and samplers find on a trained network at equal numbers of evaluations, then retrained alike.

Every controller is given the same network, budget, repair and number of evaluations, on the first ``--images`` of the
validation split, with no retraining while it searches. The best plan of its own (baselines do not count) is then judged
on the whole validation split before and after the same retraining, and on the test split. With ``--policy`` stored
policies are rolled out instead: each proposes its one best plan.

One part is one controller with one seed; its search goes on where it was killed, and its row is kept beside it. Run
parts side by side with ``--seeds``, and again with all of them to gather the rows in ``results/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoprune import Objective, ObjectiveSettings, Plan, load, load_data
from autoprune.files import write_text
from autoprune.finetune import FinetuneSettings
from autoprune.search import search
from autoprune.space import SearchSpace
from benchmarks.common import write

CONTROLLERS = ("uniform", "random", "tpe", "cmaes", "ddpg", "sac")
ONCE = ("uniform", "global", "greedy")  # there is nothing random in them
BUDGET = "macs=0.5"


class Bench:
    """One network: searched on few images, judged on all."""

    def __init__(self, options: argparse.Namespace) -> None:
        data = load_data("cifar10")
        model = load(options.base)
        few = replace(data, validation=data.validation.subset(torch.arange(options.images)))
        quick = ObjectiveSettings(recalibrate=options.reconstruction == "none")
        whole = replace(quick, finetune=FinetuneSettings(batch_size=128, lr=options.lr))
        cache = options.out / f"{options.name}-cache"
        self.options = options
        self.searched = Objective(model, few, settings=quick, cache_dir=cache)
        self.judged = Objective(model, data, settings=whole, graph=self.searched.graph)
        self.space = SearchSpace.from_graph(
            self.searched.graph,
            max_sparsity=options.max_sparsity,
            round_to=options.round_to,
            reconstruction=options.reconstruction,
        )

    def row(self, label: str, controller: str, seed: int, trials: int, given: dict[str, Any]) -> dict[str, Any]:
        """The row of one part, made now or earlier."""
        folder = self.options.out / f"{self.options.name}-{label}-{seed}"
        kept = folder / "row.json"
        if not kept.exists():
            start = time.perf_counter()
            common = {"budget": BUDGET, "space": self.space, "seed": seed, "run_dir": folder, "confirm": False}
            result = search(self.searched, controller=controller, trials=trials, options=given, **common)
            own = [t for t in result.trials if t.usable and t.baseline == (label if label in ONCE else "")]
            best = max(own, key=lambda t: t.accuracy or 0.0)
            row = {"controller": label, "seed": seed, "evaluations": max(1, trials), "searched": best.accuracy}
            row |= {"search_s": round(time.perf_counter() - start, 1), **self._judged(best.plan)}
            row["curve"] = _curve([t.accuracy for t in result.trials if not t.baseline])
            write_text(kept, json.dumps(row))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def _judged(self, plan: Plan | None) -> dict[str, Any]:
        assert plan is not None
        before = self.judged(plan)
        network = self.judged.build(replace(plan, steps=self.options.steps))
        return {
            "before": before.accuracy,
            "after": self.judged.confirm(network, "validation").accuracy,
            "test": self.judged.confirm(network, "test").accuracy,
            "macs": before.ratios["macs"],
        }

    def dense(self) -> dict[str, Any]:
        """The row of the whole network."""
        network = self.judged.build(Plan(steps=0))
        test = self.judged.confirm(network, "test").accuracy
        return {"controller": "dense", "before": self.judged.dense.accuracy, "test": test, "macs": 1.0}


def _curve(accuracies: Sequence[float | None]) -> list[float]:
    """Best so far after 25, 50, ... evaluations."""
    found, best = [], 0.0
    for number, accuracy in enumerate(accuracies, start=1):
        best = max(best, accuracy or 0.0)
        if number % 25 == 0:
            found.append(round(best, 4))
    return found


def _gathered(label: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds."""
    made: dict[str, Any] = {"controller": label, "evaluations": rows[0]["evaluations"], "seeds": len(rows)}
    for field in ("searched", "before", "after", "test", "macs", "search_s"):
        values = [row[field] for row in rows]
        made[field] = {"mean": round(statistics.fmean(values), 4), "runs": [round(v, 4) for v in values]}
        made[field]["std"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
    curves = list(zip(*(row["curve"] for row in rows), strict=False))
    return made | {"best_so_far": [round(statistics.fmean(values), 4) for values in curves]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="folder of a trained network for CIFAR-10")
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="*", default=list(CONTROLLERS), help="controllers")
    parser.add_argument("--policy", nargs="*", default=[], metavar="LABEL=FOLDER,FOLDER", help="policies, one a seed")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200, help="of retraining, once the search is over")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--max-sparsity", type=float, default=0.8)
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--reconstruction", default="mauch_yang")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench, found = Bench(options), dict[str, list[dict[str, Any]]]()

    def add(label: str, *rest: Any) -> None:
        found.setdefault(label, []).append(bench.row(label, *rest))
        print(json.dumps(found[label][-1]), flush=True)

    for place, seed in enumerate(options.seeds):
        for name in options.only:
            if name not in ONCE:
                add(name, name, seed, options.trials, {})
            elif not place:
                add(name, name, seed, 0, {})
        for label, folders in (text.split("=") for text in options.policy):
            add(label, "policy", seed, 1, {"folder": folders.split(",")[seed]})
    rows = [bench.dense(), *(_gathered(label, rows) for label, rows in found.items())]
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "base", "policy")}
    write(f"learners-{options.name}", rows, settings)


if __name__ == "__main__":
    main()
