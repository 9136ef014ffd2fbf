"""Several plans at once: ``Objective.many`` against one after another, the same plans on the same images in both.

Two kinds of plans: random ones, which share next to nothing, and neighbours, which differ from one plan in one group
each, as local search proposes them. Each repeat runs in a fresh process, in turn; both ways must give equal losses.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from autoprune import Objective, ObjectiveSettings, Plan, trace
from autoprune.graph import LayerGraph
from benchmarks.candidates import as_plan, plans
from benchmarks.common import cifar, network, seconds, spread, worker, write

WAYS = ("one by one", "many")


def random_plans(graph: LayerGraph, count: int, seed: int) -> list[Plan]:
    """Each group of channels loses 0 to 70 %."""
    return [as_plan(ratios) for ratios in plans(graph, count, seed)]


def neighbours(graph: LayerGraph, count: int, seed: int) -> list[Plan]:
    """A random plan, and others that decide otherwise for one group each."""
    first, *others = plans(graph, 20 * count, seed)
    names, found = list(first), {as_plan(first): None}
    for place, other in enumerate(others):
        name = names[place % len(names)]
        if len(found) < count:
            found.setdefault(as_plan({**first, name: other[name]}))
    return list(found)


KINDS = {"random": random_plans, "neighbours": neighbours}


def run_worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    model, data = network(options.network, options.checkpoint), cifar(options.images)
    graph = trace(model, data.example(1))
    objective = Objective(model, data, settings=ObjectiveSettings(recalibrate=False), graph=graph)
    warm, timed = (KINDS[options.kind](graph, options.plans, seed) for seed in (options.seed + 1000, options.seed))

    def judge(some: list[Plan]) -> list[Any]:
        return objective.many(some) if options.way == "many" else [objective(plan) for plan in some]

    judge(warm[:2])
    found: list[Any] = []
    wall, load = seconds(lambda: found.extend(judge(timed)))
    losses = [outcome.loss for outcome in found]
    print(json.dumps({"seconds": wall, "load": load, "losses": losses, "precision": objective.precision.name}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plans", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way:
        run_worker(options)
        return
    write(f"many-{options.network}", [row for kind in KINDS for row in _rows(options, kind)], vars(options))


def _rows(options: argparse.Namespace, kind: str) -> list[dict[str, Any]]:
    taken: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for repeat in range(options.repeats):
        for way in WAYS:
            arguments = ["--network", options.network, "--images", options.images, "--plans", options.plans]
            arguments += ["--threads", options.threads, "--seed", options.seed + repeat, "--kind", kind, "--way", way]
            arguments += ["--checkpoint", options.checkpoint] if options.checkpoint else []
            taken[way].append(worker("benchmarks.many", *arguments, threads=options.threads))
    return [_row(options, kind, way, taken) for way in WAYS]


def _row(options: argparse.Namespace, kind: str, way: str, taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    runs, single = taken[way], taken[WAYS[0]]
    return {
        "network": options.network,
        "plans": kind,
        "way": way,
        "precision": runs[0]["precision"],
        "plans_per_s": spread([options.plans / run["seconds"] for run in runs], 2),
        "ratio": spread([a["seconds"] / b["seconds"] for a, b in zip(single, runs, strict=True)], 2),
        "equal": all(a["losses"] == b["losses"] for a, b in zip(single, runs, strict=True)),
        "foreign_cores": spread([run["load"] for run in runs], 2),
    }


if __name__ == "__main__":
    main()
