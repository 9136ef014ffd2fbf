"""Episodes of the layer-by-layer environment: seconds and their shares, set-up, memory; many together against one.

MobileNetV1 (stem of stride 1, trained for a moment) on CIFAR-10: the budget holds half of the multiply-accumulates,
counts that stay are multiples of 8, at least a fifth of each group stays, every layer is repaired from moments of
3,000 images, and the plan is judged on 5,000 images. ``random`` draws actions; ``ddpg`` takes those of an actor that
learns after each episode (its updates count). ``+ recalibration`` also estimates batch-norm statistics anew, a pass
over the 3,000 images more. Each run is a fresh process; the runs take turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from autoprune import Objective, ObjectiveSettings, build_model, load_data
from autoprune.artifacts import NetworkSpec, save_network
from autoprune.envs import BudgetClip, BudgetClipVector, LayerwiseVectorEnv, make_task
from autoprune.finetune import FinetuneSettings, finetune
from autoprune.seeding import seeded
from benchmarks.common import network, seconds, spread, worker, write

KINDS = ("random", "ddpg", "random + recalibration")
TOGETHER, ALONE = "together", "alone"


class Clock(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the time of every step, and at the end of an episode of its parts."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[dict[str, float]] = []
        self._deciding, self._ended = 0.0, time.perf_counter()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step of the environment."""
        base: Any = self.unwrapped
        start = time.perf_counter()
        found = self.env.step(action)
        now = time.perf_counter()
        if not found[2]:
            self._deciding += now - start
            return found
        judged = base.outcome.seconds
        self._deciding += now - start - judged["total"]
        parts = {part: judged.get(part, 0.0) for part in ("evaluate", "prune", "recalibrate", "total")}
        whole = now - self._ended
        self.episodes.append({"whole": whole, "deciding": self._deciding / len(base.task), **parts})
        self._deciding, self._ended = 0.0, now
        return found

    def start(self) -> None:
        """An episode begins now."""
        self._ended = time.perf_counter()


def memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, or ``VmHWM`` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status")


def train(options: argparse.Namespace) -> None:
    """Store a network that was trained for a moment, so that its activations are those of a network that works."""
    data = load_data("cifar10")
    shape: dict[str, Any] = {"input_shape": (3, 32, 32), "num_classes": 10}
    with seeded(0, "model"):
        model = build_model(options.network, **shape)
    finetune(model, data.train, FinetuneSettings(steps=60, batch_size=128, lr=0.05), seed=0, augment=data.augment)
    save_network(options.checkpoint, model, NetworkSpec(options.network, shape), data={}, metrics={})
    print("{}")


