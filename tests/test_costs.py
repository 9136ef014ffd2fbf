"""Costs against hand-worked values, the graph's own count, real slim networks and real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.applied import slim
from autoprune.artifacts import named_tensors, write_tensors
from autoprune.costs import COSTS, Cost, CostModel, LatencySettings, measure_latency
from autoprune.costs.file_bytes import digits
from autoprune.deploy import deployed
from autoprune.errors import BudgetError, SettingsError, UnknownNameError
from autoprune.graph import LayerGraph
from autoprune.models import build_model
from autoprune.tracing import trace

NETWORKS = {
    "lenet5": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "vgg11_bn": (3, 32, 32),
}


class Parts(nn.Module):
    """Depthwise, grouped and tied layers, a long name, a buffer that torch does not save, and parameters in no slot."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.bündel = nn.Conv2d(12, 8, 1)
        self.hidden = nn.Linear(8 * 16, 11)
        self.again = nn.Linear(11, 11, bias=False)
        self.twin = nn.Linear(11, 11, bias=False)
        self.twin.weight = self.again.weight
        self.out = nn.Linear(11, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("scratch", torch.zeros(5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bündel(torch.relu(self.depth(torch.relu(self.norm(self.a(x))))))
        x = torch.relu(self.hidden(nn.functional.avg_pool2d(x, 2).flatten(1)))
        return self.out(torch.relu(self.twin(torch.relu(self.again(x))))) * self.scale


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[nn.Module, LayerGraph, torch.Tensor]]:
    found: dict[str, tuple[nn.Module, LayerGraph, torch.Tensor]] = {}
    for name, shape in NETWORKS.items():
        options = {"width": 0.25} if name in ("mobilenet_v2", "vgg11_bn") else {}
        model = build_model(name, **options).eval()
        example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        found[name] = (model, trace(model, example, prove=False), example)
    model = Parts().eval()
    example = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found["parts"] = (model, trace(model, example, prove=False), example)
    return found


ALL = [*NETWORKS, "parts"]


def _kept(graph: LayerGraph, share: float) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    groups = [g for g in graph.prunable if g.pattern != "input"]
    removed = {g.name: g.removed(share * ((i % 3) + 1) / 3) for i, g in enumerate(groups)}
    kept = {g.name: torch.arange(removed[g.name], g.size) for g in groups if removed[g.name]}
    return kept, removed


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_analytic_cost_is_that_of_the_slim_network(name, share, traced, tmp_path: Path):
    model, graph, example = traced[name]
    kept, removed = _kept(graph, share)
    cost = CostModel(model, graph).cost(removed)
    small = slim(model, graph, kept)

    assert cost.params == sum(p.numel() for p in small.parameters())
    write_tensors(tmp_path / "model.safetensors", named_tensors(small))
    assert cost.bytes == (tmp_path / "model.safetensors").stat().st_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(example)
    assert cost.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ALL)
def test_layers_add_up_to_the_network(name, traced):
    model, graph, _ = traced[name]
    _, removed = _kept(graph, 0.6)
    costs = CostModel(model, graph)
    for plan in ({}, removed):
        layers, total = costs.layers(plan), costs.cost(plan)
        assert layers == graph.layer_costs(plan)
        assert total.params == sum(p for p, _ in layers.values())
        assert total.macs == sum(m for _, m in layers.values()) + graph.fixed_macs


@pytest.mark.parametrize("name", ALL)
def test_more_removed_never_costs_more(name, traced):
    model, graph, _ = traced[name]
    costs, before = CostModel(model, graph), None
    for share in np.linspace(0, 0.99, 23):
        cost = costs.cost({g.name: g.removed(float(share)) for g in graph.prunable})
        if before is not None:
            assert cost.params <= before.params
            assert cost.macs <= before.macs
            assert cost.bytes <= before.bytes
        before = cost
    assert before is not None
    assert before.params < costs.cost().params


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("lenet300_100", 266_610, 266_200), ("lenet5", 431_080, 2_293_000)]
)
def test_golden_values(name, params, macs):
    model = build_model(name)
    cost = CostModel(model, trace(model, torch.zeros(2, 1, 28, 28), prove=False)).cost()
    assert (cost.params, cost.macs) == (params, macs)


def test_dense_has_ratio_one_and_masks_save_parameters_alone(traced):
    model, graph, _ = traced["lenet5"]
    costs = CostModel(model, graph)
    dense = costs.cost()
    assert dense.ratios(dense) == {"params": 1.0, "macs": 1.0, "bytes": 1.0}
    masked = costs.cost(zeros=1000)
    assert (masked.params, masked.macs, masked.bytes) == (dense.params - 1000, dense.macs, dense.bytes)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10**17), min_size=1))
def test_digits(values):
    assert digits(np.array(values, dtype=np.int64)).tolist() == [len(str(v)) for v in values]


def test_cost_goes_to_json_and_back():
    cost = Cost(10, 20, 30, 0.5)
    assert Cost.from_dict(cost.to_dict()) == cost
    assert cost.value("latency_ms") == 0.5
    with pytest.raises(UnknownNameError, match="unknown cost metric 'mac'; did you mean 'macs'"):
        cost.value("mac")
    with pytest.raises(BudgetError, match="latency of this network was not measured"):
        Cost(1, 2, 3).value("latency_ms")
    with pytest.raises(BudgetError, match="must hold whole numbers"):
        Cost.from_dict({"params": "many"})
    with pytest.raises(BudgetError, match="latency_ms of a cost must be a number"):
        Cost.from_dict({"params": 1, "macs": 1, "bytes": 1, "latency_ms": "fast"})
    assert set(COSTS) == set(Cost.__dataclass_fields__)


def test_latency_states_how_it_was_measured():
    threads = torch.get_num_threads()
    model = deployed(build_model("digits_cnn"))
    small = measure_latency(model, torch.zeros(1, 1, 8, 8), LatencySettings(batch=1, threads=1, repeats=5))
    large = measure_latency(model, torch.zeros(1, 1, 8, 8), LatencySettings(batch=256, threads=1, repeats=5))
    assert 0 < small.median_ms < large.median_ms
    assert small.iqr_ms >= 0
    assert "batch 256, 1 threads, 5 x" in str(large)
    assert "channels-last" in str(large)
    assert torch.get_num_threads() == threads
    with pytest.raises(SettingsError, match="'repeats' must be a whole number from 3 on, but got 1"):
        LatencySettings(repeats=1)
    with pytest.raises(SettingsError, match="'batch'"):
        LatencySettings(batch=True)
