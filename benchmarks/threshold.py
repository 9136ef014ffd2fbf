"""The threshold predictor: regret against brute force, its overhead, and what it finds on a network with few trials.

- ``regret``: layers with known drop curves (:mod:`autoprune.drop_curves`), few enough for brute force. The regret is
  the accuracy between the best point of the space and a controller's best own trial (baselines aside), over seeds. ``no
  curves`` leaves out what the greedy baseline knows of each layer alone.
- ``overhead``: seconds of features, refit and choice with the trials there are, and of a refit on 1,000 trials; with
  ``--base`` also the share of a search's time on that network.
- ``network``: ``autoprune search`` once for each controller and seed on a given base; a killed run goes on where it
  was, and rows are made of what the studies hold. ``warm`` starts from ``--predictor``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.costs import Budget
from autoprune.drop_curves import DropCurves
from autoprune.search import CONTROLLERS, search
from autoprune.search.records import TrialRecord
from autoprune.search.studies import open_study
from autoprune.space import SearchSpace
from benchmarks.common import seconds, spread, write

BUDGET = "macs=0.5"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "threshold_mlp": ("threshold_mlp", {"patience": 0}),
    "threshold_mlp, no curves": ("threshold_mlp", {"patience": 0, "curves": False}),
    "threshold_mlp_direct": ("threshold_mlp_direct", {}),
    "tpe": ("tpe", {}),
    "cmaes": ("cmaes", {}),
    "random": ("random", {}),
}
WARM = "threshold_mlp, warm"


def regret(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for kind in options.only or KINDS:
        name, given = KINDS[kind]
        own, every = [], []
        for seed in range(options.seeds):
            problem = DropCurves(options.groups, seed=seed)
            space = SearchSpace.from_graph(problem.graph, levels=options.levels)
            best, _ = problem.best_on_grid(space, Budget.parse(BUDGET))
            result = search(
                problem, budget=BUDGET, controller=name, trials=options.trials, space=space, seed=seed, options=given
            )
            found = [t.accuracy for t in result.trials if t.usable and not t.baseline and t.accuracy is not None]
            own.append(best - max(found, default=0.0))
            every.append(best - (result.best.accuracy if result.best and result.best.accuracy else 0.0))
        row = {"controller": kind, "regret_own": spread(own), "mean": round(statistics.mean(own), 5)}
        rows.append({**row, "regret_with_baselines": spread(every), "runs": [round(v, 5) for v in own]})
        print(rows[-1], flush=True)
    return rows


def overhead(options: argparse.Namespace) -> list[dict[str, Any]]:
    from autoprune.search.threshold.ensemble import FitSettings
    from autoprune.search.threshold.examples import Examples, example_of
    from autoprune.search.threshold.facts import facts_of
    from autoprune.search.threshold.surrogate import Surrogate

    problem = DropCurves(options.groups)
    space = SearchSpace.from_graph(problem.graph)
    facts, draw = facts_of(problem, space), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for count in options.sizes:
        plans = [space.plan(space.point({g.name: draw.random() * 0.9 for g in space.groups})) for _ in range(count)]
        records = [TrialRecord(i, "ok", plan, outcome=problem(plan)) for i, plan in enumerate(plans)]
        parts: list[Examples] = []
        features, load = seconds(
            lambda records=records, parts=parts: parts.extend(example_of(r, facts) for r in records)
        )
        examples = Examples.joined(parts)
        fits = [seconds(lambda e=examples: Surrogate.fitted(e, FitSettings(), 0)) for _ in range(options.repeats)]
        row = {"trials": count, "groups": options.groups, "features_s": round(features, 3)}
        row |= {
            "refit_s": spread([wall for wall, _ in fits], 3),
            "foreign_cores": round(max(load, *(f for _, f in fits)), 2),
        }
        rows.append(row)
        print(row, flush=True)
    rows.append(_share(problem, space, options) if options.base is None else _share_on(options))
    print(rows[-1], flush=True)
    return rows


def _timed(spent: list[float]) -> Callable[[], None]:
    """Let the controller's own time be written down; what is returned puts it back."""
    from autoprune.search.threshold.controller import ThresholdProposer

    plain = ThresholdProposer.propose

    def propose(self: Any, number: int) -> Any:
        start = time.perf_counter()
        try:
            return plain(self, number)
        finally:
            spent.append(time.perf_counter() - start)

    ThresholdProposer.propose = propose  # type: ignore[method-assign]
    return lambda: setattr(ThresholdProposer, "propose", plain)


