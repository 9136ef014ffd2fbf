"""The choice, proved apart from any predictor: against brute force, and on budgets that grow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autoprune
from autoprune.costs import Budget, CostModel
from autoprune.drop_curves import DropCurves
from autoprune.errors import BudgetError, SettingsError
from autoprune.search.threshold.choice import cheapest_within, front_of
from autoprune.search.threshold.facts import GroupFacts, NetworkFacts, layer_facts, neighbours_of
from autoprune.search.threshold.features import Judged
from autoprune.search.threshold.grid import Grid, Pricing
from autoprune.space import SearchSpace

numbers = st.integers(0, 40).map(float)  # whole, so that sums in another order are the same


@st.composite
def layers(draw, least=0, most=4):
    """(costs, harms) of a few layers; the first option removes nothing and harms nothing, costs fall."""
    count = draw(st.integers(1, 3))
    costs, harms = [], []
    for _ in range(count):
        options = draw(st.integers(1, most))
        costs.append(np.array(sorted(draw(st.lists(numbers, min_size=options, max_size=options)), reverse=True)))
        own = draw(st.lists(st.integers(least, 40).map(float), min_size=options, max_size=options))
        harms.append(np.array([0.0, *own[1:]]))
    return costs, harms


def total(tables, picks):
    return sum(float(table[pick]) for table, pick in zip(tables, picks, strict=True))


@given(layers(), st.integers(0, 100))
def test_a_joint_choice_is_the_best_of_all(tables, budget):
    costs, harms = tables
    points = list(itertools.product(*(range(len(c)) for c in costs)))
    front = front_of(costs, harms)
    best = min(total(costs, p) for p in points if total(harms, p) <= budget)
    chosen = front.cheapest(budget)
    assert total(costs, chosen) == best
    assert total(harms, chosen) <= budget
    least = min((total(harms, p) for p in points if total(costs, p) <= budget), default=None)
    if least is not None:
        assert total(harms, front.least_harm(budget)) == least


@given(layers(), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_budget_never_costs_more(tables, one, other):
    costs, harms = tables
    front = front_of(costs, harms)
    low, high = sorted((one, other))
    assert total(costs, front.cheapest(high)) <= total(costs, front.cheapest(low))
    assert total(harms, front.least_harm(high)) <= total(harms, front.least_harm(low))


@given(layers(least=1))
def test_nothing_goes_at_budget_0_where_everything_harms(tables):
    costs, harms = tables
    assert not front_of(costs, harms).cheapest(0.0).any()
    for cost, harm in zip(costs, harms, strict=True):
        assert cheapest_within(cost, harm, np.zeros(len(harm)), 0.0) == 0


@given(layers(), st.floats(0, 3), st.integers(0, 40))
def test_one_layer_is_the_grid_optimum_with_care(tables, kappa, budget):
    (cost, *_), (mean, *_) = tables
    std = mean / 7
    chosen = cheapest_within(cost, mean, std, budget, kappa)
    allowed = [i for i in range(len(cost)) if mean[i] + kappa * std[i] <= budget]
    assert chosen in allowed
    assert cost[chosen] == min(cost[i] for i in allowed)


def test_where_nothing_is_feasible_the_smallest_removal_is_taken():
    assert cheapest_within(np.array([3.0, 2.0, 1.0]), np.array([0.5, 0.6, 0.7]), np.zeros(3), 0.1) == 0
    front = front_of([np.array([3.0, 1.0])], [np.array([0.5, 0.9])])
    assert front.cheapest(0.1).tolist() == [0]
    assert front.least_harm(0.5).tolist() == [1]


def test_a_front_that_is_thinned_stays_near():
    draw = np.random.default_rng(0)
    costs = [np.sort(draw.random(30))[::-1] for _ in range(8)]
    harms = [np.sort(draw.random(30)) for _ in range(8)]
    whole, thin = front_of(costs, harms), front_of(costs, harms, most=200)
    assert len(thin.cost) <= 200 < len(whole.cost)
    for budget in (1.0, 2.0, 3.0):
        assert total(costs, thin.cheapest(budget)) <= total(costs, whole.cheapest(budget)) + 0.1


@pytest.mark.parametrize("seed", range(5))
def test_with_a_perfect_table_the_choice_is_the_best_point_of_the_space(seed):
    problem = DropCurves(4, seed=seed)
    space = SearchSpace.from_graph(problem.graph, levels=9)
    best, plan = problem.best_on_grid(space, Budget(macs=0.5))
    macs = {name: cost for name, (_, cost) in problem.graph.layer_costs().items()}
    shares = {g.name: np.array(g.removals) / g.size for g in space.groups}
    costs = [macs[name] * (1 - values) for name, values in shares.items()]
    harms = [np.array([problem.drop(name, s) for s in values.tolist()]) for name, values in shares.items()]
    picks = front_of(costs, harms).least_harm(0.5 * problem.dense_cost.macs * (1 + 1e-12))
    chosen = {name: values[p] for (name, values), p in zip(shares.items(), picks, strict=True)}
    assert problem(space.plan(space.point(chosen))).accuracy == pytest.approx(best, abs=1e-12)
    assert problem(plan).accuracy == pytest.approx(best, abs=1e-12)


def test_brute_force_says_what_it_cannot():
    many = DropCurves(6)
    with pytest.raises(SettingsError, match="more than 5,000,000 points"):
        many.best_on_grid(SearchSpace.from_graph(many.graph), Budget(macs=0.5))
    problem = DropCurves(4)
    space = SearchSpace.from_graph(problem.graph, levels=3)
    with pytest.raises(BudgetError, match="brute force knows a limit on macs"):
        problem.best_on_grid(space, Budget(params=0.5))
    with pytest.raises(BudgetError, match="cannot be met"):
        problem.best_on_grid(space, Budget(macs=0.001))


class Residual(nn.Module):
    """A group that stands on both sides of a convolution: its cost is a square."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = self.wide(x + self.block(x).relu()).relu()
        return self.head(x.mean((2, 3)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 7), st.integers(0, 10))
def test_costs_of_options_are_those_of_their_plans(stem, wide):
    model = Residual().eval()
    graph = autoprune.trace(model, torch.zeros(2, 3, 6, 6))
    space = SearchSpace.from_graph(graph)
    near = neighbours_of(graph, [g.name for g in space.groups])
    groups = {
        g.name: GroupFacts(
            g.name, g.size, layer_facts(graph, graph.groups[g.name]), *near[g.name], {"l1_norm": np.ones(g.size)}
        )
        for g in space.groups
    }
    grid = Grid(space, NetworkFacts(groups, 0.9, 100), Judged(0, 0, 100))
    model_costs = CostModel(model, graph)
    pricing = Pricing(grid, model_costs, {"macs": 1.0})
    shares = {g.name: count / g.size for g, count in zip(space.groups, (stem, wide), strict=True)}
    around = grid.choices([space.point(shares)])
    now, tables = pricing.options(around)
    removed = grid.removed(around)[0]
    assert now == pricing(removed)
    for place, (places, _) in enumerate(grid.options):
        for option, pick in enumerate(places):
            changed = removed.copy()
            changed[place] = grid.removals[place][pick]
            assert now + tables[place][option] == pytest.approx(pricing(changed), rel=1e-9)
