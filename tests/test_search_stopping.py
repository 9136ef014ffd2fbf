"""Trials stopped on the way: by a pruner, and by what others cost."""

from __future__ import annotations

import pytest

from autoprune.errors import SettingsError
from autoprune.objective import Objective
from autoprune.problems import KnownAnswer
from autoprune.search import search
from autoprune.search.records import TrialRecord
from autoprune.search.stopping import Dominated, make_stopper
from autoprune.search.testing import history
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("pruner", ["median", "hyperband", "patience", "dominated"])
def test_pruners_stop_trials_on_the_way(pruner):
    problem = KnownAnswer(8, steps=8, seed=1)
    result = search(problem, budget="macs=0.5", controller="random", trials=30, pruner=pruner, seed=0)
    stopped = [t for t in result.trials if t.status == "stopped"]
    assert all(not t.baseline and max(t.reports) < 8 for t in stopped)
    assert all(max(t.reports) == 8 for t in result.trials if t.status == "ok")
    # patience waits for a trial that gets no better, which the problem's curves never do
    assert bool(stopped) is (pruner != "patience")
    assert result.best.status == "ok"
    assert len(result.trials) == 33


@pytest.mark.parametrize(
    ("pruner", "controller"),
    [
        ("hyperband", "tpe"),
        ("median", "cmaes"),
        pytest.param("hyperband", "nsga2", marks=pytest.mark.slow),
        pytest.param("median", "tpe", marks=pytest.mark.slow),
        pytest.param("dominated", "tpe", marks=pytest.mark.slow),
    ],
)
def test_stopped_trials_resume_as_if_straight(tmp_path, pruner, controller):
    options = {"budget": "macs=0.5", "controller": controller, "pruner": pruner, "study_name": "s", "seed": 4}
    straight = search(KnownAnswer(5, steps=6), trials=20, **options)
    for trials in (5, 13, 20):
        resumed = search(KnownAnswer(5, steps=6), trials=trials, run_dir=tmp_path / "run", **options)
    assert history(resumed) == history(straight)
    assert [t.reports for t in resumed.trials] == [t.reports for t in straight.trials]
    assert any(t.status == "stopped" for t in resumed.trials)


def test_without_a_pruner_nothing_is_evaluated_on_the_way():
    class Counts(KnownAnswer):
        asked = False

        def __call__(self, plan, *, report=None, race=None):
            self.asked = self.asked or report is not None
            return super().__call__(plan, report=report, race=race)

    problem = Counts(3, steps=4)
    search(problem, budget="macs=0.5", trials=2)
    assert not problem.asked
    search(problem, budget="macs=0.5", trials=2, pruner="median")
    assert problem.asked


def test_a_pruner_without_retraining_is_refused(model, data):
    with pytest.raises(SettingsError, match="pruner 'median' stops retraining early, but there is none"):
        search(Objective(model, data), budget="macs=0.5", pruner="median")


def test_dominated_compares_only_with_what_costs_no_more():
    problem, space = KnownAnswer(2, steps=4), SearchSpace.from_graph(KnownAnswer(2).graph)

    def record(number, sparsity, reports):
        plan = space.plan(space.point(dict.fromkeys(problem.graph.groups, sparsity)))
        outcome = problem(plan)
        return TrialRecord(number, "ok", plan, outcome=outcome, cost=outcome.cost, reports=reports)

    stopper = Dominated(("macs",), rivals=2)
    for number, sparsity in enumerate((0.2, 0.3, 0.6, 0.7)):
        stopper.tell(record(number, sparsity, {1: 0.5, 2: 0.8}))
    running = record(9, 0.5, {})
    assert not stopper.report(running, 1, 0.5)
    assert stopper.report(running, 1, 0.49)  # behind the two that are cheaper
    assert not stopper.report(record(10, 0.65, {}), 1, 0.1)  # only one is cheaper
    assert not stopper.report(running, 3, 0.0)  # nobody was seen at this step
    assert make_stopper("dominated", (), "s").metrics == ()
