"""Images a second through an episode of ``autoprune/Runtime-v0``, many together, against the dense forward pass.

The vector environment takes ``--images`` images from stage to stage; ``random`` draws every action, ``most`` runs all
groups. The dense network is deployed as it would be (norms folded, channels-last) and takes the same images in one
batch. Each process does both in turns; random weights. Decisions cost nothing here: no agent is asked.
"""

from __future__ import annotations

import argparse
import json
import resource
from statistics import median
from typing import Any

import numpy as np
import torch

from autoprune import load_data
from autoprune.deploy import deployed
from autoprune.envs import RuntimeTask, RuntimeVectorEnv
from benchmarks.common import network, seconds, spread, worker, write

ACTIONS = ("random", "most")


def episodes(options: argparse.Namespace) -> None:
    """One process: rounds of an episode of each kind and of the dense forward pass, in turns."""
    torch.set_num_threads(options.threads)
    data, model = load_data("cifar10", calibration=256), network(options.network)
    task = RuntimeTask.of(model, data, groups=options.groups)
    envs = RuntimeVectorEnv(options.images, task=task, penalty=-0.1, alpha=1.0, autoreset_mode="SameStep")
    draw = np.random.default_rng(options.seed)
    x = data.train.inputs(slice(0, options.images)).contiguous(memory_format=torch.channels_last)
    dense = deployed(model, task.chain.graph.norms)

    def episode(kind: str) -> None:
        for _ in range(len(task)):
            most = np.full(options.images, task.chain.groups - 1)
            envs.step(most if kind == "most" else draw.integers(0, task.chain.groups, options.images))

    envs.reset(seed=options.seed)
    found: dict[str, list[float]] = {"dense": [], **{kind: [] for kind in ACTIONS}}
    load = 0.0
    with torch.inference_mode():
        for turn in range(options.rounds + 1):
            for kind, spent in found.items():
                run = (lambda: dense(x)) if kind == "dense" else (lambda kind=kind: episode(kind))
                wall, foreign = seconds(run)
                if turn:  # the first warms up
                    spent.append(options.images / wall)
                    load = max(load, foreign)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_s": found, "foreign_cores": load, "peak_mib": peak, "stages": len(task)}))


def row(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of one network, over several processes."""
    command = ["--worker", "--network", name, "--threads", options.threads, "--rounds", options.rounds]
    command += ["--images", options.images, "--groups", options.groups, "--seed", options.seed]
    runs = [worker("benchmarks.runtime_env", *command, threads=options.threads) for _ in range(options.processes)]
    rows = []
    for kind in ACTIONS:
        ratios = [
            mine / whole
            for run in runs
            for mine, whole in zip(run["images_per_s"][kind], run["images_per_s"]["dense"], strict=True)
        ]
        rows.append(
            {
                "network": name,
                "stages": runs[0]["stages"],
                "actions": kind,
                "images_per_s": spread([v for run in runs for v in run["images_per_s"][kind]], 1),
                "dense_images_per_s": spread([v for run in runs for v in run["images_per_s"]["dense"]], 1),
                "over_dense": spread(ratios, 3),
                "peak_mib": round(median(run["peak_mib"] for run in runs)),
                "foreign_cores": round(max(run["foreign_cores"] for run in runs), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet20"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        options.network = options.network[0]
        episodes(options)
        return
    rows = [line for name in options.network for line in row(name, options)]
    settings = {k: v for k, v in vars(options).items() if k not in ("worker", "network")}
    write("runtime-environment", rows, settings)


if __name__ == "__main__":
    main()
