"""A trained ResNet-20 on CIFAR-10 itself: what repair and search are worth where accuracy means something.

The network is what ``autoprune train --model resnet20 --data cifar10 --epochs 30`` stored.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import autoprune.envs
from autoprune import Budget, Objective, ObjectiveSettings, load, load_data
from autoprune.artifacts import read_network
from autoprune.envs import BudgetClip, make_task
from autoprune.search import search

pytestmark = pytest.mark.slow

BASE = Path(__file__).parent / "assets" / "resnet20_cifar10"
QUICK = {"calibration": 2000}


@pytest.fixture(scope="module")
def objective(real_data):
    data = load_data("cifar10", data_dir=real_data, **QUICK)
    return Objective(load(BASE), data, settings=ObjectiveSettings(recalibrate=False))


def test_the_stored_network_is_as_accurate_as_it_was(objective):
    stored = read_network(BASE).metrics
    for split in ("validation", "test"):
        found = objective.confirm(objective.build(autoprune.Plan(steps=0)), split).accuracy
        assert found == pytest.approx(stored[split]["accuracy"], abs=0.001)


def test_repair_is_worth_tens_of_points_and_a_search_more(objective):
    accuracies = {}
    for repair in ("none", "mauch_yang"):
        space = autoprune.SearchSpace.from_graph(objective.graph, max_sparsity=0.8, reconstruction=repair)
        result = search(objective, budget="macs=0.5", space=space, trials=12, confirm=False)
        accuracies[repair] = {row.name: row.accuracy for row in result.rows}
        assert Budget(macs=0.5).fits(result.best.cost, objective.dense_cost)
    plain, repaired = accuracies["none"], accuracies["mauch_yang"]
    assert repaired["uniform"] > plain["uniform"] + 0.1
    assert repaired["best found"] >= repaired["greedy"] > repaired["uniform"] + 0.02
    assert repaired["best found"] > repaired["dense"] - 0.2


def test_an_episode_is_paid_what_the_objective_says(objective):
    task = make_task(objective=objective, budget="macs=0.5", max_sparsity=0.8, reconstruction="mauch_yang")
    env = BudgetClip(gymnasium.make("autoprune/Layerwise-v0", task=task))
    env.reset(seed=0)
    draws, done = np.random.default_rng(0), False
    while not done:
        seen, reward, done, _, info = env.step(draws.uniform(-1, 1, 1).astype(np.float32))
        assert env.observation_space.contains(seen)
    assert info["cost"]["macs"] <= 0.5
    plan = autoprune.Plan.from_dict(info["plan"])
    again = Objective(load(BASE), objective.data, settings=objective.settings)
    assert reward == again(plan).accuracy
