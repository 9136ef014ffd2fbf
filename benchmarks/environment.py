"""The layer-by-layer environment before anything is judged: how soon it is ready, and what a step costs.

``ready`` starts Python anew, imports gymnasium and autoprune.envs, makes the environment and resets it. ``step`` takes
random actions on ResNet-56 (30 groups) at half of the multiply-accumulates with a judge that only looks away, so that
what is left is the environment itself: reading the action, clipping it, counting costs, the observation, the info.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.common import seconds, spread, write

READY = """
import gymnasium
import autoprune.envs
env = gymnasium.make("autoprune/Layerwise-v0", task={task!r})
env.reset(seed=0)
"""


def ready(task: str, repeats: int) -> dict[str, Any]:
    """Seconds from the start of Python to the first observation, and what of them the processor worked."""
    times, worked, loads = [], [], []
    for _ in range(repeats):
        command = [sys.executable, "-c", READY.format(task=task)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall, load = seconds(lambda command=command: subprocess.run(command, check=True))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(wall)
        worked.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        loads.append(load)
    return {"task": task, "ready_s": spread(times, 2), "cpu_s": spread(worked, 2), "foreign_cores": spread(loads, 2)}


def _look_away(plan: Any) -> None:
    """Refuse every plan: nothing is judged."""
    del plan


def steps(actions: str, clip: bool, episodes: int) -> dict[str, Any]:
    """Milliseconds of a step."""
    from autoprune import build_model, trace
    from autoprune.costs import Budget, CostModel
    from autoprune.envs import BudgetClip, LayerwiseEnv, Task
    from autoprune.fitting import Target
    from autoprune.space import SearchSpace

    model = build_model("resnet56").eval()
    graph = trace(model, torch.randn(1, 3, 32, 32), prove=False)
    costs = CostModel(model, graph)
    objective: Any = SimpleNamespace(
        graph=graph,
        costs=costs,
        dense_cost=costs.cost(),
        dense=SimpleNamespace(accuracy=0.9),
        cost=lambda plan: costs.cost({d.layer: graph.groups[d.layer].removed(d.sparsity) for d in plan.decisions}),
    )
    space = SearchSpace.from_graph(graph, methods=("l1_norm", "l2_norm"))
    task = Task(objective, space, Target(objective, Budget(macs=0.5)))
    env: Any = LayerwiseEnv(task, actions=actions, judge=_look_away)
    env = BudgetClip(env) if clip else env
    env.action_space.seed(0)
    times: list[float] = []

    def run() -> None:
        for _ in range(episodes):
            env.reset()
            for action in [env.action_space.sample() for _ in range(len(task))]:
                start = time.perf_counter()
                env.step(action)
                times.append(1e3 * (time.perf_counter() - start))

    run()
    times.clear()
    _, load = seconds(run)
    cut = np.sort(np.array(times).reshape(episodes, -1).mean(1))
    return {
        "network": "resnet56",
        "groups": len(task),
        "actions": actions,
        "clip": clip,
        "step_ms": spread(cut.tolist(), 3),
        "foreign_cores": round(load, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {**vars(options), "threads": 1}
    rows = [ready(task, options.repeats) for task in ("known_answer", "digits")]
    rows += [steps(actions, clip, options.episodes) for actions in ("sparsity", "discrete") for clip in (False, True)]
    write("environment", rows, settings)


if __name__ == "__main__":
    main()
