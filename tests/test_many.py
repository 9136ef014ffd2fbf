"""Judging plans together gives the outcomes of judging them one by one, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import BLOCKS, Generated
from torch import nn

from autoprune.data import DataSplits, Split
from autoprune.errors import PlanError
from autoprune.finetune import FinetuneSettings
from autoprune.models import build_model
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings
from autoprune.outcome import Outcome, Status
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.seeding import generator, seeded

ONE_SHOT = ObjectiveSettings(recalibrate=False, batch_size=16, precision="float32")


@pytest.fixture(autouse=True)
def _one_thread():
    """Whatever is not judged together runs on one thread: several wait for each other in networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def judged_together(objective: Objective, plans: list[Plan], threads: int = 2) -> list[Outcome]:
    assert objective.dense.ok
    torch.set_num_threads(threads)
    outcomes = objective.many(plans)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    return outcomes


def splits(shape: tuple[int, ...], classes: int, count: int = 70) -> DataSplits:
    def split(label: str, size: int) -> Split:
        draws = generator(0, label)
        x = torch.randn(size, *shape, generator=draws)
        return Split(x, torch.randint(0, classes, (size,), generator=draws))

    return DataSplits("noise", split("a", 24), split("b", 24), split("c", count), split("d", 8), classes)


def mixed_plans(objective: Objective, count: int, seed: int, *, weights: bool = True) -> list[Plan]:
    """Plans that share many decisions; some mask weights or drop inputs, some are equal, one changes nothing."""
    draws, graph = random.Random(seed), objective.graph
    plans = [Plan()]
    while len(plans) < count:
        decisions = []
        for group in graph.prunable:
            removed = draws.choice([0, 0, 1, group.size // 2, group.size - 1])
            if removed and (group.pattern is not Pattern.INPUT or draws.random() < 0.2):
                method = draws.choice(["l1_norm", "l2_norm", "random"])
                decisions.append(LayerDecision(group.name, method, group.pattern, removed / group.size))
        if weights and draws.random() < 0.3:
            layer = draws.choice(graph.weight_layers)
            decisions.append(LayerDecision(layer, "magnitude", Pattern.WEIGHT, 0.5))
        plans.append(Plan(tuple(decisions)))
    return [*plans, plans[-1], plans[0]]


def without_clock(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds={}, threads=0)


def check(
    model: nn.Module, data: DataSplits, how: ObjectiveSettings, seed: int, count: int = 6, threads: int = 2, **changes
) -> None:
    one, many = (Objective(model, data, settings=how) for _ in range(2))
    plans = [replace(plan, **changes) for plan in mixed_plans(one, count, seed)]
    single, together = [one(plan) for plan in plans], judged_together(many, plans, threads)
    for a, b in zip(single, together, strict=True):
        assert without_clock(a) == without_clock(b)
    assert [id(outcome) for outcome in many.many(plans)] == [id(outcome) for outcome in together]
    assert [id(many(plan)) for plan in plans] == [id(outcome) for outcome in together]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 5)), min_size=1, max_size=3),
    flatten=st.booleans(),
    race=st.sampled_from([None, RaceSettings(first=8)]),
    batch=st.sampled_from([5, 32, 128]),
    seed=st.integers(0, 99),
)
def test_outcomes_are_those_of_one_by_one(blocks, flatten, race, batch, seed):
    model = Generated(blocks, flatten=flatten, seed=seed)
    check(model, splits((3, 4, 4), 3), replace(ONE_SHOT, race=race, batch_size=batch), seed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_that_write_in_place(precision):
    with seeded(0):
        model = build_model("resnet20", width=0.25)
    check(model, splits((3, 16, 16), 10), replace(ONE_SHOT, precision=precision), 1, count=8)


@pytest.mark.parametrize("changes", [{"reconstruction": "mauch_yang"}, {"steps": 2}])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_plans_that_are_repaired_recalibrated_or_retrained(changes, recalibrate):
    with seeded(0):
        model = build_model("digits_cnn")
    how = replace(ONE_SHOT, recalibrate=recalibrate, finetune=FinetuneSettings(batch_size=8))
    check(model, splits((1, 8, 8), 10), how, 2, count=4, threads=1 if "steps" in changes else 2, **changes)


def test_every_stage_is_recorded_as_one_by_one():
    with seeded(0):
        model = build_model("digits_cnn")
    check(model, splits((1, 8, 8), 10), replace(ONE_SHOT, recalibrate=True, stages="all"), 3, count=4)


def test_threads_change_nothing():
    with seeded(0):
        model = build_model("resnet20", width=0.25)
    data, found = splits((3, 16, 16), 10), []
    for threads in (1, 2, 3):
        objective = Objective(model, data, settings=ONE_SHOT)
        found.append(list(map(without_clock, judged_together(objective, mixed_plans(objective, 6, 4), threads))))
    assert found[0] == found[1] == found[2]


def test_equal_plans_and_equal_networks_are_evaluated_once(monkeypatch):
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    objective = Objective(model, splits((3, 2, 2), 3), settings=replace(ONE_SHOT, batch_size=512))
    assert objective.dense.ok
    samples, calls = objective._judge.samples, []
    block = samples.block
    monkeypatch.setattr(samples, "block", lambda *args: calls.append(args) or block(*args))

    def plan(method: str, first: float, second: float) -> Plan:
        decisions = [LayerDecision(name, method, Pattern.UNIT, s) for name, s in (("1", first), ("3", second)) if s]
        return Plan(tuple(decisions))

    # The last two remove as many units of the first group as others do, by the same order.
    plans = [plan("l1_norm", 1 / 3, 0), plan("l1_norm", 0, 0.4), plan("l1_norm", 1 / 3, 0), plan("l1_norm", 0.34, 0)]
    outcomes = objective.many(plans)
    assert len(calls) == 2
    assert outcomes[0] is outcomes[2]
    assert outcomes[3].correct == outcomes[0].correct
    assert outcomes[3].plan == plans[3] != plans[0]
    objective.many([*plans, plan("l1_norm", 1 / 3, 0.4)])
    assert len(calls) == 3


def test_shared_layers_are_computed_once_for_a_block(monkeypatch):
    """Three plans that differ in the last block of ResNet-20 alone: two of its 21 convolutions run for each."""
    with seeded(0):
        model = build_model("resnet20", width=0.25)
    objective = Objective(model, splits((3, 8, 8), 10), settings=ONE_SHOT)
    groups = [group for group in objective.graph.prunable if group.pattern is Pattern.CHANNEL]
    rest = tuple(LayerDecision(group.name, "l1_norm", group.pattern, 0.5) for group in groups[:-1])
    last = groups[-1].name
    assert objective.dense.ok
    calls, conv2d = [], nn.functional.conv2d
    monkeypatch.setattr(nn.functional, "conv2d", lambda *args: calls.append(args) or conv2d(*args))
    objective.many([Plan((*rest, LayerDecision(last, "l1_norm", Pattern.CHANNEL, s))) for s in (0.25, 0.5, 0.75)])
    watching, blocks, learning = 21, 5, 1  # the first output is written to in place, which is found out once
    assert len(calls) == watching + blocks * (21 + 2 + 2) + learning


def test_bad_plans_are_refused_before_anything_is_judged(monkeypatch):
    with seeded(0):
        model = build_model("mlp", input_shape=(4,), num_classes=3, hidden=(6,))
    objective = Objective(model, splits((4,), 3), settings=ONE_SHOT)
    monkeypatch.setattr(objective._judge, "many", lambda plans: pytest.fail("judged"))
    name = objective.graph.prunable[-1].name
    with pytest.raises(PlanError, match="removes none"):
        objective.many([Plan.uniform(objective.graph), Plan((LayerDecision(name, "l1_norm", Pattern.UNIT, 1e-9),))])


class Fragile(nn.Module):
    """Fails in a given way on the samples that stand at some places, once it is narrower than it was."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = self.hidden.out_features < 4
        if narrow and self.error is not None and (x > 2).any():
            raise self.error
        out = self.out(torch.relu(self.hidden(x)))
        return out / 0 if narrow and (x > 2).any() else out


@pytest.mark.parametrize("error", [None, MemoryError(), RuntimeError("can't allocate memory: you tried 9 bytes")])
def test_failures_have_the_same_reasons(error):
    with seeded(0):
        model = Fragile(error)
    one, many = (Objective(model, splits((4,), 3, 200), settings=ONE_SHOT) for _ in range(2))
    plans = [Plan((LayerDecision("hidden", "l1_norm", Pattern.UNIT, s),)) for s in (0.2, 0.5, 0.8)]
    single, together = [one(plan) for plan in plans], judged_together(many, plans)
    assert [outcome.status for outcome in together] == [Status.OK, Status.FAILED, Status.FAILED]
    assert [without_clock(a) == without_clock(b) for a, b in zip(single, together, strict=True)] == [True] * 3


def test_faults_are_not_hidden():
    with seeded(0):
        model = Fragile(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    objective = Objective(model, splits((4,), 3), settings=ONE_SHOT)
    plans = [Plan((LayerDecision("hidden", "l1_norm", Pattern.UNIT, s),)) for s in (0.2, 0.8)]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        judged_together(objective, plans)


def test_an_emptied_layer_fails_alone():
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    empty = Plan((LayerDecision("1", "l1_norm", Pattern.UNIT, 0.9), LayerDecision("3", "random", Pattern.WEIGHT, 0.95)))
    reasons = set()
    for seed in range(6):
        objective = Objective(model, splits((3, 2, 2), 3), settings=replace(ONE_SHOT, seed=seed))
        fine, other = objective.many([Plan.uniform(objective.graph), empty])
        assert fine.ok
        reasons.add(other.reason)
    assert "layer '3' is left without a weight; lower its sparsity" in reasons
