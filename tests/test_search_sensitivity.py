"""Sensitivity curves and the greedy baseline that reads them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from autoprune.costs import Budget
from autoprune.errors import SettingsError, StudyError, UnknownNameError
from autoprune.evaluation import evaluate
from autoprune.finetune import FinetuneSettings
from autoprune.fitting import Target
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings
from autoprune.plan import Plan
from autoprune.problems import TOP, KnownAnswer
from autoprune.search import baselines
from autoprune.search.base import Context
from autoprune.search.baselines import BASELINES, greedy, greedy_path
from autoprune.search.mirror import Mirror
from autoprune.sensitivity import Curve, Sensitivity, narrowed, sensitivity
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.fixture(scope="module")
def network(model, data):
    """An objective with everything that curves leave out."""
    return Objective(model, data, settings=ObjectiveSettings(FinetuneSettings(steps=3), race=RaceSettings(), seed=2))


def test_some_images_judge_as_the_objective_does(network, model, data):
    few = narrowed(network, 100)
    rows = {(x.numpy().tobytes(), int(y)) for x, y in zip(data.validation.x, data.validation.y, strict=True)}
    drawn = [(x.numpy().tobytes(), int(y)) for x, y in zip(few.data.validation.x, few.data.validation.y, strict=True)]
    assert len(drawn) == 100
    assert set(drawn) <= rows
    assert len(few.data.validation.y.unique()) == 10
    plan = Plan.uniform(network.graph, sparsity=0.4)
    by_hand = evaluate(few.build(plan).module, few.data.validation)
    assert few(plan).accuracy == by_hand.accuracy
    assert list(few(plan).stages) == ["dense", "recalibrated"]
    mine, theirs = few.build(plan).kept, network.build(replace(plan, steps=0)).kept
    assert all(mine[name].tolist() == theirs[name].tolist() for name in (*mine, *theirs))
    assert narrowed(network, len(data.validation)) is network
    again = Objective(model, data, settings=replace(network.settings, finetune=FinetuneSettings()))
    assert narrowed(again, 100).identity == few.identity  # retraining plays no part
    other = Objective(model, data, settings=replace(network.settings, seed=3))
    assert narrowed(other, 100).data.validation.y.tolist() != few.data.validation.y.tolist()


def test_curves_of_some_images_are_kept_by_themselves(network, tmp_path):
    space = SearchSpace.from_graph(network.graph)
    some = [sensitivity(network, space, levels=(0.5,), images=n, cache_dir=tmp_path) for n in (50, 100, None, 10**6)]
    assert len(list(tmp_path.iterdir())) == 3
    assert some[2] == some[3]
    assert some[2].accuracy == network.dense.accuracy
    assert some[0].accuracy == narrowed(network, 50).dense.accuracy
    assert some[0] == sensitivity(network, space, levels=(0.5,), images=50, cache_dir=tmp_path)
    with pytest.raises(SettingsError, match="images of a sensitivity analysis must be a whole number from 1 on"):
        sensitivity(network, space, images=0)


def test_greedy_is_as_good_by_some_images(model, data, tmp_path, monkeypatch):
    """Measured: accuracy without retraining on all images, for several draws of those that judge the curves."""

    def accuracies(images, seed):
        monkeypatch.setattr(baselines, "IMAGES", images)
        network = Objective(model, data, settings=ObjectiveSettings(seed=seed))
        made = [replace(context(network, budget), cache_dir=tmp_path) for budget in ("macs=0.6", "macs=0.5")]
        return [network(m.space.plan(greedy(m, "l1_norm"))).accuracy for m in made]

    few = [accuracies(100, seed) for seed in range(3)]
    assert few != [few[0]] * 3  # the draws do differ
    assert np.mean(few) > np.mean(accuracies(10**6, 0)) - 0.01


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
