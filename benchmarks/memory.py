"""Memory and scale: peak over dense network, data and statistics; cost a candidate against depth and images."""

from __future__ import annotations

import argparse
import json
import resource
from typing import Any

import torch

from autoprune import Objective, ObjectiveSettings, trace
from benchmarks.candidates import as_plan, plans
from benchmarks.common import cifar, network, seconds, spread, worker, write


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    model, data = network(options.network), cifar(options.images)
    graph = trace(model, data.example(1))
    objective = Objective(model, data, settings=ObjectiveSettings(precision="float32", recalibrate=False), graph=graph)
    batch = plans(graph, options.plans, options.seed)
    objective(as_plan({name: 1 / graph.groups[name].size for name in batch[0]}))
    after_first = peak_mib()
    taken = [seconds(lambda ratios=ratios: objective(as_plan(ratios))) for ratios in batch]
    parameters = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    held = len(data.validation) * 3 * 32 * 32 * 4 / 2**20
    print(
        json.dumps(
            {
                "network": options.network,
                "images": options.images,
                "candidate_s": spread([wall for wall, _ in taken]),
                "trace_s": round(graph.trace_s, 3),
                "weights_mib": round(parameters, 1),
                "images_mib": round(held, 1),
                "peak_after_first_mib": round(after_first),
                "peak_after_all_mib": round(peak_mib()),
                "foreign_cores": round(max(load for _, load in taken), 2),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--plans", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.network:
        run_worker(options)
        return
    rows: list[dict[str, Any]] = []
    cases = [(f"resnet{depth}", 1000) for depth in (20, 32, 56, 110)]
    cases += [("resnet20", images) for images in (500, 2000, 4000)]
    for name, images in cases:
        arguments = ["--network", name, "--images", images, "--plans", options.plans, "--threads", options.threads]
        rows.append(worker("benchmarks.memory", *arguments, threads=options.threads))
    write("memory", rows, vars(options))


if __name__ == "__main__":
    main()
