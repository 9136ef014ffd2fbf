"""The objective on a real network: one door, equal plans give equal outcomes."""

from __future__ import annotations

import copy
import gc
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune.artifacts import network_digest
from autoprune.candidates import Candidates
from autoprune.costs import LatencySettings
from autoprune.errors import PlanError, UnknownNameError
from autoprune.evaluation import evaluate
from autoprune.finetune import FinetuneSettings
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings, RaceState
from autoprune.outcome import Form, Outcome, Status
from autoprune.plan import LayerDecision, Pattern, Plan

pytestmark = pytest.mark.usefixtures("one_thread")

RETRAIN = FinetuneSettings(steps=12, lr=0.02, report_every=4)
ONE_SHOT = ObjectiveSettings(recalibrate=False)


@pytest.fixture(scope="module")
def plain(model, data) -> Objective:
    """Nothing but pruning and judging."""
    return Objective(model, data, settings=ONE_SHOT)


@pytest.fixture(scope="module")
def retraining(model, data) -> Objective:
    return Objective(model, data, settings=ObjectiveSettings(finetune=RETRAIN))


def without_clock(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds={})


def mixed(objective: Objective) -> Plan:
    """Another sparsity and method for each group."""
    methods = ("l1_norm", "fpgm", "taylor_fo", "random")
    return Plan(
        tuple(
            LayerDecision(g.name, methods[i % 4], g.pattern, 0.2 + 0.15 * (i % 4))
            for i, g in enumerate(objective.graph.prunable)
        )
    )


def test_dense_network_is_judged_as_it_is(plain, model, data):
    found = evaluate(model, data.validation)
    assert plain.dense.accuracy == found.accuracy > 0.9
    assert plain.dense.loss == pytest.approx(found.loss, rel=1e-4)
    assert plain.dense.stages == {"dense": found.accuracy}
    assert plain.dense.ratios == {"params": 1.0, "macs": 1.0, "bytes": 1.0}
    assert plain(Plan()).accuracy == plain.dense.accuracy
    zero = Plan.uniform(plain.graph, sparsity=0.0)
    assert without_clock(plain(zero)) == without_clock(replace(plain.dense, plan=zero))


def test_one_shot_outcome_is_that_of_the_built_network(plain, data):
    plan = mixed(plain)
    outcome, built = plain(plan), plain.build(plan)
    found = evaluate(built.module, data.validation)
    assert outcome.status is Status.OK
    assert outcome.form is Form.REMOVED
    assert outcome.accuracy == found.accuracy
    assert outcome.loss == pytest.approx(found.loss, rel=1e-4)
    assert outcome.stages == {"dense": plain.dense.accuracy, "pruned": found.accuracy}
    assert outcome.images == len(data.validation)
    bits = outcome.correctness()
    assert bits is not None
    with torch.no_grad():
        right = built.module(data.validation.inputs()).argmax(1) == data.validation.y
    assert torch.equal(bits, right)


def test_costs_and_layers_of_an_outcome_add_up(plain):
    plan = mixed(plain)
    outcome, module = plain(plan), plain.build(plan).module
    assert outcome.cost == plain.cost(plan)
    assert outcome.cost.params == sum(p.numel() for p in module.parameters())
    assert outcome.ratios["macs"] == outcome.cost.macs / plain.dense.cost.macs < 1
    assert {line.name: line.removed for line in outcome.layers} == plain.removed(plan)
    for line in outcome.layers:
        assert line.sparsity == line.removed / line.size
        made = dict(module.named_modules())[line.name]
        assert line.params == sum(p.numel() for p in made.parameters())
        assert made.weight.shape[0] == line.size - line.removed


def test_the_callers_network_is_never_changed(model, data):
    mine = copy.deepcopy(model).train()
    mine.conv1[0].weight.requires_grad_(False)
    before = {name: (id(t), t.clone(), t.requires_grad) for name, t in mine.state_dict(keep_vars=True).items()}
    settings = ObjectiveSettings(finetune=replace(RETRAIN, steps=2, distill_weight=0.5))
    objective = Objective(mine, data, settings=settings)
    outcome = objective(replace(mixed(objective), reconstruction="mauch_yang"))
    assert outcome.ok
    assert mine.training
    for name, tensor in mine.state_dict(keep_vars=True).items():
        identity, value, flag = before[name]
        assert (id(tensor), tensor.requires_grad) == (identity, flag)
        assert torch.equal(tensor, value)
        assert tensor.grad is None
    assert not objective.build(mixed(objective)).module.conv1[0].weight.requires_grad


