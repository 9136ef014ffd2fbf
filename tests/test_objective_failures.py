"""What an objective cannot judge: every failure has a reason, every mistake of the user an error."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from autoprune.costs import LatencySettings
from autoprune.errors import ModelError, SettingsError, UnknownNameError
from autoprune.finetune import FinetuneSettings
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings
from autoprune.outcome import Status
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.seeding import seeded
from autoprune.tracing import trace

pytestmark = pytest.mark.usefixtures("one_thread")


def _graph(model, data):
    return trace(model, data.example(), prove=False)


def test_divergence_fails_with_its_reason(model, data):
    settings = ObjectiveSettings(finetune=FinetuneSettings(steps=30, lr=1e6))
    objective = Objective(model, data, settings=settings)
    outcome = objective(Plan.uniform(objective.graph))
    assert outcome.status is Status.FAILED
    assert outcome.accuracy is None
    assert "loss" in outcome.reason or "not finite" in outcome.reason
    assert outcome.cost.macs < objective.dense.cost.macs
    assert json.loads(json.dumps(outcome.to_dict()))["status"] == "failed"
    assert objective(Plan(steps=0)).ok


class Fragile(nn.Module):
    """Breaks in a given way once it is narrower than it was."""

    def __init__(self, how: object) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 8), nn.Linear(8, 10)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.hidden(x.flatten(1)))
        if x.shape[1] < 8 and torch.is_inference_mode_enabled():
            self.how(x)  # type: ignore[operator]
        return self.out(x)


def _raise(error: BaseException):
    def how(x: torch.Tensor) -> None:
        raise error

    return how


def _poison(x: torch.Tensor) -> None:
    x.mul_(torch.nan)


CPU_MEMORY = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\nmore"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (_poison, "the loss is NaN"),
        (_raise(MemoryError()), "out of memory: MemoryError"),
        (_raise(RuntimeError(CPU_MEMORY)), "out of memory: .*can't allocate memory: you tried 9 bytes$"),
        (_raise(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB")), "out of memory: CUDA out of memory"),
        (_raise(torch.linalg.LinAlgError("not positive-definite")), "a matrix could not be factored: not positive"),
    ],
)
def test_failures_carry_their_reason(data, how, reason):
    objective = Objective(Fragile(how), data, graph=_graph(Fragile(how), data))
    outcome = objective(Plan.uniform(objective.graph))
    assert outcome.status is Status.FAILED
    assert re.search(reason, outcome.reason)
    assert outcome.correctness() is None
    assert objective.dense.ok


def test_faults_of_the_program_are_not_hidden(data):
    how = _raise(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    objective = Objective(Fragile(how), data, graph=_graph(Fragile(how), data))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        objective(Plan.uniform(objective.graph))


def test_an_emptied_layer_fails_with_its_name(data):
    """A random mask can take every weight of the units that stay."""
    with seeded(0):
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 10)
        )
    reasons = []
    for seed in range(30):
        objective = Objective(network, data, settings=ObjectiveSettings(seed=seed))
        units = Plan.uniform(objective.graph, sparsity=0.95).decisions
        plan = Plan((*units, LayerDecision("3", "random", Pattern.WEIGHT, 0.9)))
        objective.cost(plan)
        outcome = objective(plan)
        reasons += [outcome.reason] if outcome.status is Status.FAILED else []
    assert 5 < len(reasons) < 30
    assert set(reasons) == {"layer '3' is left without a weight; lower its sparsity"}


def test_a_dense_network_that_cannot_be_judged_is_the_users_error(data):
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    before = Objective(network, data)
    with torch.no_grad():
        network[3].bias[0] = torch.nan
    with pytest.raises(ModelError, match=r"'3\.bias' of the network holds NaN or infinity"):
        Objective(network, data)
    assert before.dense.ok  # it holds a copy
    overflows = nn.Sequential(network[:3], nn.Linear(8, 10))
    overflows[1].weight.data.fill_(3e38)
    objective = Objective(overflows, data, graph=_graph(overflows, data))
    with pytest.raises(ModelError, match="the dense network cannot be judged: the loss is"):
        objective(Plan.uniform(objective.graph))


def test_a_network_that_returns_no_logits_is_refused(data):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.body(x), x

    objective = Objective(Pair(), data)
    with pytest.raises(ModelError, match=r"one tensor of logits .* but returned tuple; wrap it in a module"):
        objective(Plan.uniform(objective.graph))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"precision": "float23"}, UnknownNameError, "did you mean 'float32'"),
        ({"stages": "some"}, UnknownNameError, "unknown setting of stages 'some'"),
        ({"combine": "median"}, UnknownNameError, "unknown combination 'median'"),
        ({"batch_size": 0}, SettingsError, "batch_size must be a whole number from 1 on, but got 0"),
        ({"calibration_samples": 2.5}, SettingsError, "calibration_samples must be a whole number"),
        ({"seed": -1}, SettingsError, "seed must be a whole number from 0 on, but got -1"),
        ({"recalibrate": "yes"}, SettingsError, "'recalibrate' must be bool, but got 'yes'"),
        ({"finetune": {"steps": 3}}, SettingsError, "'finetune' must be FinetuneSettings"),
        ({"race": True}, SettingsError, "'race' must be RaceSettings or None, but got True"),
        ({"latency": 1}, SettingsError, "'latency' must be LatencySettings or None"),
    ],
)
def test_settings_are_checked(wrong, error, message):
    with pytest.raises(error, match=message):
        ObjectiveSettings(**wrong)
    json.dumps(ObjectiveSettings(race=RaceSettings(), latency=LatencySettings()).to_dict())
