"""Fronts of accuracy against costs, and the best of them."""

from __future__ import annotations

import pytest

from autoprune.problems import KnownAnswer
from autoprune.search import search
from autoprune.search.records import TrialRecord
from autoprune.search.result import cheapest_near, pareto_front
from autoprune.search.testing import history
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("controller", ["tpe", "nsga2", "nsga3", "random"])
@pytest.mark.parametrize("pareto", [("macs",), ("params", "latency_ms")])
def test_pareto_fronts(controller, pareto, tmp_path):
    problem = KnownAnswer(5, steps=6)
    options = {"controller": controller, "pareto": pareto, "pruner": "dominated", "seed": 5}
    result = search(problem, trials=30, run_dir=tmp_path / "run", **options)
    assert len(result.trials) == 33
    values = [t.objectives(pareto) for t in result.front]
    everything = [t.objectives(pareto) for t in result.trials if t.usable]
    for mine in values:
        assert not any(
            other[0] >= mine[0] and all(a <= b for a, b in zip(other[1:], mine[1:], strict=True)) and other != mine
            for other in everything
        )
    assert result.best in result.front
    assert any(t.status == "stopped" for t in result.trials) or controller != "random"
    again = search(KnownAnswer(5, steps=6), trials=30, **options, study_name="run")
    assert history(again) == history(result)


def test_a_front_within_a_budget(tmp_path):
    problem = KnownAnswer(5)
    result = search(problem, budget="macs=0.6", pareto=("params",), trials=20, controller="nsga2")
    assert all(t.outcome.cost.macs <= 0.6 * problem.dense_cost.macs for t in result.trials)
    assert result.best.accuracy == max(t.accuracy for t in result.trials)
    macs = {t.outcome.cost.macs for t in result.trials if not t.baseline}
    assert min(macs) < 0.5 * problem.dense_cost.macs  # smaller ones are not blown up to the budget


def test_fronts_and_their_best_by_hand():
    problem, space = KnownAnswer(2), SearchSpace.from_graph(KnownAnswer(2).graph)
    records = []
    for number, sparsity in enumerate((0.0, 0.25, 0.5, 0.5, 0.75)):
        plan = space.plan(space.point(dict.fromkeys(problem.graph.groups, sparsity)))
        records.append(TrialRecord(number, "ok", plan, outcome=problem(plan)))
    worse = space.plan(space.point({"layer00": 0.9}))
    records.append(TrialRecord(5, "failed", worse, outcome=problem(worse)))
    records.append(TrialRecord(6, "ok", worse, outcome=problem(worse), violations={"macs": 0.1}))
    front = pareto_front(records, ("macs",))
    assert [t.number for t in front] == [0, 1, 2, 4]
    dense = {"macs": float(problem.dense_cost.macs), "accuracy": 0.95}
    near = [t.number for t in front if t.accuracy >= 0.93]
    assert cheapest_near(front, ("macs",), dense).number == max(near)
    assert cheapest_near(front, ("macs",), {**dense, "accuracy": 1.0}).number == 0
    assert cheapest_near((), ("macs",), dense) is None
