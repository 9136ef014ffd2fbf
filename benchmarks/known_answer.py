"""Episodes that each controller needs to come near a known answer: learners and Optuna's samplers in one table.

The problems (``autoprune.problems.KnownAnswer``) have a bound that no plan within the budget exceeds; a controller is
there once one of its own plans (baselines do not count) is within ``--gap`` of it. ``one`` has one method for every
group; in ``two`` each group has a right one of two, which the baselines do not know. Samplers are shown the baselines,
as in every search; learners are not. Each figure is over several problems and seeds; one that was never reached counts
as more than all episodes.

With ``--out`` each row is kept there once it is there, so that parts may run side by side with ``--only`` and
``--problems``, and again with all of them to gather the rows in ``results/``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune import Budget
from autoprune.files import write_text
from autoprune.problems import KnownAnswer
from autoprune.search import SearchResult, search
from autoprune.search.rl import AGENTS
from autoprune.space import SearchSpace
from benchmarks.common import spread, write

BUDGET = "macs=0.5"
CONTROLLERS = (*AGENTS, "tpe", "cmaes", "gp", "nsga2", "random")
METHODS = {"one": ("l1_norm",), "two": ("l1_norm", "l2_norm")}
SLOW = {"gp": 60}  # trials of controllers that take seconds to decide


def gaps(result: SearchResult, bound: float) -> list[float]:
    """Distance to the bound of the best own plan after each own trial."""
    found, best = [], math.inf
    for trial in result.trials:
        if trial.baseline:
            continue
        if trial.usable and trial.accuracy is not None:
            best = min(best, bound - trial.accuracy)
        found.append(best)
    return found


def needed(found: Sequence[float], gap: float) -> float:
    """Trials until the distance is ``gap`` at most; infinite where it never is."""
    return next((float(place) for place, value in enumerate(found, start=1) if value <= gap), math.inf)


def kept(name: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row, made now or earlier."""
    path = None if options.out is None else options.out / f"known-answer-{kind}-{name}.json"
    if path is not None and path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    made = row(name, kind, options)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(made))
    return made


def row(name: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One line: episodes needed, and how near it came."""
    trials = min(options.trials, SLOW.get(name, options.trials))
    curves, baselines, spent = [], [], []
    for seed in range(options.seeds):
        problem = KnownAnswer(options.groups, seed=seed, methods=METHODS[kind])
        space = SearchSpace.from_graph(problem.graph, methods=problem.methods)
        common: dict[str, Any] = {"budget": BUDGET, "space": space, "seed": seed, "confirm": False}
        search(problem, controller="uniform", trials=0, **common)  # what all share is not the controller's time
        start = time.perf_counter()
        result = search(problem, controller=name, trials=trials, **common)
        spent.append(1000 * (time.perf_counter() - start) / trials)
        bound = problem.bound(Budget.parse(BUDGET))
        curves.append(gaps(result, bound))
        baselines.append(bound - max(t.accuracy or 0.0 for t in result.baselines.values()))
    counts = [needed(curve, options.gap) for curve in curves]
    median = statistics.median(counts)
    return {
        "problem": kind,
        "controller": name,
        "learner": name in AGENTS,
        "median_needed": int(median) if math.isfinite(median) else None,
        "needed": [int(count) if math.isfinite(count) else None for count in counts],
        "trials": trials,
        "gap_at": {str(at): spread([c[at - 1] for c in curves]) for at in (50, 100, 200) if at <= trials},
        "gap_of_baselines": spread(baselines),
        "ms_a_trial": spread(spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=6, help="of the problems, that is steps of an episode")
    parser.add_argument("--gap", type=float, default=0.02, help="to the known bound, in accuracy")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CONTROLLERS), help="controllers")
    parser.add_argument("--problems", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, help="folder in which rows are kept")
    options = parser.parse_args()
    rows = []
    for kind in options.problems:
        for name in options.only:
            rows.append(kept(name, kind, options))
            print(rows[-1], flush=True)
    write("known-answer", rows, {k: v for k, v in vars(options).items() if k not in ("only", "problems", "out")})


if __name__ == "__main__":
    main()
