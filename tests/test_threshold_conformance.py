"""The threshold controllers, by the checks that are shipped for authors of controllers, with fits that are quick."""

from __future__ import annotations

import pytest

from autoprune.search import search
from autoprune.search.testing import CHECKS, small_problem
from autoprune.search.threshold import THRESHOLD

QUICK = {
    "threshold_mlp": {"fit_steps": 12, "hidden": 8, "members": 2},
    "threshold_mlp_direct": {},
}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in THRESHOLD for check in CHECKS])
def test_a_controller_does_what_every_controller_must(name, check):
    CHECKS[check](name, QUICK[name])


def test_the_choice_repeats_and_the_search_ends():
    problem, space = small_problem()
    options = QUICK["threshold_mlp"] | {"patience": 2}
    result = search(problem, budget="macs=0.5", controller="threshold_mlp", trials=60, space=space, options=options)
    assert result.exhausted
    assert len(result.trials) < 60


def test_workers_try_different_plans():
    problem, space = small_problem()
    options = QUICK["threshold_mlp"]
    result = search(
        problem, budget="macs=0.5", controller="threshold_mlp", trials=6, space=space, options=options, workers=2
    )
    plans = [t.plan for t in result.trials if not t.baseline]
    assert len(set(plans)) == len(plans) == 6
