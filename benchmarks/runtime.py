"""Dense and runtime-pruned networks side by side: what counted operations save in time, and what deciding costs.

Both are deployed alike: norms folded, channels-last, weights laid out once, kept memory, inference mode, random
weights.
``pytorch`` is the dense network as PyTorch runs it, norms folded and channels-last too. The controller does all its
work, but its decisions are replaced by a given action everywhere, or (``mixed``) by random ones for every image and
stage. In each fresh process all take turns round by round; processes of the networks and batch sizes take turns too.
``saved_over_counted`` is the saving of wall-clock time, controller included, over the saving of the network's own
multiply-accumulates: 1 where time falls as the count does. ``controller_over_dense`` is what the same forward pass
takes less when the actions are known beforehand, so decisions are timed where they are taken, in cold caches. Times are
shares of ``dense``, those with ``pytorch`` in their names of ``pytorch``.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.allocator import keep_memory
from autoprune.deploy import deployed
from autoprune.runtime import Chain, Controller, RuntimePrunedNetwork
from autoprune.seeding import generator, seeded
from benchmarks.common import network, seconds, spread, worker, write

SINGLES = 64  # random rows of actions that single images take in turn
BATCHES = 8  # different batches of random rows, so that groups are as seldom of a size seen before as in real use


class Forced(RuntimePrunedNetwork):
    """The controller does its work, then other actions are taken: those of :attr:`rows` [R, m] in turn."""

    def force(self, rows: Tensor) -> None:
        """Take these actions from now on: one row for a single image, as many as there are images for a batch."""
        self.repack()
        one, step, groups = self._taken(), Controller.step, self.chain.groups
        scores = torch.nn.functional.one_hot(rows - 1, groups).float()  # [R, m, k]
        own, singles, current, at = one.start, cycle(scores.tolist()), scores[:0], 0

        def start() -> Any:
            deciding, row = own(), next(singles)
            scored = deciding.scores

            def forced(stage: int, value: Tensor, constants: Any) -> Any:
                scored(stage, value, constants)
                return row[stage]

            deciding.scores = forced  # type: ignore[method-assign]
            return deciding

        def batch(stage: int, pooled: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal current, at
            if stage == 0:
                places = (at + torch.arange(len(pooled))) % len(scores)
                current, at = scores[places], (at + len(pooled)) % len(scores)
            _, state = step(self.controller, stage, pooled, state)
            return current[:, stage], state

        one.start = start  # type: ignore[method-assign]
        self.controller.step = batch  # type: ignore[method-assign]

    def _taken(self) -> Any:
        assert self.compiled is not None
        return self._one


def undecided(network: Forced, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward pass that takes the actions of ``rows`` in turn without asking a controller."""
    compiled, stages, at = network.compiled, range(len(network.chain.stages)), 0
    singles = cycle(rows.tolist())

    def single(x: Tensor) -> Tensor:
        row, value = next(singles), compiled.prelude(x)
        for stage in stages:
            value = compiled.run_stage(stage, value, row)
        return value

    def batch(x: Tensor) -> Tensor:
        nonlocal at
        chosen, at = rows[(at + torch.arange(len(x))) % len(rows)].T.contiguous(), (at + len(x)) % len(rows)
        walk = compiled.begin(x)
        for stage in stages:
            walk = walk.step(chosen[stage])
        return walk.output

    return lambda x: single(x) if len(x) == 1 else batch(x)


def prepared(options: argparse.Namespace) -> tuple[nn.Module, Forced, Tensor]:
    """The dense network as PyTorch runs it, the runtime-pruned one, and a batch."""
    torch.set_num_threads(options.threads)
    keep_memory()
    model = network(options.network)
    x = torch.randn(options.batch, 3, 32, 32, generator=generator(options.seed, "images"))
    x = x.contiguous(memory_format=torch.channels_last)
    chain = Chain(model, x[:1], groups=options.groups)
    with seeded(options.seed, "controller"):
        controller = Controller(chain.channels, chain.groups)
    return deployed(model, chain.graph.norms), Forced(chain, controller), x


def settings_of(chain: Chain, size: int, seed: int) -> dict[str, Tensor]:
    """Actions by name, ``[R, m]``."""
    stages, groups = len(chain.stages), chain.groups
    constant = {f"all {a}": torch.full((1, stages), a) for a in range(1, groups + 1)}
    count = SINGLES if size == 1 else BATCHES * size
    return constant | {"mixed": torch.randint(1, groups + 1, (count, stages), generator=generator(seed, "actions"))}


def _ms(run: Callable[[], object], runs: int) -> tuple[float, float]:
    """(milliseconds of one of ``runs`` runs, cores that others kept busy meanwhile)."""
    wall, load = seconds(lambda: [run() for _ in range(runs)])
    return wall / runs * 1e3, load


