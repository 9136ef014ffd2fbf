"""What every controller must do, as checks to run on your own: each takes a controller's name and raises if it fails.

    >>> for check in CHECKS.values():
    ...     check("tpe")

They run on problems with a known answer, in seconds. Put your controller into ``CONTROLLERS`` first. A controller that
cannot do without options, or learns too late for so short a search, is given them: ``check("sac", {"warmup": 3})``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.costs import Budget
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, SearchResult, search
from autoprune.search.baselines import BASELINES
from autoprune.space import SearchSpace

TRIALS = 14
Options = Mapping[str, Any] | None


def history(result: SearchResult) -> list[tuple[Any, ...]]:
    """What must be the same in two runs: everything but times."""
    return [(t.number, t.status, dict(t.values), t.plan, t.accuracy, t.baseline) for t in result.trials]


def small_problem(**options: Any) -> tuple[KnownAnswer, SearchSpace]:
    """Three groups of four counts each, small enough for a grid; two methods, one of them right."""
    problem = KnownAnswer(3, methods=("l1_norm", "l2_norm"), **options)
    return problem, SearchSpace.from_graph(problem.graph, methods=problem.methods, levels=4)


def run(name: str, problem: KnownAnswer, space: SearchSpace, **options: Any) -> SearchResult:
    """A short search."""
    return search(problem, **{"budget": "macs=0.5", "controller": name, "trials": TRIALS, "space": space, **options})


def stays_within_trials(name: str, options: Options = None) -> None:
    """Never more proposals than asked for, the baselines once each, nothing lost."""
    problem, space = small_problem()
    result = run(name, problem, space, options=options)
    proposals = [t for t in result.trials if not t.baseline]
    assert len(proposals) == TRIALS or (result.exhausted and len(proposals) < TRIALS)
    assert [t.baseline for t in result.trials[:3]] == list(BASELINES)
    assert [t.number for t in result.trials] == list(range(len(result.trials)))
    assert all(t.finished for t in result.trials)


def meets_the_budget(name: str, options: Options = None) -> None:
    """Nothing that misses the budget is evaluated, whether proposals are shifted or refused."""
    for handling in ("project", "reject"):
        problem, space = small_problem()
        budget = Budget(macs=0.4, params=0.6)
        result = run(name, problem, space, options=options, budget=budget, handling=handling)
        judged = [plan for plan in problem.calls if len(plan.decisions) > 1 and plan.steps is None]
        assert judged
        assert all(budget.fits(problem.cost(plan), problem.dense_cost) for plan in judged)
        assert result.best is not None
        assert result.best.feasible
        assert all(space.plan(t.values) == t.plan for t in result.trials)
        rejected = [t for t in result.trials if t.status == "rejected"]
        assert not (rejected and handling == "project")
        assert all(t.outcome is None and not t.feasible for t in rejected)


def repeats_with_its_seed(name: str, options: Options = None) -> None:
    """Same seed, same history."""
    first = run(name, *small_problem(), options=options, seed=3)
    assert history(first) == history(run(name, *small_problem(), options=options, seed=3))


def resumes_as_if_straight(name: str, options: Options = None) -> None:
    """A study that was continued four times has the history of one that ran straight."""
    straight = run(name, *small_problem(), options=options, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        for trials in (0, 3, 8, TRIALS):
            result = run(name, *small_problem(), options=options, seed=5, trials=trials, run_dir=Path(folder) / "run")
    assert history(result) == history(straight)


def beats_uniform(name: str, options: Options = None) -> None:
    """At least as good as the uniform baseline, and no better than can be."""
    problem, space = small_problem()
    result = run(name, problem, space, options=options, seed=1)
    assert result.best is not None
    assert result.best.accuracy is not None
    assert result.baselines["uniform"].accuracy is not None
    assert result.baselines["uniform"].accuracy <= result.best.accuracy <= problem.bound(Budget(macs=0.5)) + 1e-12


def records_failures(name: str, options: Options = None) -> None:
    """A failed evaluation is a failed trial with its reason, and the search goes on."""
    problem, space = small_problem(fail_above=0.35)
    result = run(name, problem, space, options=options, seed=2)
    failed = [t for t in result.trials if t.status == "failed"]
    assert all(t.accuracy is None and t.outcome is not None and "is gone" in t.outcome.reason for t in failed)
    assert all(t.plan is not None and t.plan.sparsities().get("layer00", 0.0) > 0.35 for t in failed)
    assert all(t.finished for t in result.trials)


def searches_a_front(name: str, options: Options = None) -> None:
    """With costs as objectives: a front of trials of which none beats another (controllers that can)."""
    if not CONTROLLERS[name].pareto:
        return
    problem, space = small_problem()
    result = run(name, problem, space, options=options, budget=None, pareto=("macs", "params"))
    assert result.front
    values = [t.objectives(("macs", "params")) for t in result.front]
    for place, one in enumerate(values):
        for other in values[place + 1 :]:
            assert one is not None
            assert other is not None
            assert one[0] > other[0]
            assert any(a > b for a, b in zip(one[1:], other[1:], strict=True))


CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: check
    for check in (
        stays_within_trials,
        meets_the_budget,
        repeats_with_its_seed,
        resumes_as_if_straight,
        beats_uniform,
        records_failures,
        searches_a_front,
    )
}