def opened(options: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    """The task, and what it took to set it up."""
    data = load_data("cifar10", calibration=options.calibration)
    data = replace(data, validation=data.validation.subset(torch.arange(options.images)))
    model = network(options.network, options.checkpoint)
    before, start = memory("VmRSS"), time.perf_counter()
    settings = ObjectiveSettings(precision=options.precision, recalibrate="recalibration" in options.run)
    objective = Objective(model, data, settings=settings)
    task = make_task(objective=objective, budget="macs=0.5", max_sparsity=0.8, round_to=8, reconstruction="mauch_yang")
    facts = {"setup_s": time.perf_counter() - start, "before_mib": before, "precision": objective.precision.name}
    return task, facts


def episodes(options: argparse.Namespace) -> dict[str, Any]:
    """One environment: episodes one after the other."""
    task, facts = opened(options)
    env = Clock(BudgetClip(gymnasium.make("autoprune/Layerwise-v0", task=task)))
    env.reset(seed=options.seed)
    env.action_space.seed(options.seed)
    run = _learn if options.run == "ddpg" else _draw
    wall, load = seconds(lambda: run(env, options.episodes))
    del wall
    return {**facts, "episodes": env.episodes, "load": load, "peak_mib": memory("VmHWM")}


def _draw(env: Clock, count: int) -> None:
    env.start()
    for _ in range(count):
        env.reset()
        done = False
        while not done:
            done = env.step(env.action_space.sample())[2]


def _learn(env: Clock, count: int) -> None:
    from autoprune.search.rl.agents import build
    from autoprune.search.rl.settings import DDPGSettings

    steps = len(env.get_wrapper_attr("task"))
    model = build("ddpg", DDPGSettings(warmup=1), env, steps, 0)
    model.learn(steps)  # warm-up
    env.episodes.clear()
    env.start()
    model.learn(count * steps, reset_num_timesteps=False)


def rate(options: argparse.Namespace) -> dict[str, Any]:
    """Episodes a second: ``together`` as many as a vector environment holds, or ``alone`` one after the other."""
    task, facts = opened(options)
    number = options.number if options.run == TOGETHER else 1
    envs = BudgetClipVector(LayerwiseVectorEnv(number, task=task, autoreset_mode="SameStep"))
    envs.reset(seed=options.seed)
    draw = np.random.default_rng(options.seed)
    deciding: list[float] = []

    def episode() -> None:
        for _ in range(len(task)):
            start = time.perf_counter()
            *_, infos = envs.step(draw.uniform(-1, 1, (number, 1)).astype(np.float32))
            if "final_info" not in infos:
                deciding.append((time.perf_counter() - start) / number)

    episode()
    deciding.clear()
    times = options.episodes // number
    wall, load = seconds(lambda: [episode() for _ in range(times)])
    found = {"rate": times * number / wall, "deciding": deciding, "load": load, "peak_mib": memory("VmHWM")}
    return {**facts, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="mobilenet_v1")
    parser.add_argument("--checkpoint", help="a trained network; by default one is trained for 60 steps")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=3000)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--number", type=int, default=8, help="episodes together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=[*KINDS, TOGETHER, ALONE, "train"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        torch.set_num_threads(options.threads)
        if options.run == "train":
            train(options)
        else:
            print(json.dumps((rate if options.run in (TOGETHER, ALONE) else episodes)(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(options, options.checkpoint or folder)
    write(f"episodes-{options.network}", rows, {k: v for k, v in vars(options).items() if k != "run"})


def _rows(options: argparse.Namespace, checkpoint: str) -> list[dict[str, Any]]:
    def run(kind: str, repeat: int) -> Any:
        given = vars(options) | {"run": kind, "checkpoint": checkpoint, "seed": options.seed + repeat}
        told = [part for name, value in given.items() for part in (f"--{name}", value)]
        return worker("benchmarks.episodes", *told, threads=options.threads)

    if not options.checkpoint:
        run("train", 0)
    turns = [{kind: run(kind, repeat) for kind in (*KINDS, TOGETHER, ALONE)} for repeat in range(options.repeats)]
    rows = [_row(kind, [turn[kind] for turn in turns]) for kind in KINDS]
    rates = {kind: [turn[kind] for turn in turns] for kind in (TOGETHER, ALONE)}
    return [*rows, *(_rate_row(kind, rates) for kind in rates)]


def _row(kind: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    every = [episode for run in runs for episode in run["episodes"]]
    return {
        "actions": kind,
        "episode_s": spread([e["whole"] for e in every], 3),
        "validation_s": spread([e["evaluate"] for e in every], 3),
        "validation_share": spread([e["evaluate"] / e["whole"] for e in every], 3),
        "repair_s": spread([e["prune"] for e in every], 3),
        "recalibration_s": spread([e["recalibrate"] for e in every], 3),
        "step_ms": spread([1000 * e["deciding"] for e in every], 3),
        **_facts(runs),
    }


def _rate_row(kind: str, rates: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    runs, others = rates[kind], rates[ALONE]
    return {
        "actions": f"random, {kind}",
        "episodes_per_s": spread([run["rate"] for run in runs], 3),
        "over_alone": spread([a["rate"] / b["rate"] for a, b in zip(runs, others, strict=True)], 2),
        "step_ms": spread([1000 * s for run in runs for s in run["deciding"]], 3),
        **_facts(runs),
    }


def _facts(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "setup_s": spread([run["setup_s"] for run in runs], 2),
        "before_mib": spread([run["before_mib"] for run in runs], 0),
        "peak_mib": spread([run["peak_mib"] for run in runs], 0),
        "precision": runs[0]["precision"],
        "foreign_cores": spread([run["load"] for run in runs], 2),
    }


if __name__ == "__main__":
    main()
