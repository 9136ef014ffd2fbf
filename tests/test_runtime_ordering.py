"""Channels in the order of their importance: the same network, and prefixes that keep the best."""

from __future__ import annotations

import pytest
import torch
from runtime_networks import ZOO, close, images, liven
from torch import nn

from autoprune.data import DataSplits
from autoprune.envs import RuntimeTask
from autoprune.errors import ChainError, UnknownNameError
from autoprune.models import build_model
from autoprune.runtime import Chain, by_importance
from autoprune.search.runtime import Table, judge
from autoprune.tracing import trace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_whole_network_stays_the_same_in_any_order(name: str) -> None:
    options, shape = ZOO[name]
    model = liven(build_model(name, **options), 3).double()
    x = images(3, shape).double()
    graph = trace(model, x)
    draw = torch.Generator().manual_seed(5)
    orders = {n: torch.randperm(group.size, generator=draw) for n, group in graph.groups.items()}
    chain = Chain(model, x, groups=2, graph=graph, orders=orders)
    with torch.no_grad():
        assert close(chain(x, 2), model(x), 1e-9)
        assert close(chain(x, 1), chain(x, 1, "masked"), 1e-9)
        assert close(chain.at(1)(x), chain(x, 1), 1e-9)
        assert not close(chain(x, 1), Chain(model, x, groups=2, graph=graph)(x, 1), 1e-9)


def test_prefixes_hold_the_largest_norms(model: nn.Module, data: DataSplits) -> None:
    task = RuntimeTask.of(model, data)
    for stage in task.chain.stages:
        for gate in stage.gates:
            norms = task.chain.backbone.get_submodule(gate).weight.detach().flatten(1).norm(p=1, dim=1)
            assert torch.equal(norms, norms.sort(descending=True).values)


def test_half_of_a_trained_network_is_worth_more_in_order(model: nn.Module, data: DataSplits) -> None:
    found = {}
    for order in ("none", "l1_norm"):
        chain = RuntimeTask.of(model, data, order=order).chain
        found[order] = judge(chain, data.validation, Table(torch.full((len(chain.stages),), 2))).accuracy
    assert found["l1_norm"] > found["none"]


def test_methods_with_statistics_order_too(model: nn.Module, data: DataSplits) -> None:
    graph = trace(model, data.example(2))
    orders = by_importance(model, graph, "taylor_fo", data.calibration)
    assert {name: sorted(order.tolist()) for name, order in orders.items()} == {
        name: list(range(graph.groups[name].size)) for name in orders
    }


def test_bad_orders_are_refused(model: nn.Module, data: DataSplits) -> None:
    graph = trace(model, data.example(2))
    name = next(n for n, group in graph.groups.items() if "conv2" in n or group.size == 32)
    with pytest.raises(ChainError, match=f"the order of '{name}' must hold each of its"):
        Chain(
            model, data.example(2), graph=graph, orders={name: torch.zeros(graph.groups[name].size, dtype=torch.int64)}
        )
    with pytest.raises(UnknownNameError, match="l1_nrm"):
        RuntimeTask.of(model, data, order="l1_nrm")
