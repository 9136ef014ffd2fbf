"""The evaluation pass on one slim network: what each measure brings over plain PyTorch, each in a fresh process.

``plain`` is float32, channels-last, batch 256, batch norm as it is, the allocator as it comes. The others add one
measure after the other: folded norms, the engine's batch size, kept memory, bfloat16.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from autoprune import apply, trace
from autoprune.allocator import keep_memory
from autoprune.deploy import deployed
from autoprune.evaluation import DTYPES, EvalSet
from autoprune.hardware import batch_size
from benchmarks.candidates import as_plan, plans
from benchmarks.common import cifar, network, seconds, spread, worker, write

FORMS = {
    "plain": {"folded": False, "batch": 256, "memory": False, "dtype": "float32"},
    "+ folded": {"folded": True, "batch": 256, "memory": False, "dtype": "float32"},
    "+ batch size": {"folded": True, "batch": None, "memory": False, "dtype": "float32"},
    "+ kept memory": {"folded": True, "batch": None, "memory": True, "dtype": "float32"},
    "+ bfloat16": {"folded": True, "batch": None, "memory": True, "dtype": "bfloat16"},
}


def run_worker(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    form: dict[str, Any] = FORMS[options.form]
    if form["memory"]:
        keep_memory()
    model, data = network(options.network, options.checkpoint), cifar(options.images)
    graph = trace(model, data.example(1))
    small = apply(model, as_plan(plans(graph, 1, options.seed)[0]), graph=graph).module.eval()
    dtype = DTYPES[form["dtype"]]
    samples = EvalSet(data.validation, dtype=dtype, batch=form["batch"] or batch_size(graph))
    module = deployed(small, graph.norms if form["folded"] else (), dtype=dtype)
    samples.evaluate(module)
    taken = [seconds(lambda: samples.evaluate(module)) for _ in range(3)]
    wall, load = min(taken)
    print(json.dumps({"seconds": wall, "load": load, "batch": samples.batch}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=list(FORMS))
    options = parser.parse_args()
    if options.form:
        run_worker(options)
        return
    taken: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for _ in range(options.repeats):
        for form in FORMS:
            arguments = ["--network", options.network, "--images", options.images, "--threads", options.threads]
            arguments += ["--form", form, "--seed", options.seed]
            arguments += ["--checkpoint", options.checkpoint] if options.checkpoint else []
            taken[form].append(worker("benchmarks.evaluation_pass", *arguments, threads=options.threads))
    rows = [
        {
            "network": options.network,
            "form": form,
            "batch": runs[0]["batch"],
            "images_per_s": spread([options.images / run["seconds"] for run in runs], 0),
            "ratio_to_plain": spread(
                [a["seconds"] / b["seconds"] for a, b in zip(taken["plain"], runs, strict=True)], 2
            ),
            "foreign_cores": spread([run["load"] for run in runs], 2),
        }
        for form, runs in taken.items()
    ]
    write(f"evaluation-pass-{options.network}", rows, vars(options))


if __name__ == "__main__":
    main()
