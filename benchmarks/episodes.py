"""Episodes of the layer-by-layer environment: seconds and their shares, set-up, memory; many together against one.

MobileNetV1 (stem of stride 1, trained for a moment) on CIFAR-10: the budget holds half of the multiply-accumulates,
counts that stay are multiples of 8, at least a fifth of each group stays, every layer is repaired from moments of
3,000 images, and the plan is judged on 5,000 images. ``random`` draws actions; ``ddpg`` takes those of an actor that
learns after each episode (its updates count). ``+ recalibration`` also estimates batch-norm statistics anew, a pass
over the 3,000 images more. Each run is a fresh process; the runs take turns. An episode while which something else
kept the machine busy is left out and counted in ``disturbed``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
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

DISTURBED = 0.1  # cores that others keep busy, from which on a time is left out
KINDS = ("random", "ddpg", "random + recalibration")
TOGETHER, ALONE = "together", "alone"


class Clock(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the time of every step: what is decided, and what the last one is judged in."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.parts: dict[str, float] = {}
        self._deciding = 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step of the environment; the last one leaves seconds in ``parts``."""
        base: Any = self.unwrapped
        start = time.perf_counter()
        found = self.env.step(action)
        self._deciding += time.perf_counter() - start
        if found[2]:
            judged = base.outcome.seconds
            step = (self._deciding - judged["total"]) / len(base.task)
            self.parts = {
                "step": step,
                **{part: judged.get(part, 0.0) for part in ("evaluate", "prune", "recalibrate")},
            }
            self._deciding = 0.0
        return found


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


def opened(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The task, and what it took to set it up."""
    data = load_data("cifar10", calibration=options.calibration)
    data = replace(data, validation=data.validation.subset(torch.arange(options.images)))
    model, made = network(options.network, options.checkpoint), []
    before = memory("VmRSS")

    def open_task() -> None:
        settings = ObjectiveSettings(precision=options.precision, recalibrate="recalibration" in options.run)
        objective = Objective(model, data, settings=settings)
        limits = {"budget": "macs=0.5", "max_sparsity": 0.8, "round_to": 8}
        made.append(make_task(objective=objective, reconstruction="mauch_yang", **limits))

    wall, load = seconds(open_task)
    precision = made[0].objective.precision.name
    return made[0], {"setup": {"wall": wall, "load": load}, "before_mib": before, "precision": precision}


def episodes(options: argparse.Namespace) -> dict[str, Any]:
    """One environment: episodes one after the other."""
    task, facts = opened(options)
    env = Clock(BudgetClip(gymnasium.make("autoprune/Layerwise-v0", task=task)))
    env.reset(seed=options.seed)
    env.action_space.seed(options.seed)
    one = _learning(env) if options.run == "ddpg" else partial(_drawn, env)
    one()
    found = []
    for _ in range(options.episodes):
        wall, load = seconds(one)
        found.append({"wall": wall, "load": load, **env.parts})
    return {**facts, "episodes": found, "peak_mib": memory("VmHWM")}


def _drawn(env: Clock) -> None:
    env.reset()
    done = False
    while not done:
        done = env.step(env.action_space.sample())[2]


def _learning(env: Clock) -> Callable[[], object]:
    from autoprune.search.rl.agents import build
    from autoprune.search.rl.settings import DDPGSettings

    steps = len(env.get_wrapper_attr("task"))
    model = build("ddpg", DDPGSettings(warmup=1), env, steps, 0)
    return lambda: model.learn(steps, reset_num_timesteps=False)


def rate(options: argparse.Namespace) -> dict[str, Any]:
    """Episodes a second: ``together`` as many as a vector environment holds, or ``alone`` one after the other."""
    task, facts = opened(options)
    number = options.number if options.run == TOGETHER else 1
    envs = BudgetClipVector(LayerwiseVectorEnv(number, task=task, autoreset_mode="SameStep"))
    envs.reset(seed=options.seed)
    draw = np.random.default_rng(options.seed)
    steps: list[float] = []

    def several() -> None:
        for left in reversed(range(len(task))):
            start = time.perf_counter()
            envs.step(draw.uniform(-1, 1, (number, 1)).astype(np.float32))
            if left:
                steps.append((time.perf_counter() - start) / number)

    several()
    found = []
    for _ in range(options.episodes // number):
        steps.clear()
        wall, load = seconds(several)
        found.append({"wall": wall / number, "load": load, "step": sum(steps) / len(steps)})
    return {**facts, "episodes": found, "peak_mib": memory("VmHWM")}


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
    alone = [_median(turn[ALONE]) for turn in turns]
    return [_row(kind, [turn[kind] for turn in turns], alone) for kind in turns[0]]


def _row(kind: str, runs: list[dict[str, Any]], alone: list[float]) -> dict[str, Any]:
    every = [episode for run in runs for episode in run["episodes"]]
    clean = _clean(every)
    row: dict[str, Any] = {"episodes": kind, "episode_s": spread([e["wall"] for e in clean], 3)}
    if kind in KINDS:
        parts = {"validation_s": "evaluate", "repair_s": "prune", "recalibration_s": "recalibrate"}
        row |= {name: spread([e[part] for e in clean], 3) for name, part in parts.items()}
        row["validation_share"] = spread([e["evaluate"] / e["wall"] for e in clean], 3)
    else:
        row["rate_over_alone"] = spread([b / _median(run) for run, b in zip(runs, alone, strict=True)], 2)
    return row | {
        "step_ms": spread([1000 * e["step"] for e in clean], 3),
        "setup_s": spread([s["wall"] for s in _clean([run["setup"] for run in runs])], 2),
        "before_mib": spread([run["before_mib"] for run in runs], 0),
        "peak_mib": spread([run["peak_mib"] for run in runs], 0),
        "precision": runs[0]["precision"],
        "disturbed": sum(e["load"] > DISTURBED for e in every),
        "foreign_cores": spread([e["load"] for e in clean], 2),
    }


def _clean(timed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that had the machine to themselves; all, where none had."""
    return [t for t in timed if t["load"] <= DISTURBED] or timed


def _median(run: dict[str, Any]) -> float:
    return median(episode["wall"] for episode in _clean(run["episodes"]))


if __name__ == "__main__":
    main()
