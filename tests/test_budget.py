"""Budgets: every way to write one, and what is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.costs import Budget, Cost
from autoprune.errors import BudgetError, UnknownNameError

DENSE = Cost(params=1000, macs=40_000_000, bytes=4_000_000, latency_ms=2.0)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("macs=0.5", 20e6),
        ("macs=50%", 20e6),
        ("macs=100%", 40e6),
        ("macs=1", 40e6),
        ("macs=20M", 20e6),
        ("macs=20000000", 20e6),
        ("macs=2e7", 20e6),
        ("macs = 0.02G", 20e6),
        ("params=.25", 250),
        ("params=0.5k", 500),
        ("bytes=300kB", 300_000),
        ("bytes=300 KiB", 307_200),
        ("bytes=1.5MB", 1_500_000),
        ("latency_ms=0.8ms", 0.8),
        ("latency_ms=0.8", 1.6),
        ("latency_ms=800us", 0.8),
        ("latency_ms=1.5", 1.5),
        ("latency_ms=0.001s", 1.0),
    ],
)
def test_forms(text, limit):
    budget = Budget.parse(text)
    (found,) = budget.limits(DENSE).values()
    assert found == pytest.approx(limit, rel=1e-12)
    assert Budget.from_dict(budget.to_dict()) == budget
    assert Budget.parse([f"{metric}={amount}" for metric, amount in budget.to_dict().items()]) == budget


def test_several_at_once():
    budget = Budget.parse(["latency_ms=1ms", "macs=0.5,params=50%"])
    assert budget == Budget(macs=0.5, params="50%", latency_ms="1ms")
    assert budget.metrics == ("params", "macs", "latency_ms")
    assert budget.analytic.metrics == ("params", "macs")
    assert budget.measured.metrics == ("latency_ms",)
    assert str(budget) == "params <= 50% of dense, macs <= 50% of dense, latency_ms <= 1ms"
    assert pickle.loads(pickle.dumps(budget)) == budget  # noqa: S301 - it travels to worker processes
    assert hash(budget) == hash(Budget(params=0.5, macs=0.5, latency_ms="1 ms"))


def test_fits_and_violations():
    budget = Budget(macs=0.5, params=500)
    over = Cost(params=600, macs=10_000_000, bytes=1)
    assert budget.violations(over, DENSE) == pytest.approx({"params": 0.2, "macs": -0.5})
    assert not budget.fits(over, DENSE)
    assert budget.fits(Cost(500, 20_000_000, 1), DENSE)
    assert Budget().fits(over, DENSE)
    assert not Budget()
    assert str(Budget()) == "no budget"


def test_latency_must_have_been_measured():
    with pytest.raises(BudgetError, match="was not measured"):
        Budget(latency_ms="1ms").fits(Cost(1, 1, 1), DENSE)


@given(st.floats(0.001, 1.0), st.integers(1, 10**9))
def test_a_network_exactly_at_its_fraction_fits(share, params):
    dense = Cost(params, 1, 1)
    assert Budget(params=share).fits(Cost(share * params, 1, 1), dense)  # type: ignore[arg-type]


@given(st.one_of(st.floats(1e-6, 1.0), st.floats(1.0, 1e12, exclude_min=True)))
def test_numbers_round_trip(value):
    budget = Budget(params=value, latency_ms=value)
    assert Budget.from_dict(budget.to_dict()) == budget


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("mac=0.5", UnknownNameError, "unknown budget metric 'mac'; did you mean 'macs'"),
        ("macs", BudgetError, "must read metric=amount, for example macs=0.5, but got 'macs'"),
        ("macs=", BudgetError, "must read metric=amount"),
        ("macs=half", BudgetError, "macs must be a number .* but got 'half'"),
        ("macs=0", BudgetError, "macs must be above 0, but got '0'"),
        ("macs=-1", BudgetError, "above 0"),
        ("macs=nan", BudgetError, "must be a number"),
        ("macs=150%", BudgetError, "at most 100% of the dense network, but got '150%'"),
        ("macs=3kB", BudgetError, "units %, k, m, g, t, but got '3kB'"),
        ("bytes=0.5B", BudgetError, "above one bytes"),
        (["macs=0.5", "macs=0.4"], BudgetError, "two budgets for 'macs': 0.5 and 0.4"),
    ],
)
def test_refused(texts, error, message):
    with pytest.raises(error, match=message):
        Budget.parse(texts)


@pytest.mark.parametrize("value", [None, True, [0.5], float("inf"), float("nan")])
def test_values_refused(value):
    with pytest.raises(BudgetError, match="budget macs"):
        Budget(macs=value)
