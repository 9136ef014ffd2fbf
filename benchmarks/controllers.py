"""Controllers side by side: how near each comes to a known answer, or what it finds on a network; time to decide.

With ``--network`` the base is trained on digits first (seconds). Otherwise problems with a known answer are searched,
and the figure is the gap to the best accuracy there can be. ``own`` leaves the baselines out, which every search starts
with. Each setting is run with several seeds; proposals shifted onto the budget stand beside proposals that are refused.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

from autoprune import Budget, Objective, build_model, load_data
from autoprune.finetune import FinetuneSettings, finetune
from autoprune.models import default_options
from autoprune.problems import KnownAnswer
from autoprune.search import SearchResult, search
from autoprune.seeding import seeded
from benchmarks.common import spread, write

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": ("tpe", {}),
    "tpe, no steps": ("tpe", {"near": 0}),
    "tpe, no steps, not joint": ("tpe", {"near": 0, "joint": False}),
    "cmaes": ("cmaes", {}),
    "nsga2": ("nsga2", {}),
    "gp": ("gp", {}),
    "random": ("random", {}),
}


def trained(name: str) -> Objective:
    """An objective on digits."""
    data = load_data("digits")
    options = default_options(name, data) | ({"width": 0.5} if name.startswith("resnet") else {})
    with seeded(0, "model"):
        network = build_model(name, **options)
    finetune(network, data.train, FinetuneSettings(steps=300, lr=0.05, batch_size=64), seed=0)
    return Objective(network, data)


def row(label: str, handling: str, results: list[tuple[SearchResult, float, float]], trials: int) -> dict[str, Any]:
    """One line: accuracies, or gaps where the best is known."""
    best, own = [], []
    for result, bound, _ in results:
        mine = [t.accuracy for t in result.trials if t.usable and not t.baseline and t.accuracy is not None]
        found = 0.0 if result.best is None or result.best.accuracy is None else result.best.accuracy
        best.append(bound - found if bound else found)
        own.append(bound - max(mine, default=0.0) if bound else max(mine, default=0.0))
    spent = [1000 * wall / trials for *_, wall in results]
    return {
        "controller": label,
        "handling": handling,
        "figure": "gap" if results[0][1] else "accuracy",
        "best": spread(best),
        "own": spread(own),
        "ms_a_trial": spread(spent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", help="a network for digits; without one, problems with a known answer")
    parser.add_argument("--groups", type=int, default=20, help="of the problems")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), help="controllers")
    options = parser.parse_args()
    objective = trained(options.network) if options.network else None
    rows = []
    for label, handling in itertools.product(options.only, ("project", "reject")):
        name, given = SETTINGS[label]
        results = []
        for seed in range(options.seeds):
            problem = objective or KnownAnswer(options.groups, seed=seed)
            bound = 0.0 if objective else problem.bound(Budget.parse(options.budget))
            common = {"budget": options.budget, "seed": seed, "confirm": False, "handling": handling}
            search(problem, controller="uniform", trials=0, **common)  # what all share is not the controller's time
            start = time.perf_counter()
            found = search(problem, controller=name, trials=options.trials, options=given, **common)
            results.append((found, bound, time.perf_counter() - start))
        rows.append(row(label, handling, results, options.trials))
        print(rows[-1], flush=True)
    first = results[0][0]
    rows += [{"controller": r.name, "best": r.accuracy} for r in first.rows[:4]] if objective else []
    where = options.network or f"known-{options.groups}"
    write(f"controllers-{where}", rows, {k: v for k, v in vars(options).items() if k != "only"})


if __name__ == "__main__":
    main()