def test_dense_network_inside_is_not_changed_either(retraining, model):
    plan = replace(mixed(retraining), reconstruction="mauch_yang")
    before = network_digest(retraining._candidates.model)
    retraining(plan)
    retraining.build(plan)
    assert network_digest(retraining._candidates.model) == before == network_digest(model)


@pytest.mark.parametrize("pattern", ["structured", "weight"])
def test_same_plan_same_outcome_and_same_bits(model, data, pattern):
    settings = ObjectiveSettings(finetune=RETRAIN, seed=5)
    one, other = Objective(model, data, settings=settings), Objective(model, data, settings=settings)
    plan = mixed(one) if pattern == "structured" else Plan.uniform(one.graph, method="magnitude", pattern="weight")
    other(Plan.uniform(other.graph, sparsity=0.3))  # what was judged before plays no part
    first, second = one(plan), other(plan)
    assert without_clock(first) == without_clock(second)
    built = one.build(plan)
    assert network_digest(built.module) == network_digest(other.build(plan).module)
    assert one.confirm(built).accuracy == first.accuracy
    third = Objective(model, data, settings=replace(settings, seed=6))
    assert network_digest(third.build(plan).module) != network_digest(built.module)


def test_all_four_stages_are_recorded(retraining, data):
    plan = mixed(retraining)
    outcome = retraining(plan)
    assert list(outcome.stages) == ["dense", "pruned", "recalibrated", "retrained"]
    assert outcome.accuracy == outcome.stages["retrained"]
    assert outcome.steps == 12
    assert outcome.stages["retrained"] > outcome.stages["pruned"]
    bare = Objective(retraining._candidates.model, data, settings=ONE_SHOT)(plan)
    assert outcome.stages["pruned"] == bare.accuracy
    recalibrated = Objective(retraining._candidates.model, data)(plan)
    assert list(recalibrated.stages) == ["dense", "recalibrated"]
    assert outcome.stages["recalibrated"] == recalibrated.accuracy
    assert set(outcome.seconds) == {"prune", "recalibrate", "retrain", "evaluate", "measure", "total"}
    assert sum(v for k, v in outcome.seconds.items() if k != "total") <= outcome.seconds["total"]


def test_stages_can_be_left_out(model, data):
    last = Objective(model, data, settings=ObjectiveSettings(finetune=RETRAIN, stages="final"))
    assert list(last(mixed(last)).stages) == ["dense", "retrained"]
    both = Objective(model, data, settings=ObjectiveSettings(stages="all"))
    assert list(both(mixed(both)).stages) == ["dense", "pruned", "recalibrated"]


def test_a_plan_s_own_steps_go_first(retraining):
    plan = replace(mixed(retraining), steps=0)
    assert retraining(plan).steps == 0
    assert retraining(replace(plan, steps=3)).steps == 3
    dense = retraining(Plan(steps=3))
    assert list(dense.stages) == ["dense", "retrained"]
    assert dense.cost == retraining.dense.cost


def test_repair_and_distillation_reach_the_network(model, data, plain):
    plan = Plan.uniform(plain.graph, sparsity=0.4)
    repaired = plain(replace(plan, reconstruction="mauch_yang"))
    assert repaired.loss < plain(plan).loss
    digests = set()
    for weight in (0.0, 0.9):
        tuned = ObjectiveSettings(finetune=replace(RETRAIN, steps=3, distill_weight=weight))
        digests.add(network_digest(Objective(model, data, settings=tuned).build(plan).module))
    assert len(digests) == 2


