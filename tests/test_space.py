"""Search spaces: counts, rounding, plans both ways, shifting onto a budget."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.costs import Budget
from autoprune.errors import BudgetError, MethodError, PlanError, SettingsError, StudyError, UnknownNameError
from autoprune.fitting import Target
from autoprune.methods import METHODS
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.problems import KnownAnswer
from autoprune.space import GroupSpace, SearchSpace
from autoprune.tracing import trace

PROBLEM = KnownAnswer(5)


def space(**options):
    return SearchSpace.from_graph(PROBLEM.graph, **options)


def points(made):
    """Values of a space, sparsities anywhere in range."""
    return st.fixed_dictionaries(
        {
            name: st.sampled_from(p.choices) if p.choices else st.floats(p.low, p.high)
            for name, p in made.parameters.items()
        }
    )


@given(
    size=st.integers(1, 200),
    most=st.floats(0.01, 0.99),
    round_to=st.integers(1, 20),
    levels=st.none() | st.integers(2, 9),
)
def test_counts_left_are_multiples_and_never_none(size, most, round_to, levels):
    from autoprune.space import _removals

    removals = _removals(size, most, round_to, levels)
    assert removals[0] == 0
    assert list(removals) == sorted(set(removals))
    for removed in removals[1:]:
        assert (size - removed) % round_to == 0
        assert size - removed >= round_to
        assert removed <= most * size + 1e-9
    if levels is not None:
        assert len(removals) <= levels
    else:
        allowed = [k for k in range(round_to, size, round_to) if size - k <= most * size + 1e-9]
        assert len(removals) == 1 + len(allowed)


@given(removals=st.sets(st.integers(1, 50), min_size=1).map(lambda s: (0, *sorted(s))), sparsity=st.floats(0, 1))
def test_nearest_count_is_taken(removals, sparsity):
    group = GroupSpace("g", Pattern.UNIT, 51, removals)
    taken = removals[group.place(sparsity)]
    assert abs(taken - sparsity * 51) <= min(abs(k - sparsity * 51) for k in removals) + 1e-9


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_plans_and_values_say_the_same(data):
    made = space(
        methods=("l1_norm", "l2_norm"),
        reconstruction=("none", "bias_only"),
        round_to=data.draw(st.sampled_from([1, 4])),
    )
    values = data.draw(points(made))
    plan = made.plan(values)
    assert made.plan(made.snap(values)) == plan
    assert made.plan(made.values(plan)) == plan
    assert PROBLEM.removed(plan) == {name: count for name, count in made.removed(values).items() if count}
    for decision in plan.decisions:
        group = PROBLEM.graph.group(decision.layer)
        assert decision.sparsity == group.removed(decision.sparsity) / group.size > 0


@settings(max_examples=60, deadline=None)
@given(data=st.data(), macs=st.floats(0.2, 1.0), params=st.floats(0.2, 1.0))
def test_fit_just_meets_the_budget_from_both_sides(data, macs, params):
    made = space(round_to=data.draw(st.sampled_from([1, 3])))
    budget = Budget(macs=macs, params=params)
    values = data.draw(points(made))
    fitted = made.fit(values, PROBLEM, budget)
    target = Target(PROBLEM, budget)
    assert target.fits(made.plan(fitted))
    before, after = made.removed(values), made.removed(fitted)
    # one direction: either all groups lose more, or all get units back
    assert all(after[n] >= before[n] for n in before) or all(after[n] <= before[n] for n in before)
    # just: with a little less of a shift it would not fit, so giving every group its next unit back must not
    places = {g.name: g.removals.index(after[g.name]) for g in made.groups}
    if any(places.values()):
        larger = {g.name: g.removals[max(places[g.name] - 1, 0)] / g.size for g in made.groups}
        assert not target.fits(made.plan(made.point(larger)))


def test_fit_is_the_smallest_shift():
    made, budget = space(), Budget(macs=0.5)
    values = made.point({g.name: 0.3 + 0.1 * i for i, g in enumerate(made.groups)})
    fitted = made.plan(made.fit(values, PROBLEM, budget))
    steps = [i / 20000 for i in range(-20000, 20001)]
    for step in steps:
        moved = {g.name: min(max(values[f"sparsity/{g.name}"] + step, 0), 1) for g in made.groups}
        plan = made.plan(made.point(moved))
        if budget.fits(PROBLEM.cost(plan), PROBLEM.dense_cost):
            break
    assert fitted == plan


def test_fit_keeps_methods_and_is_its_own_fixed_point():
    made, budget = space(methods=("l1_norm", "l2_norm")), Budget(macs=0.5)
    values = made.point({}, {g.name: made.methods[i % 2] for i, g in enumerate(made.groups)})
    fitted = made.fit(values, PROBLEM, budget)
    assert {k: v for k, v in fitted.items() if k.startswith("method")} == {
        k: v for k, v in values.items() if k.startswith("method")
    }
    assert made.fit(fitted, PROBLEM, budget) == fitted


def test_a_latency_budget_is_measured_once_for_each_plan():
    measured = Counter()

    class Measured(KnownAnswer):
        def latency(self, plan):
            measured[plan] += 1
            return super().latency(plan)

    problem, made = Measured(4), SearchSpace.from_graph(KnownAnswer(4).graph)
    target = Target(problem, Budget(latency_ms=0.6, macs=0.7))
    fitted = made.shift(made.point({}), target.fits)
    assert target.fits(made.plan(fitted))
    assert problem.latency(made.plan(fitted)) <= 0.6 * problem.latency(Plan())
    assert max(measured.values()) <= 3  # and twice by this test
    over = [p for p in measured if problem.cost(p).macs > 0.7 * problem.dense_cost.macs]
    assert set(over) <= {Plan()}  # what can be counted is tried first


def test_profile_shows_the_range_and_refuses_what_cannot_be_met():
    profile = space().profile(PROBLEM, Budget(macs=0.5))
    assert [name for name, _ in profile.rows()] == ["smallest", "middle", "largest"]
    assert profile.smallest.macs < profile.middle.macs < profile.largest.macs == PROBLEM.dense_cost.macs
    assert profile.limits == {"macs": 0.5 * PROBLEM.dense_cost.macs}
    calls = len(PROBLEM.calls)
    with pytest.raises(BudgetError, match=r"the budget macs <= .* cannot be met: the smallest .* \(max_sparsity=0.9"):
        space().profile(PROBLEM, Budget(macs=0.05))
    with pytest.raises(BudgetError, match="not even the smallest sub-network"):
        space().fit(space().point({}), PROBLEM, Budget(macs=0.05))
    assert len(PROBLEM.calls) == calls


def test_a_budget_that_the_dense_network_meets_removes_nothing():
    made = space()
    fitted = made.fit(made.point(dict.fromkeys(PROBLEM.graph.groups, 0.5)), PROBLEM, Budget(macs=1.0))
    assert made.plan(fitted) == Plan()


def test_spaces_go_to_json_and_back():
    made = space(methods=("l1_norm", "fpgm"), round_to=4, levels=5, reconstruction=("none", "bias_only"))
    again = SearchSpace.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.digest == made.digest
    assert space(round_to=4).digest != space(round_to=2).digest
    with pytest.raises(StudyError, match="version 9, but this release reads 1"):
        SearchSpace.from_dict({**made.to_dict(), "version": 9})
    with pytest.raises(StudyError, match="cannot be read"):
        SearchSpace.from_dict({"version": 1})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_sparsity": 1.0}, SettingsError, r"max_sparsity must be in \(0, 1\), but got 1.0"),
        ({"max_sparsity": True}, SettingsError, r"max_sparsity must be in \(0, 1\), but got True"),
        ({"round_to": 0}, SettingsError, "round_to must be a whole number from 1 on, but got 0"),
        ({"round_to": 1000}, SettingsError, "nothing can be removed with round_to=1000"),
        ({"levels": 1}, SettingsError, "levels must be a whole number from 2 on or None, but got 1"),
        ({"methods": ()}, SettingsError, "at least one method"),
        ({"methods": ("l1_nrom",)}, UnknownNameError, "unknown method 'l1_nrom'; did you mean 'l1_norm'"),
        ({"reconstruction": "mauch_yagn"}, UnknownNameError, "unknown reconstruction 'mauch_yagn'; did you mean"),
        ({"include": ("layer9*",)}, UnknownNameError, "unknown layer or glob"),
        ({"methods": ("magnitude",), "include": ("input",)}, UnknownNameError, "unknown layer or glob 'input'"),
    ],
)
def test_impossible_spaces_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        space(**options)


def test_values_outside_the_space_are_refused():
    made = space(methods=("l1_norm", "l2_norm"))
    with pytest.raises(UnknownNameError, match="unknown method 'fpgm'"):
        made.plan({**made.point({}), "method/layer00": "fpgm", "sparsity/layer00": 0.5})
    with pytest.raises(UnknownNameError, match="unknown parameter 'sparsity/layer00'"):
        made.plan({})
    with pytest.raises(PlanError, match=r"'layer00' .* is not in the space"):
        made.values(Plan((LayerDecision("layer00", "fpgm", Pattern.UNIT, 0.5),)))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.next = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.next(self.conv(x).relu()).relu().mean((2, 3)))


def test_space_of_a_real_network():
    import torch

    graph = trace(Small(), torch.zeros(2, 1, 8, 8))
    made = SearchSpace.from_graph(graph, round_to=4)
    assert [g.name for g in made.groups] == ["conv", "next"]
    assert made.groups[0].removals == (0, 4)
    assert made.groups[1].removals == (0, 2)
    assert SearchSpace.from_graph(graph, round_to=6).fixed == ("next",)
    assert SearchSpace.from_graph(graph, round_to=6).groups[0].removals == (0, 2)
    with pytest.raises(SettingsError, match="round_to=8"):
        SearchSpace.from_graph(graph, round_to=8)


def test_a_method_must_rank_the_groups_units(monkeypatch):
    only_weights = SimpleNamespace(name="single", patterns=frozenset({Pattern.WEIGHT}))
    monkeypatch.setitem(METHODS, "single", only_weights)
    with pytest.raises(
        MethodError, match=r"'single' cannot rank the units of 'layer00' \(pattern unit; it ranks weight"
    ):
        space(methods=("l1_norm", "single"))
