"""Sensitivity curves and the greedy baseline that reads them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from autoprune.costs import Budget
from autoprune.errors import SettingsError, StudyError, UnknownNameError
from autoprune.fitting import Target
from autoprune.problems import TOP, KnownAnswer
from autoprune.search.base import Context
from autoprune.search.baselines import BASELINES, greedy_path
from autoprune.search.mirror import Mirror
from autoprune.sensitivity import Curve, Sensitivity, sensitivity
from autoprune.space import SearchSpace


def context(problem, budget="macs=0.5", **options):
    space = SearchSpace.from_graph(problem.graph, **options)
    return Context(problem, space, Target(problem, Budget.parse(budget)), Mirror(space, ("accuracy",), "test"))


def test_curves_hold_what_pruning_one_group_does():
    problem = KnownAnswer(4)
    space = SearchSpace.from_graph(problem.graph)
    seen = []
    found = sensitivity(problem, space, levels=(0.5, 0.25, 0.9), progress=lambda d, n: seen.append((d, n)))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert [c.group for c in found.curves] == [g.name for g in space.groups]
    for curve, group in zip(found.curves, space.groups, strict=True):
        assert curve.removed == tuple(group.removals[group.place(s)] for s in (0.25, 0.5, 0.9))
        for sparsity, accuracy in zip(curve.sparsity, curve.accuracy, strict=True):
            assert accuracy == pytest.approx(TOP - problem.weights[group.name] * sparsity**2)
    assert all(plan.steps == 0 and len(plan.decisions) == 1 for plan in problem.calls)


def test_a_killed_analysis_goes_on_where_it_was(tmp_path):
    class Dies(KnownAnswer):
        def __call__(self, plan, **named):
            if len(self.calls) == 7:
                raise KeyboardInterrupt
            return super().__call__(plan, **named)

    problem, space = Dies(4), SearchSpace.from_graph(KnownAnswer(4).graph)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(problem, space, cache_dir=tmp_path)
    again = KnownAnswer(4)
    found = sensitivity(again, space, cache_dir=tmp_path)
    assert len(again.calls) == 16 - 4
    assert found == sensitivity(KnownAnswer(4), space)
    [file] = tmp_path.iterdir()
    file.write_text("[")
    assert sensitivity(KnownAnswer(4), space, cache_dir=tmp_path) == found


def test_another_problem_or_method_has_another_cache(tmp_path):
    space = SearchSpace.from_graph(KnownAnswer(2).graph, methods=("l1_norm", "fpgm"))
    for seed, method in ((0, "l1_norm"), (0, "fpgm"), (1, "l1_norm")):
        problem = KnownAnswer(2, seed=seed)
        sensitivity(problem, SearchSpace.from_graph(problem.graph), method=method, cache_dir=tmp_path)
        assert len(problem.calls) == 8
    assert len(list(tmp_path.iterdir())) == 3
    assert space.methods == ("l1_norm", "fpgm")


def test_harm_never_falls_and_can_be_made_convex():
    curve = Curve("g", 10, (2, 4, 6, 8), (0.8, 0.85, None, 0.5), (0.30, 0.25, None, 1.2))
    found = Sensitivity("l1_norm", 0.9, 0.2, (curve,))
    at = [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    harm = found.harm("g", at)
    assert harm[:4] == pytest.approx([0.0, 0.05, 0.1, 0.1])
    assert harm[4] == pytest.approx(2.0)  # failed: twice the worst
    assert harm == sorted(harm)
    convex = found.harm("g", np.linspace(0, 0.8, 17), convex=True)
    assert all(a <= b + 1e-12 for a, b in zip(convex, found.harm("g", np.linspace(0, 0.8, 17)), strict=True))
    assert (np.diff(convex, 2) >= -1e-12).all()
    assert found.harm("g", [0.9], convex=True)[0] > convex[-1]
    with pytest.raises(UnknownNameError, match="unknown group 'h'"):
        found.harm("h", [0.5])


def test_sensitivities_go_to_json_and_back():
    problem = KnownAnswer(2)
    found = sensitivity(problem, SearchSpace.from_graph(problem.graph))
    assert Sensitivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(StudyError, match="version 7"):
        Sensitivity.from_dict({**found.to_dict(), "version": 7})
    with pytest.raises(StudyError, match="cannot be read"):
        Sensitivity.from_dict({})


@pytest.mark.parametrize("levels", [(), (0.0,), (1.0,), (0.5, 1.2)])
def test_levels_out_of_range_are_refused(levels):
    problem = KnownAnswer(2)
    with pytest.raises(SettingsError, match=r"must be in \(0, 1\)"):
        sensitivity(problem, SearchSpace.from_graph(problem.graph), levels=levels)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("budget", ["macs=0.3", "macs=0.6,params=0.5", "latency_ms=0.6", "bytes=0.5"])
def test_every_baseline_just_meets_the_budget(name, budget):
    made = context(KnownAnswer(6), budget, round_to=2)
    values = BASELINES[name](made, "l1_norm")
    plan = made.space.plan(values)
    assert made.target.fits(plan)
    places = {g.name: g.place(values[f"sparsity/{g.name}"]) for g in made.space.groups}
    larger = made.space.point({g.name: g.removals[max(places[g.name] - 1, 0)] / g.size for g in made.space.groups})
    assert not made.target.fits(made.space.plan(larger))


def test_greedy_is_near_the_best_and_the_others_are_not():
    gaps = {name: [] for name in BASELINES}
    for seed in range(4):
        made = context(KnownAnswer(10, seed=seed))
        for name, find in BASELINES.items():
            accuracy = made.objective.accuracy(made.space.plan(find(made, "l1_norm")))
            gaps[name].append(made.objective.bound(made.target.budget) - accuracy)
    assert np.mean(gaps["greedy"]) < 0.006
    assert np.mean(gaps["greedy"]) < np.mean(gaps["global"]) < np.mean(gaps["uniform"])


def test_the_greedy_path_leads_from_dense_to_the_smallest():
    made = context(KnownAnswer(3))
    curves = sensitivity(made.objective, made.space)
    path = [made.space.removed(point) for point in greedy_path(made, curves, "l1_norm", steps=7)]
    assert set(path[0].values()) == {0}
    assert path[-1] == {g.name: g.removals[-1] for g in made.space.groups}
    assert len(path) == 1 + 3 * 7
    for before, after in itertools.pairwise(path):
        changed = [name for name in before if before[name] != after[name]]
        assert len(changed) == 1
        assert after[changed[0]] > before[changed[0]]