def test_masked_weights_are_labelled_and_stay_zero(retraining):
    plan = Plan.uniform(retraining.graph, method="magnitude", pattern="weight", sparsity=0.75)
    outcome, built = retraining(plan), retraining.build(plan)
    assert outcome.form is Form.MASKED
    assert outcome.ratios["macs"] == outcome.ratios["bytes"] == 1.0
    gone = 0
    for line in outcome.layers:
        weight = dict(built.module.named_parameters())[f"{line.name}.weight"]
        assert int((weight == 0).sum()) == line.removed == round(line.size * 0.75)
        gone += line.removed
    assert outcome.cost.params == retraining.dense.cost.params - gone
    assert retraining.latency(plan) == retraining.latency(Plan())


def test_masks_and_removal_in_one_plan(plain, data):
    units = Plan.uniform(plain.graph, sparsity=0.5).decisions
    weights = Plan.uniform(plain.graph, method="magnitude", pattern="weight", sparsity=0.5).decisions
    plan = Plan((*units, *weights))
    outcome, module = plain(plan), plain.build(plan).module
    assert outcome.form is Form.MASKED
    assert outcome.cost.bytes == plain.cost(Plan(units)).bytes
    names = {f"{d.layer}.weight" for d in weights}
    zeros = sum(int((p == 0).sum()) for name, p in module.named_parameters() if name in names)
    assert outcome.cost.params == sum(p.numel() for p in module.parameters()) - zeros
    assert outcome.accuracy == evaluate(module, data.validation).accuracy


def test_outcomes_are_kept_and_go_to_json_and_back(plain):
    plan = mixed(plain)
    assert plain(plan) is plain(plan)
    outcome = plain(plan)
    text = json.dumps(outcome.to_dict(), allow_nan=False)
    assert Outcome.from_dict(json.loads(text)) == outcome
    assert Outcome.from_dict({**json.loads(text), "from_the_future": 1}) == outcome
    with pytest.raises(PlanError, match="this is not an outcome: KeyError"):
        Outcome.from_dict({"plan": plan.to_dict()})


def test_reports_come_from_the_validation_split_and_can_stop(model, data):
    objective = Objective(model, data, settings=ObjectiveSettings(finetune=RETRAIN))
    plan, seen = mixed(objective), []

    def stop_at(limit: int):
        def report(step: int, accuracy: float) -> bool:
            seen.append((step, accuracy))
            return step >= limit

        return report

    early = objective(plan, report=stop_at(0))
    assert (early.status, early.steps) == (Status.STOPPED, 0)
    assert early.reason == "stopped by its report before retraining"
    assert list(early.stages) == ["dense", "pruned", "recalibrated"]
    later = objective(plan, report=stop_at(8))
    assert (later.status, later.steps) == (Status.STOPPED, 8)
    assert later.reason == "stopped by its report after 8 of 12 steps"
    assert [step for step, _ in seen] == [0, 0, 4, 8]
    assert later.accuracy == seen[-1][1]
    assert later.correct == ""
    full = objective(plan, report=stop_at(100))
    assert (full.status, full.steps) == (Status.OK, 12)
    assert full.accuracy == seen[-1][1]
    quiet = Objective(model, data, settings=ObjectiveSettings(finetune=RETRAIN))(plan)
    assert without_clock(full) == without_clock(quiet)


def test_a_race_stops_the_hopeless_and_spares_the_best(model, data, plain):
    settings = replace(ONE_SHOT, race=RaceSettings(first=16))
    objective, state = Objective(model, data, settings=settings), RaceState()
    light, heavy = (Plan.uniform(objective.graph, sparsity=s) for s in (0.1, 0.8))
    best = objective(light, race=state)
    assert best.ok
    state.update(best)
    hopeless = objective(heavy, race=state)
    assert hopeless.status is Status.STOPPED
    assert hopeless.images < len(data.validation)
    assert "cannot match the best plan: rejected after" in hopeless.reason
    full = plain(heavy)
    bits = full.correctness()
    assert bits is not None
    seen = bits[objective._judge.samples.order[: hopeless.images]]
    assert hopeless.accuracy == seen.double().mean().item()
    state.update(hopeless)
    assert len(state) == 1
    assert objective(light, race=state) is best
    again = Objective(model, data, settings=settings)(light, race=state)
    assert without_clock(again) == without_clock(best)
    assert objective(heavy).ok  # without anyone to beat it is judged to the end
    assert plain.settings.race is None
    assert Objective(model, data, settings=ONE_SHOT)(heavy, race=state).ok  # racing is off there