def _share(problem: Any, space: SearchSpace, options: argparse.Namespace, **named: Any) -> dict[str, Any]:
    spent: list[float] = []
    back = _timed(spent)
    try:
        result = search(
            problem,
            budget=BUDGET,
            controller="threshold_mlp",
            trials=options.trials,
            space=space,
            options={"patience": 0},
            confirm=False,
            **named,
        )
    finally:
        back()
    walls = [t.wall_s for t in result.trials if not t.baseline]
    row = {"groups": len(space.groups), "propose_s": spread(spent, 3), "trial_s": spread(walls, 3)}
    return {**row, "share": round(sum(spent) / max(sum(walls), 1e-9), 4) if options.base else None}


def _share_on(options: argparse.Namespace) -> dict[str, Any]:
    """Time to propose against time of the trials on a network, with retraining."""
    from autoprune.opening import objective_of, open_base, use_threads
    from autoprune.settings import SearchSettings

    use_threads(options.threads)
    settings = SearchSettings.make({"base": options.base, "retrain_steps": options.steps})
    opened = open_base(settings)
    objective = objective_of(settings, opened)
    return {"network": opened.spec.factory, **_share(objective, SearchSpace.from_graph(objective.graph), options)}


def network(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for kind in options.only or [*KINDS, *([WARM] if options.predictor else []), "sac"]:
        name, given = KINDS.get(kind, (kind.partition(",")[0], {}))
        runs = [
            _searched(kind, name, {**given, **({"patience": 0} if kind == WARM else {})}, seed, options)
            for seed in options.seeds_list
        ]
        at = [n for n in (1, 2, 5, 10, 15, 20, 30, 50, 100, 200) if n <= options.trials]
        best = {str(n): [_best(run, n) for run in runs] for n in at}
        baseline = [max(t.accuracy or 0.0 for t in run if t.baseline) for run in runs]
        row = {
            "controller": kind,
            "seeds": options.seeds_list,
            "best_at": {n: _summary(values) for n, values in best.items()},
        }
        row |= {"best_baseline": _summary(baseline), "trials": [sum(not t.baseline for t in run) for run in runs]}
        rows.append(row)
        print(row, flush=True)
    return rows


def _searched(kind: str, name: str, given: dict[str, Any], seed: int, options: argparse.Namespace) -> list[TrialRecord]:
    folder = options.out / f"{options.name}-{kind.replace(', ', '-').replace(' ', '-')}-{seed}"
    command = [sys.executable, "-m", "autoprune", "search", "--base", options.base, "--out", str(folder), "--no-test"]
    command += ["--budget", options.budget, "--trials", str(options.trials), "--seed", str(seed)]
    command += ["--retrain-steps", str(options.steps), "--threads", str(options.threads), "--controller", name]
    for option, value in given.items():
        command += ["--controller-options", f"{option}={str(value).lower() if isinstance(value, bool) else value}"]
    if kind == WARM:
        command += ["--predictor", str(options.predictor)]
    if not (folder / "result.json").exists():
        subprocess.run(
            [*command, *options.more], check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        )
    return list(open_study(folder).trials)


def _best(trials: list[TrialRecord], count: int) -> float:
    """The best own accuracy after ``count`` own trials; of one that ended earlier, the last."""
    own = [t for t in trials if not t.baseline][:count]
    return max((t.accuracy for t in own if t.usable and t.accuracy is not None), default=0.0)


def _summary(values: list[float]) -> dict[str, Any]:
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 4), "std": std, "runs": [round(v, 4) for v in values]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("regret", "overhead", "network"))
    parser.add_argument("--only", nargs="+", choices=[*KINDS, WARM, *CONTROLLERS], help="controllers")
    parser.add_argument("--groups", type=int, default=4, help="of the problems")
    parser.add_argument("--levels", type=int, default=16, help="sparsities of a group that brute force tries")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10, help="of regret: so many")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100, 1000], help="trials of a refit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--base", help="folder of a trained network")
    parser.add_argument("--budget", default=BUDGET)
    parser.add_argument("--steps", type=int, default=200, help="of retraining a trial")
    parser.add_argument("--name", default="network", help="of the result file")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--seeds-list", type=int, nargs="+", default=[0, 1, 2], help="of searches on a network")
    parser.add_argument("--predictor", type=Path, help="stored predictor for the warm start")
    parser.add_argument("--threads", type=int, default=1)
    options, options.more = parser.parse_known_args()
    if options.mode == "network" and options.base is None:
        parser.error("network needs --base")
    rows = {"regret": regret, "overhead": overhead, "network": network}[options.mode](options)
    name = f"{options.mode}-{options.name}" if options.mode == "network" else options.mode
    settings = {k: v for k, v in vars(options).items() if k not in ("base", "out", "predictor", "only", "more", "name")}
    write(f"threshold-{name}", rows, settings)


if __name__ == "__main__":
    main()
