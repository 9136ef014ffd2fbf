"""Every controller, by the checks that are shipped for authors of new ones."""

from __future__ import annotations

import pytest

from autoprune.errors import SettingsError, UnknownNameError
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, search
from autoprune.search.rl import RL
from autoprune.search.testing import CHECKS
from autoprune.search.threshold import THRESHOLD

QUICK = ("stays_within_trials", "records_failures")  # of the Gaussian process, which takes seconds a proposal


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, marks=pytest.mark.slow if name == "gp" and check not in QUICK else ())
        for name in CONTROLLERS
        if name not in RL  # tests/test_rl_conformance.py, tests/test_rl_policy.py
        if name not in THRESHOLD  # tests/test_threshold_conformance.py
        for check in CHECKS
    ],
)
def test_every_controller(name, check):
    CHECKS[check](name)


def test_registry_says_what_each_is():
    for name, controller in CONTROLLERS.items():
        assert controller.name == name
        assert controller.description.endswith(".")
        assert controller.source


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"controller": "tpee"}, UnknownNameError, "unknown controller 'tpee'; did you mean 'tpe'"),
        ({"controller": "cmaes", "budget": None, "pareto": ("macs",)}, SettingsError, "'cmaes' searches one objective"),
        ({"options": {"jiont": True}}, UnknownNameError, "unknown option of controller 'tpe' 'jiont'; did you mean"),
        ({"handling": "clip"}, UnknownNameError, "unknown handling 'clip'"),
        ({"trials": -1}, SettingsError, "trials must be a whole number from 0 on, but got -1"),
        ({"trials": 2.5}, SettingsError, "trials must be a whole number from 0 on, but got 2.5"),
        ({"workers": 0}, SettingsError, "workers must be a whole number from 1 on, but got 0"),
        ({"timeout_s": 0}, SettingsError, "timeout_s must be above 0 or None, but got 0"),
        ({"budget": None}, SettingsError, "a search needs a budget"),
        ({"pareto": ("mac",)}, UnknownNameError, "unknown cost metric 'mac'; did you mean 'macs'"),
        ({"pareto": ("macs", "macs")}, SettingsError, "one or two different cost metrics"),
        ({"pruner": "medain"}, UnknownNameError, "unknown pruner 'medain'; did you mean 'median'"),
        ({"pruner": "median", "pareto": ("macs",)}, SettingsError, "'median' compares one objective"),
        ({"budget": "latency_ms=0.5", "workers": 2}, SettingsError, "use workers=1, not 2"),
    ],
)
def test_impossible_searches_are_refused_before_any_work(options, error, message):
    problem = KnownAnswer(3)
    with pytest.raises(error, match=message):
        search(problem, **{"budget": "macs=0.5", "trials": 1, **options})
    assert not problem.calls


def test_a_grid_that_is_too_large_is_refused():
    with pytest.raises(SettingsError, match="points, more than 20,000; give fewer levels"):
        search(KnownAnswer(20), budget="macs=0.5", controller="grid", trials=1)


def test_grid_tries_every_point_once_and_ends():
    from autoprune.search.testing import small_problem

    problem, _ = small_problem()
    from autoprune.space import SearchSpace

    space = SearchSpace.from_graph(problem.graph, levels=3)
    result = search(problem, budget="macs=0.5", controller="grid", trials=100, space=space, handling="reject")
    tried = [tuple(t.values.values()) for t in result.trials if not t.baseline]
    assert len(tried) == len(set(tried)) == 27
    assert result.exhausted