def run_times(options: argparse.Namespace) -> None:
    """One process: every setting against the dense network, ``rounds`` times in turns."""
    plain, pruned, x = prepared(options)
    dense = undecided(pruned, torch.full((1, len(pruned.chain.stages)), pruned.chain.groups))
    runs = max(1, options.runs // options.batch)
    found = []
    with torch.inference_mode():
        for name, rows in settings_of(pruned.chain, options.batch, options.seed).items():
            pruned.force(rows)
            bare = undecided(pruned, rows)
            forms: dict[str, Callable[[Tensor], object]] = {
                "pytorch": plain,
                "dense": dense,
                "pruned": pruned,
                "undecided": bare,
            }
            for _ in range(SINGLES if options.batch == 1 else 1):  # warm: every packed width, and kernels
                for form in forms.values():
                    form(x)
            turns = [
                {kind: _ms(lambda form=form: form(x), runs) for kind, form in forms.items()}  # type: ignore[misc]
                for _ in range(options.rounds)
            ]
            own = pruned.controller.macs(pruned.chain.reads(rows))
            found.append(
                {
                    "actions": name,
                    "macs_share": float(pruned.chain.macs(rows).double().mean()) / pruned.chain.dense_macs,
                    "controller_macs_share": float(own.double().mean()) / pruned.chain.dense_macs,
                    **{f"{kind}_ms": median(turn[kind][0] for turn in turns) for kind in forms},
                    "controller_ms": median(turn["pruned"][0] - turn["undecided"][0] for turn in turns),
                    "foreign_cores": max(load for turn in turns for _, load in turn.values()),
                }
            )
    print(json.dumps(found))


def run_memory(options: argparse.Namespace) -> None:
    """One process: the peak of one form alone, in MiB."""
    plain, pruned, x = prepared(options)
    rows = settings_of(pruned.chain, options.batch, options.seed)["mixed"]
    with torch.inference_mode():
        if options.form == "pruned":
            pruned.force(rows)
        for _ in range(SINGLES if options.batch == 1 else BATCHES):
            (pruned if options.form == "pruned" else plain)(x)
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def rows_of(name: str, batch: int, runs: list[list[dict[str, Any]]], memory: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each setting, over the processes."""
    rows = []
    for cases in zip(*runs, strict=True):
        counted = 1 - cases[0]["macs_share"]
        row = {
            "network": name,
            "batch": batch,
            "actions": cases[0]["actions"],
            "macs_share": round(cases[0]["macs_share"], 4),
            "controller_macs_share": round(cases[0]["controller_macs_share"], 5),
            "pytorch_ms": spread([case["pytorch_ms"] for case in cases], 3),
            "dense_ms": spread([case["dense_ms"] for case in cases], 3),
            "pruned_ms": spread([case["pruned_ms"] for case in cases], 3),
            "time_share": spread([case["pruned_ms"] / case["dense_ms"] for case in cases], 3),
            "time_over_pytorch": spread([case["pruned_ms"] / case["pytorch_ms"] for case in cases], 3),
            "controller_over_pytorch": spread([case["controller_ms"] / case["pytorch_ms"] for case in cases], 4),
            "controller_over_dense": spread([case["controller_ms"] / case["dense_ms"] for case in cases], 4),
            "foreign_cores": spread([case["foreign_cores"] for case in cases], 2),
            "peak_mib": memory,
        }
        if counted > 0.01:
            ratios = [(1 - case["pruned_ms"] / case["dense_ms"]) / counted for case in cases]
            row["saved_over_counted"] = spread(ratios, 3)
            ratios = [(1 - case["pruned_ms"] / case["pytorch_ms"]) / counted for case in cases]
            row["saved_over_counted_pytorch"] = spread(ratios, 3)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["vgg16_bn", "resnet20"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 256])
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="processes for each network and batch size")
    parser.add_argument("--rounds", type=int, default=5, help="turns in a process")
    parser.add_argument("--runs", type=int, default=64, help="images in a turn, at least one forward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="runtime", help="of the file of results")
    parser.add_argument("--form", choices=["times", "pytorch", "pruned"])
    parser.add_argument("--network")
    parser.add_argument("--batch", type=int)
    options = parser.parse_args()
    if options.form:
        (run_times if options.form == "times" else run_memory)(options)
        return
    cases = [(name, batch) for name in options.networks for batch in options.batches]
    taken: dict[tuple[str, int], list[list[dict[str, Any]]]] = {case: [] for case in cases}
    for _ in range(options.repeats):
        for name, batch in cases:
            taken[name, batch].append(_worker("times", name, batch, options))
    rows = []
    for name, batch in cases:
        memory = {form: round(_worker(form, name, batch, options)["peak_mib"]) for form in ("pytorch", "pruned")}
        rows += rows_of(name, batch, taken[name, batch], memory)
    write(options.name, rows, vars(options))


def _worker(form: str, name: str, batch: int, options: argparse.Namespace) -> Any:
    same = ("groups", "rounds", "runs", "threads", "seed")
    numbers = [part for key in same for part in (f"--{key}", getattr(options, key))]
    arguments = ["--form", form, "--network", name, "--batch", batch, *numbers]
    return worker("benchmarks.runtime", *arguments, threads=options.threads)


if __name__ == "__main__":
    main()
