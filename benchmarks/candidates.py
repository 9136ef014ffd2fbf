"""Candidates per second: the obvious loop against the objective, the same plans and the same images in both.

The obvious loop asks Optuna for one ratio a group, copies the dense network, prunes the copy with torch-pruning (L2,
ratios by layer), and counts right answers on the images in float32. Each repeat runs in a fresh process, in turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from typing import Any

import optuna
import torch
from torch import nn

from autoprune import LayerDecision, Objective, ObjectiveSettings, Plan, trace
from autoprune.graph import LayerGraph
from autoprune.plan import Pattern
from autoprune.racing import RaceSettings, RaceState
from benchmarks.common import accuracy, cifar, network, seconds, spread, worker, write

optuna.logging.set_verbosity(optuna.logging.ERROR)


def plans(graph: LayerGraph, count: int, seed: int) -> list[dict[str, float]]:
    """Ratios of 0 to 0.7 for each group of channels, exact multiples of one unit."""
    draw = random.Random(seed)
    groups = [g for g in graph.prunable if g.pattern is Pattern.CHANNEL]
    return [{g.name: draw.randrange(int(0.7 * g.size) + 1) / g.size for g in groups} for _ in range(count)]


def as_plan(ratios: dict[str, float]) -> Plan:
    return Plan(tuple(LayerDecision(name, "l2_norm", Pattern.CHANNEL, ratio) for name, ratio in ratios.items()))


def asked(study: optuna.Study, ratios: dict[str, float]) -> optuna.Trial:
    """One ask and its suggestions, with the given values, as both loops need them."""
    study.enqueue_trial(ratios)
    trial = study.ask()
    for name in ratios:
        trial.suggest_float(name, 0.0, 0.7)
    return trial


def obvious(model: nn.Module, graph: LayerGraph, data: Any, batch: list[dict[str, float]]) -> dict[str, Any]:
    import torch_pruning

    x, y = data.validation.inputs(), data.validation.y
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    keep = [model.get_submodule(n) for n in graph.layers if isinstance(model.get_submodule(n), nn.Linear)]
    assert linear == keep
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    found: list[float] = []

    def candidate(ratios: dict[str, float]) -> None:
        trial = asked(study, ratios)
        clone = copy.deepcopy(model)
        by_module = {
            clone.get_submodule(layer): ratio
            for name, ratio in ratios.items()
            for layer in graph.groups[name].layers
            if not _depthwise(clone.get_submodule(layer))
        }
        pruner = torch_pruning.pruner.MagnitudePruner(
            clone,
            x[:1],
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.0,
            pruning_ratio_dict=by_module,
            ignored_layers=[m for m in clone.modules() if isinstance(m, nn.Linear)],
            in_channel_groups={},
            out_channel_groups={},
        )
        pruner.step()
        found.append(accuracy(clone, x, y, 250))
        study.tell(trial, found[-1])

    candidate(batch[0])
    wall, load = seconds(lambda: [candidate(ratios) for ratios in batch])
    return {"seconds": wall, "load": load, "accuracies": found[1:]}


def ours(
    model: nn.Module, graph: LayerGraph, data: Any, batch: list[dict[str, float]], *, race: bool, precision: str
) -> dict[str, Any]:
    settings = ObjectiveSettings(precision=precision, recalibrate=False, race=RaceSettings() if race else None)
    objective = Objective(model, data, settings=settings, graph=graph)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    state = RaceState()
    outcomes = []

    def candidate(ratios: dict[str, float]) -> None:
        trial = asked(study, ratios)
        outcome = objective(as_plan(ratios), race=state)
        state.update(outcome)
        outcomes.append(outcome)
        study.tell(trial, outcome.accuracy)

    start = time.perf_counter()
    objective.dense  # noqa: B018 - evaluated once, as set-up
    candidate({name: 1 / graph.groups[name].size for name in batch[0]})
    setup = time.perf_counter() - start
    state, outcomes = RaceState(), []
    wall, load = seconds(lambda: [candidate(ratios) for ratios in batch])
    best = max((o for o in outcomes if o.ok), key=lambda o: o.accuracy or 0.0)
    return {
        "seconds": wall,
        "load": load,
        "setup_s": setup,
        "precision": objective.precision.name,
        "accuracies": [o.accuracy if o.ok else None for o in outcomes],
        "best": outcomes.index(best),
        "images": sum(o.images for o in outcomes),
    }


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def run_worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    model, data = network(options.network, options.checkpoint), cifar(options.images)
    graph = trace(model, data.example(1))
    batch = plans(graph, options.plans, options.seed)
    if options.loop == "obvious":
        result = obvious(model, graph, data, batch)
    else:
        precision = "float32" if options.loop == "float32" else "auto"
        result = ours(model, graph, data, batch, race=options.loop == "raced", precision=precision)
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loop", choices=["obvious", "float32", "auto", "raced"])
    options = parser.parse_args()
    if options.loop:
        run_worker(options)
        return
    loops = ("obvious", "float32", "auto", "raced")
    taken: dict[str, list[dict[str, Any]]] = {loop: [] for loop in loops}
    for repeat in range(options.repeats):
        for loop in loops:
            arguments = ["--network", options.network, "--images", options.images, "--plans", options.plans]
            arguments += ["--threads", options.threads, "--seed", options.seed + repeat, "--loop", loop]
            arguments += ["--checkpoint", options.checkpoint] if options.checkpoint else []
            taken[loop].append(worker("benchmarks.candidates", *arguments, threads=options.threads))
    rows = [_row(options, loop, taken) for loop in loops]
    write(f"candidates-{options.network}", rows, vars(options))


def _row(options: argparse.Namespace, loop: str, taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    runs = taken[loop]
    row: dict[str, Any] = {
        "network": options.network,
        "loop": loop,
        "candidates_per_s": spread([options.plans / run["seconds"] for run in runs]),
        "ratio": spread([a["seconds"] / b["seconds"] for a, b in zip(taken["obvious"], runs, strict=True)], 2),
        "foreign_cores": spread([run["load"] for run in runs], 2),
    }
    if loop != "obvious":
        row["setup_s"] = spread([run["setup_s"] for run in runs], 2)
        row["precision"] = runs[0]["precision"]
        row["images_share"] = spread([run["images"] / (options.images * options.plans) for run in runs], 3)
        row["accuracy_lost_by_choice"] = spread([_lost(a, b) for a, b in zip(taken["float32"], runs, strict=True)])
    return row


def _lost(exact: dict[str, Any], run: dict[str, Any]) -> float:
    """Accuracy (float32, every image) of the truly best plan less that of the plan this loop calls best."""
    return max(exact["accuracies"]) - exact["accuracies"][run["best"]]


if __name__ == "__main__":
    main()
