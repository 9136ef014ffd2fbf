"""Structural truth, over generated networks: masking and removing agree, costs are exact, the model is unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import BLOCKS, Generated, example
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune import trace
from autoprune.applied import masked, slim
from autoprune.graph import LayerGraph
from autoprune.plan import Pattern

BLOCK_LISTS = st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 5)), min_size=1, max_size=4)


def macs_of(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2 // len(x)


def random_kept(graph: LayerGraph, data: st.DataObject) -> dict[str, torch.Tensor]:
    kept = {}
    for group in graph.prunable:
        count = data.draw(st.integers(1, group.size), label=group.name)
        if count < group.size:
            order = torch.randperm(group.size, generator=torch.Generator().manual_seed(count))
            kept[group.name] = order[:count].sort().values
    return kept


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(blocks=BLOCK_LISTS, flatten=st.booleans(), seed=st.integers(0, 99), data=st.data())
def test_masking_and_removing_agree(blocks, flatten, seed, data) -> None:
    model = Generated(blocks, flatten=flatten, seed=seed).double().eval()
    before = copy.deepcopy(model.state_dict())
    x = example().double()
    graph = trace(model, x)
    kept = random_kept(graph, data)
    small, zeroed = slim(model, graph, kept), masked(model, graph, kept)
    with torch.no_grad():
        torch.testing.assert_close(small(x), zeroed(x), rtol=1e-10, atol=1e-10)
    removed = {name: graph.groups[name].size - len(index) for name, index in kept.items()}
    params, macs = graph.cost(removed)
    assert params == sum(p.numel() for p in small.parameters())
    counted = {n for n in kept if graph.groups[n].pattern is not Pattern.INPUT}
    if counted == set(kept):
        assert macs == macs_of(small, x)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(blocks=BLOCK_LISTS, flatten=st.booleans())
def test_groups_are_consistent_and_costs_fall(blocks, flatten) -> None:
    graph = trace(Generated(blocks, flatten=flatten, seed=1), example(), prove=False)
    taken: dict[tuple[str, int], set[int]] = {}
    for group in graph.groups.values():
        for slot in group.slots:
            positions = slot.positions.reshape(-1).tolist()
            assert slot.positions.shape[0] == group.size
            assert len(set(positions)) == len(positions)
            assert max(positions) < graph.shapes[slot.tensor][slot.dim]
            if group.pattern is not Pattern.INPUT:
                assert not taken.setdefault((slot.tensor, slot.dim), set()) & set(positions)
                taken[slot.tensor, slot.dim] |= set(positions)
    for group in graph.prunable:
        costs = [graph.cost({group.name: count}) for count in range(group.size)]
        assert costs == sorted(costs, reverse=True)
        assert costs[0][0] > costs[-1][0]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda kind: kind.__name__)
def test_every_kind_of_block_is_prunable_or_named(block) -> None:
    """What each wiring allows: a change that protects more than today must be deliberate."""
    graph = trace(Generated([(block, 4), (block, 4)], flatten=True, seed=3), example())
    free = {g.name for g in graph.prunable if g.name.startswith("features")}
    whole = {g.name for g in graph.groups.values() if g.protected and g.name.startswith("features")}
    assert free, graph.notes
    if block.__name__ == "LayerNormed":
        assert free == {"features.0.expand", "features.1.expand"}
        assert all("statistics over all channels" in graph.groups[n].protected for n in whole)
    elif block.__name__ == "Depthwise":
        assert whole == {"features.0.depthwise"}
        assert "network's input" in graph.groups["features.0.depthwise"].protected
    else:
        assert not whole, graph.notes


def test_modes_gradients_and_frozen_flags_stay() -> None:
    model = Generated([(Residual, 4) for Residual in BLOCKS[:2]], flatten=True, seed=0).train()
    model.features[0].eval()
    next(model.parameters()).requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    graph = trace(model, example())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    small = slim(model, graph, {graph.prunable[1].name: torch.tensor([0])})
    assert [p.requires_grad for p in small.parameters()] == flags