def test_plans_that_do_not_fit_are_refused_before_any_work(plain):
    good = Plan.uniform(plain.graph).decisions[0]
    cases = [
        (replace(good, layer="conv9"), UnknownNameError, "unknown group or layer 'conv9'"),
        (replace(good, method="l1_nrom"), UnknownNameError, "did you mean 'l1_norm'"),
        (replace(good, sparsity=0.001), PlanError, "removes none of its 16 units"),
        (replace(good, pattern=Pattern.UNIT), PlanError, "have pattern 'channel'"),
        (LayerDecision("fc2", "l1_norm", Pattern.UNIT, 0.5), PlanError, "must stay whole: it is the network's output"),
    ]
    for decision, error, message in cases:
        for ask in (plain, plain.cost, plain.removed, plain.build, plain.latency):
            with pytest.raises(error, match=message):
                ask(Plan((decision,)))


def test_latency_is_measured_where_it_is_asked_for(model, data):
    settings = replace(ONE_SHOT, latency=LatencySettings(batch=4, threads=1, repeats=3))
    objective = Objective(model, data, settings=settings)
    outcome = objective(Plan.uniform(objective.graph, sparsity=0.9))
    assert outcome.cost.latency_ms == objective.latency(outcome.plan)
    assert outcome.ratios["latency_ms"] == outcome.cost.latency_ms / objective.dense.cost.latency_ms
    assert objective.cost(outcome.plan).latency_ms is None
    assert "batch 4, 1 threads, 3 x" in outcome.latency
    assert Objective(model, data, settings=ONE_SHOT)(outcome.plan).latency == ""


def test_confirm_is_in_float32_on_the_split_that_is_named(plain, data):
    plan = mixed(plain)
    built = plain.build(plan)
    test = plain.confirm(plan, "test")
    assert test.accuracy == evaluate(built.module, data.test).accuracy
    assert test.images == len(data.test)
    assert plain.confirm(built).accuracy == plain(plan).accuracy
    with pytest.raises(UnknownNameError, match="unknown split 'tset'; did you mean 'test'"):
        plain.confirm(built, "tset")


def test_scores_are_shared_through_the_cache_folder(model, data, tmp_path):
    for _ in range(2):
        objective = Objective(model, data, settings=ONE_SHOT, cache_dir=tmp_path)
        outcome = objective(Plan.uniform(objective.graph, method="taylor_fo"))
        assert outcome.ok
        assert list(tmp_path.glob("*.safetensors"))
    assert without_clock(outcome) == without_clock(Objective(model, data, settings=ONE_SHOT)(outcome.plan))


def test_statistics_are_collected_once_each(model, data, monkeypatch):
    from autoprune import candidates

    calls = []
    real = candidates.collect
    monkeypatch.setattr(candidates, "collect", lambda *a, **k: calls.append(a[3]) or real(*a, **k))
    objective = Objective(model, data, settings=ONE_SHOT)
    for method in ("l1_norm", "taylor_fo", "l2_norm", "taylor_fo"):
        for reconstruction in ("none", "mauch_yang"):
            objective(Plan.uniform(objective.graph, method=method, reconstruction=reconstruction))
    assert sorted(len(needs) for needs in calls) == [1, 1]


def test_memory_is_flat_over_candidates(model, data):
    objective = Objective(model, data, settings=ObjectiveSettings(recalibrate=False))
    objective.dense  # noqa: B018
    counts = []
    for place in range(40):
        objective(Plan.uniform(objective.graph, sparsity=0.1 + 0.02 * place))
        objective.build(Plan.uniform(objective.graph, sparsity=0.3, method="fpgm"))
        if place in (9, 39):
            gc.collect()
            counts.append(sum(issubclass(type(o), nn.Module | torch.Tensor) for o in gc.get_objects()))
    assert counts[0] == counts[1]


def test_calibration_can_be_shortened(model, data):
    objective = Objective(model, data, settings=ObjectiveSettings(calibration_samples=32))
    assert isinstance(objective._candidates, Candidates)
    assert len(objective._candidates.calibration) == 32
