"""Accuracy against mean multiply-accumulates: networks that decide at run time beside static ones, on real data.

Every part starts from the same trained network and is given the same number of retraining steps with the same settings,
distillation from that network included. A step of the runtime-pruned network goes over its batch at several shares, as
it serves all of them; a static network is retrained for one share alone.

- ``dqn``, ``recurrent_ppo``: one network with its knob set to each of ``--shares``. Beside it, at the mean
  multiply-accumulates that it really takes: random actions, a confidence threshold and constant actions on the same
  weights, and for the first seed the oracle on ``--oracle`` images.
- ``static``: for each share a search of its own (TPE, ``--trials`` plans without retraining, statistics of norms
  estimated anew); its best plan and the uniform one are then retrained alike.

One part is one kind with one seed and leaves a row in its folder, and beside it the network, which is judged again
where its row is missing, or of static plans those of each share. Run parts side by side with ``--only`` and
``--seeds``, and again with all to gather the rows in ``results/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoprune import Objective, ObjectiveSettings, Plan
from autoprune.artifacts import NetworkSpec, load
from autoprune.data import DataSplits
from autoprune.envs.runtime_task import open_runtime_task
from autoprune.files import write_text
from autoprune.finetune import FinetuneSettings
from autoprune.opening import open_base
from autoprune.runtime import Chain, RuntimePrunedNetwork
from autoprune.search import search
from autoprune.search.runtime import (
    Confidence,
    RuntimeSettings,
    Store,
    judge,
    oracle,
    random_actions,
    train_runtime,
    uniform,
)
from autoprune.search.runtime.explaining import correlation_of, dense, sweep
from autoprune.search.runtime.judging import Policy
from autoprune.settings import RuntimeTrainSettings, SearchSettings
from autoprune.space import SearchSpace
from benchmarks.common import write

KINDS = ("dqn", "recurrent_ppo", "static")
MATCHED = 250  # validation images on which the confidence threshold is set


class Bench:
    """One network and everything that is done with it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.steps = options.prepare_steps + options.rounds * options.finetune_steps

    def row(self, kind: str, seed: int) -> dict[str, Any]:
        """The row of one part, made now or earlier."""
        folder = self.options.out / f"{self.options.name}-{kind}-{seed}"
        kept = folder / "row.json"
        if not kept.exists():
            start = time.perf_counter()
            made = self._static(seed, folder) if kind == "static" else self._runtime(kind, seed, folder)
            spent = round(time.perf_counter() - start, 1)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(kept, json.dumps({"kind": kind, "seed": seed, **made, "seconds": spent}))
        found: dict[str, Any] = json.loads(kept.read_text())
        if kind != "static" and self.options.oracle and seed == self.options.seeds[0]:
            best = self._oracle(folder, [share for share, _ in found["points"]["runtime"]])
            found["points"]["oracle"], found["oracle"] = best["points"], best["found"]
        return found

    def _oracle(self, folder: Path, shares: list[float]) -> dict[str, Any]:
        """What could be reached at best with the weights in ``folder``, found now or earlier."""
        kept, images = folder / "oracle.json", self.options.oracle
        if not kept.exists():
            network, data = load(folder), open_base(self._network()).data
            assert isinstance(network, RuntimePrunedNetwork)
            best = oracle(network.chain, data.test.subset(slice(0, images)))
            made = {"share": best.share, "accuracy": best.accuracy, "images": images, "exact": best.exact}
            points = [[share, best.at(min(share, 1.0))] for share in shares]
            write_text(kept, json.dumps({"points": points, "found": made}))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def _network(self) -> SearchSettings:
        return SearchSettings.make({"base": self.options.base, "budget": ("macs=0.5",), "device": self.options.device})

    def _runtime(self, agent: str, seed: int, folder: Path) -> dict[str, Any]:
        o = self.options
        if not (folder / "model.json").exists():
            self._train(agent, seed, folder)
        network, data = load(folder), open_base(self._network()).data
        assert isinstance(network, RuntimePrunedNetwork)
        chain: Any = network.chain.to(data.test.device)
        whole, found = dense(network, data.test), sweep(network, data.test, o.shares)
        points: dict[str, list[list[float]]] = {"runtime": []}
        probes = Confidence.fit(chain, data.calibration, data.num_classes, seed=seed)
        few = data.test.subset(slice(0, o.others))
        for _, knob, judged in found:
            points["runtime"].append([judged.share, judged.accuracy])
            for name, policy in self._others(chain, data, probes, judged.share, seed).items():
                norms = None if name == "confidence" else chain.norms.at(knob)  # its probes know the common ones
                other = judge(chain, few, policy, norms=norms)
                points.setdefault(f"{name}, same weights", []).append([other.share, other.accuracy])
        made: dict[str, Any] = {"dense": whole.accuracy, "shares": [s for s, _, _ in found], "points": points}
        made["controller_share"] = [float(j.controller_macs.double().mean()) / j.dense_macs for _, _, j in found]
        made["correlation"] = [correlation_of(j, whole.losses, seed) for _, _, j in found]
        return made

    def _train(self, agent: str, seed: int, folder: Path) -> None:
        """The network of a part, into its folder."""
        o = self.options
        settings = RuntimeTrainSettings.make(
            {
                "base": o.base,
                "device": o.device,
                "agent": agent,
                "penalty": o.penalty,
                "rounds": o.rounds,
                "episodes": o.episodes,
                "groups": o.groups,
                "first": o.first,
                "prepare_steps": o.prepare_steps,
                "finetune_steps": o.finetune_steps,
                "finetune_lr": o.lr,
                "seed": seed,
                **o.set,
                **o.agents.get(agent, {}),
            }
        )
        task, opened = open_runtime_task(settings)
        engine = RuntimeSettings(**{name: getattr(settings, name) for name in RuntimeSettings.__dataclass_fields__})
        store = Store(NetworkSpec(opened.spec.factory, opened.spec.options), opened.described())

        def show(line: dict[str, Any], total: int) -> None:
            print(json.dumps(line), total, flush=True)

        train_runtime(task, engine, folder=folder, store=store, progress=show)

    def _others(self, chain: Chain, data: DataSplits, probes: Confidence, share: float, seed: int) -> dict[str, Policy]:
        """What else can be done with the same weights at a mean of ``share``."""
        few = data.validation.subset(slice(0, MATCHED))
        return {
            "random": random_actions(chain, share, len(data.test), seed=seed),
            "confidence": probes.matched(few, share),
            "uniform": uniform(chain, share),
        }

    def _static(self, seed: int, folder: Path) -> dict[str, Any]:
        opened = open_base(self._network())
        objective = Objective(opened.module(), opened.data, settings=ObjectiveSettings(finetune=self._alike, seed=seed))
        dense = objective.confirm(Plan(steps=0), "test").accuracy
        points: dict[str, list[list[float]]] = {}
        for share in self.options.shares:
            kept = folder / f"share-{share:g}.json"
            if not kept.exists():
                found = self._static_at(objective, share, seed)
                folder.mkdir(parents=True, exist_ok=True)
                write_text(kept, json.dumps(found))
            for name, point in json.loads(kept.read_text()).items():
                points.setdefault(name, []).append(point)
        return {"dense": dense, "shares": list(self.options.shares), "points": points}

    def _static_at(self, objective: Objective, share: float, seed: int) -> dict[str, list[float]]:
        """(share of the multiply-accumulates, accuracy on the test split) of static plans, retrained alike."""
        space = SearchSpace.from_graph(objective.graph, max_sparsity=0.9)
        common: dict[str, Any] = {"budget": f"macs={share}", "space": space, "seed": seed, "confirm": False}
        result = search(objective, controller="tpe", trials=self.options.trials, **common)
        best = max((t for t in result.trials if t.usable), key=lambda t: t.accuracy or 0.0)
        found = {}
        for name, trial in (("static uniform", result.baselines["uniform"]), ("static, best of TPE", best)):
            assert trial.plan is not None
            built = objective.build(replace(trial.plan, steps=self.steps))
            macs = objective.cost(trial.plan).macs / objective.dense_cost.macs
            found[name] = [macs, objective.confirm(built, "test").accuracy]
            print(share, name, found[name], flush=True)
        return found

    @property
    def _alike(self) -> FinetuneSettings:
        """How static plans are retrained: as the backbone of a runtime-pruned network is."""
        taught = RuntimeSettings()
        return FinetuneSettings(
            batch_size=128,
            lr=self.options.lr,
            weight_decay=5e-4,
            distill_weight=taught.distill_weight,
            distill_temperature=taught.distill_temperature,
        )


