"""Problems with a known answer: their answer is the answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from autoprune.costs import Budget
from autoprune.errors import BudgetError, SettingsError
from autoprune.outcome import Outcome, Status
from autoprune.plan import Plan
from autoprune.problems import TOP, KnownAnswer
from autoprune.space import SearchSpace


@pytest.mark.parametrize("seed", range(3))
def test_the_best_plan_is_the_best_of_all(seed):
    problem = KnownAnswer(3, seed=seed)
    space = SearchSpace.from_graph(problem.graph, levels=12)
    budget = Budget(macs=0.5)
    best = 0.0
    for counts in itertools.product(*(g.removals for g in space.groups)):
        plan = space.plan({f"sparsity/{g.name}": k / g.size for g, k in zip(space.groups, counts, strict=True)})
        if budget.fits(problem.cost(plan), problem.dense_cost):
            best = max(best, problem.accuracy(plan))
    assert best <= problem.bound(budget) + 1e-12
    fine = SearchSpace.from_graph(problem.graph)
    found = problem.accuracy(fine.plan(problem.best(fine, budget)))
    assert best - 0.005 <= found <= problem.bound(budget) + 1e-12


@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.9])
def test_the_bound_agrees_with_a_solver(metric, fraction):
    problem = KnownAnswer(6, seed=4)
    names = list(problem.weights)
    weights = np.array([problem.weights[n] for n in names])
    costs = np.array([problem.graph.layer_costs()[n][metric == "macs"] for n in names], dtype=float)
    scale = costs / costs.sum()
    found = minimize(
        lambda s: (weights * s**2).sum(),
        np.full(6, 0.5),
        bounds=[(0, 0.9)] * 6,
        constraints={"type": "ineq", "fun": lambda s: fraction - (scale * (1 - s)).sum()},
        tol=1e-12,
    )
    assert problem.bound(Budget(**{metric: fraction})) == pytest.approx(TOP - found.fun, abs=1e-6)


def test_the_right_method_is_the_better_one():
    problem = KnownAnswer(4, methods=("l1_norm", "fpgm"))
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods)
    half = dict.fromkeys(problem.graph.groups, 0.5)
    right = {name: problem.methods[i % 2] for i, name in enumerate(half)}
    accuracies = {
        methods: problem.accuracy(space.plan(space.point(half, dict(zip(half, methods, strict=True)))))
        for methods in itertools.product(problem.methods, repeat=4)
    }
    assert max(accuracies, key=accuracies.get) == tuple(right.values())
    best = problem.best(space, Budget(macs=0.5))
    assert {name: best[f"method/{name}"] for name in half} == right


def test_outcomes_are_those_of_an_objective():
    problem = KnownAnswer(3, steps=4, fail_above=0.6)
    space = SearchSpace.from_graph(problem.graph)
    plan = space.plan(space.point(dict.fromkeys(problem.graph.groups, 0.5)))
    seen = []
    outcome = problem(plan, report=lambda step, accuracy: seen.append((step, accuracy)) or False)
    assert outcome.status is Status.OK
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert seen == sorted(seen, key=lambda entry: entry[1])
    assert seen[-1][1] == outcome.accuracy == problem.accuracy(plan)
    assert Outcome.from_dict(outcome.to_dict()) == outcome
    assert sum(layer.macs for layer in outcome.layers) == outcome.cost.macs == problem.cost(plan).macs
    stopped = problem(plan, report=lambda step, _: step == 2)
    assert stopped.status is Status.STOPPED
    assert stopped.accuracy == seen[1][1]
    assert stopped.steps == 2
    failed = problem(space.plan(space.point({"layer00": 0.7})))
    assert failed.status is Status.FAILED
    assert failed.accuracy is None
    assert "more than 0.6 of 'layer00' is gone" in failed.reason


def test_noise_belongs_to_the_plan():
    problem = KnownAnswer(3, noise=0.01)
    space = SearchSpace.from_graph(problem.graph)
    plans = [space.plan(space.point({"layer00": s})) for s in (0.2, 0.4, 0.6)]
    first = [problem.accuracy(p) for p in plans]
    assert first == [KnownAnswer(3, noise=0.01).accuracy(p) for p in plans]
    quiet = [KnownAnswer(3).accuracy(p) for p in plans]
    assert len({round(a - b, 9) for a, b in zip(first, quiet, strict=True)}) == 3
    assert problem.accuracy(Plan()) == TOP


def test_what_has_no_answer_is_refused():
    with pytest.raises(BudgetError, match="known for one limit on macs or params"):
        KnownAnswer(3).bound(Budget(macs=0.5, params=0.5))
    with pytest.raises(BudgetError, match=r"cannot be met with sparsities up to 0.9"):
        KnownAnswer(3).bound(Budget(macs=0.05))
    with pytest.raises(SettingsError, match="at least one group"):
        KnownAnswer(0)
