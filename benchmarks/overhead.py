"""A candidate against the bare forward pass of its own pruned network in the same form (goal: at most 1.10).

Also how often bfloat16 swaps the rank of two candidates, and the true error rate of early rejection.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from typing import Any

import torch

from autoprune import Objective, ObjectiveSettings, trace
from autoprune.deploy import deployed
from autoprune.evaluation import DTYPES, EvalSet
from autoprune.racing import RaceSettings, RaceState
from benchmarks.candidates import as_plan, plans
from benchmarks.common import cifar, network, seconds, spread, write


def bare(objective: Objective, samples: EvalSet, ratios: dict[str, float]) -> Any:
    """The loop that a careful engineer would write for this one network: nothing but forward passes and a count."""
    module = deployed(objective.build(as_plan(ratios)).module, objective.graph.norms, dtype=samples.x.dtype)

    def run() -> int:
        right = 0
        with torch.inference_mode():
            for at in range(0, len(samples), samples.batch):
                logits = module(samples.x[at : at + samples.batch])
                right += int((logits.argmax(1) == samples.y[at : at + samples.batch]).sum())
        return right

    return run


def overhead(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    model, data = network(options.network, options.checkpoint), cifar(options.images)
    graph = trace(model, data.example(1))
    settings = ObjectiveSettings(precision=precision, recalibrate=False)
    objective = Objective(model, data, settings=settings, graph=graph)
    samples = EvalSet(data.validation, dtype=DTYPES[objective.precision.name], batch=objective.batch)
    batch = plans(graph, options.plans, options.seed)  # different ones: an outcome that is asked for again is only read
    objective(as_plan({name: 1 / graph.groups[name].size for name in batch[0]}))
    ratios, loads = [], []
    for chosen in batch:
        run = bare(objective, samples, chosen)
        run()
        whole, load = seconds(lambda chosen=chosen: objective(as_plan(chosen)))
        alone = min(seconds(run)[0] for _ in range(2))
        ratios.append(whole / alone)
        loads.append(load)
    return {
        "network": options.network,
        "precision": objective.precision.name,
        "candidate_over_bare": spread(ratios, 3),
        "foreign_cores": spread(loads, 2),
    }


def ranks(options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of candidates whose order differs between bfloat16 and float32, of pairs that differ in float32."""
    model, data = network(options.network, options.checkpoint), cifar(options.images)
    graph = trace(model, data.example(1))
    found: dict[str, list[float]] = {}
    batch = plans(graph, options.ranked, options.seed + 1000)
    raced = {"stopped": 0, "wrongly": 0}
    for precision in ("float32", "bfloat16"):
        settings = ObjectiveSettings(precision=precision, recalibrate=False, race=RaceSettings())
        objective = Objective(model, data, settings=settings, graph=graph)
        found[precision] = [float(objective(as_plan(ratios)).accuracy or 0) for ratios in batch]
        if precision == "float32":
            raced = _raced(Objective(model, data, settings=settings, graph=graph), batch, found[precision])
    pairs = [(a, b) for a, b in combinations(range(len(batch)), 2) if found["float32"][a] != found["float32"][b]]
    swapped = sum(
        (found["float32"][a] - found["float32"][b]) * (found["bfloat16"][a] - found["bfloat16"][b]) < 0
        for a, b in pairs
    )
    return {
        "network": options.network,
        "candidates": len(batch),
        "pairs": len(pairs),
        "pairs_swapped_by_bfloat16": swapped,
        "largest_accuracy_change": round(
            max(abs(a - b) for a, b in zip(found["float32"], found["bfloat16"], strict=True)), 4
        ),
        **raced,
    }


def _raced(objective: Objective, batch: list[dict[str, float]], exact: list[float]) -> dict[str, int]:
    """Every candidate raced against every better and worse incumbent would be too long: in order, as a search does."""
    state, best, stopped, wrongly = RaceState(), 0.0, 0, 0
    for ratios, accuracy in zip(batch, exact, strict=True):
        outcome = objective(as_plan(ratios), race=state)
        state.update(outcome)
        if not outcome.ok:
            stopped += 1
            wrongly += accuracy >= best
        best = max(best, accuracy)
    return {"rejected_early": stopped, "rejected_wrongly": wrongly}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--ranked", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [overhead(options, precision) for precision in ("float32", "auto")]
    if options.ranked:
        rows.append(ranks(options))
    write(f"overhead-{options.network}", rows, vars(options))


if __name__ == "__main__":
    main()