def gathered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each line of the table: mean and spread over seeds at each share."""
    lines: dict[tuple[str, str], list[dict[float, list[float]]]] = {}
    for row in rows:
        for name, points in row["points"].items():
            lines.setdefault((row["kind"], name), []).append(dict(zip(row["shares"], points, strict=True)))
    found = []
    for (kind, name), runs in lines.items():
        shares = [share for share in runs[0] if all(share in run for run in runs)]
        at = {share: list(zip(*(run[share] for run in runs), strict=True)) for share in shares}
        line = {"kind": kind, "line": name, "seeds": len(runs), "shares": shares}
        line |= {"macs": [_summary(at[s][0]) for s in shares], "accuracy": [_summary(at[s][1]) for s in shares]}
        found.append(line)
    return found


def _summary(values: tuple[float, ...]) -> dict[str, Any]:
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 4), "std": std, "runs": [round(v, 4) for v in values]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a trained network")
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=7680, help="in a round")
    parser.add_argument("--prepare-steps", type=int, default=400, help="before the first round")
    parser.add_argument("--finetune-steps", type=int, default=340, help="a round; static plans get all at once")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--first", action="store_true", help="decide about the first convolution too")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--penalty", type=float, default=-0.05)
    parser.add_argument("--trials", type=int, default=40, help="plans of each static search")
    parser.add_argument("--oracle", type=int, default=1000, help="images that the oracle is sought for; 0 for none")
    parser.add_argument("--others", type=int, default=1000, help="test images for other policies on the same weights")
    parser.add_argument("--agents", type=json.loads, default={}, help="further settings by agent, as JSON")
    parser.add_argument("--set", type=json.loads, default={}, help="further settings of the runtime parts, as JSON")
    parser.add_argument("--note", default="", help="kept beside the rows: where parts were run, say")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    rows = [bench.row(kind, seed) for kind in options.only for seed in options.seeds]
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "base", "only")}
    write(f"runtime-accuracy-{options.name}", [*gathered(rows), *rows], settings)


if __name__ == "__main__":
    main()
