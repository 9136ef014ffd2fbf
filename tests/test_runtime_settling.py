"""Statistics that belong to settings of the knob: what is estimated, what is read between them, what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runtime_networks import close, images, zoo
from torch import Tensor

from autoprune import load
from autoprune.artifacts import NetworkSpec
from autoprune.data import Split
from autoprune.errors import ArtifactError, ChainError
from autoprune.runtime import (
    Chain,
    Controller,
    RuntimePrunedNetwork,
    calibrate,
    recalibrate,
    recalibrate_knobs,
    save_runtime,
    settle,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def _network(name: str = "resnet20") -> tuple[RuntimePrunedNetwork, Split]:
    chain, _, shape = zoo(name)
    torch.manual_seed(0)
    controller = Controller(chain.channels, chain.groups, code=8, hidden=8)
    with torch.no_grad():
        controller.decoder.weight.mul_(5)
        controller.offsets.copy_(-(torch.arange(chain.groups).flip(0) ** 2) * 0.2)
    split = Split(images(48, shape, seed=3), torch.arange(48) % 10)
    return RuntimePrunedNetwork(chain, controller), split


def _statistics(chain: Chain, knob: float | None = None) -> list[Tensor]:
    norms = chain.norms if knob is None else chain.norms.at(knob)
    return [part.clone() for layer in chain.norms.layers for part in norms.rows(layer)]


def test_each_setting_has_the_moments_of_what_is_run_at_it() -> None:
    network, split = _network()
    chain = network.chain
    common = _statistics(chain)
    few = torch.full((48, len(chain.stages)), 1)
    all_ = torch.full((48, len(chain.stages)), chain.groups)
    recalibrate_knobs(chain, split.x, {-1.0: few, 2.0: few + 1, 5.0: all_})
    assert chain.norms.knobs == (-1.0, 2.0, 5.0)
    assert all(torch.equal(a, b) for a, b in zip(common, _statistics(chain), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(common, _statistics(chain, 5.0), strict=True))  # the dense network's
    assert all(torch.equal(a, b) for a, b in zip(common, _statistics(chain, 9.0), strict=True))
    low, middle, between = (_statistics(chain, knob) for knob in (-3.0, 2.0, 0.5))
    assert all(close(m, (a + b) / 2, 1e-6) for m, a, b in zip(between, low, middle, strict=True))
    other = zoo("resnet20")[0]
    recalibrate(other, split.x, few, whole=True)
    assert all(close(a, b, 1e-6) for a, b in zip(low, _statistics(other), strict=True))
    assert not close(low[0], common[0], 1e-3)


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_a_settled_network_runs_with_the_statistics_of_its_knob(name: str) -> None:
    network, split = _network(name)
    dense = network.chain(split.x, network.chain.groups)
    settle(network, split, settings=7)
    assert network.table is None
    table = calibrate(network, split, rows=9)
    assert len(network.chain.norms.knobs) >= 3
    seen = []
    for share in (table.least, 0.5, 0.8, table.most):
        network.knob = table.knob(share)
        run = network.run(split.x)
        walk = network.chain.begin(split.x, network.norms)
        while not walk.done:
            walk = walk.step(run.actions[:, walk.stage].contiguous())
        assert close(run.logits, walk.output, 1e-4)
        assert close(network(split.x[:1]), run.logits[:1], 1e-4)
        seen.append(run.logits)
    assert bool((run.actions == network.chain.groups).all())
    assert close(seen[-1], dense, 1e-4)
    row = network.use(budget=0.5).decide(split.x[:1])[0]
    plain = network.at(row)
    share = float(network.chain.macs(row)) / network.chain.dense_macs
    norms = network.chain.norms.at(table.knob(table.within(share)))
    walk = network.chain.begin(split.x, norms)
    while not walk.done:
        walk = walk.step(row[walk.stage].repeat(48))
    with torch.no_grad():
        assert close(plain(split.x), walk.output, 1e-4)


def test_settling_again_starts_from_the_common_statistics() -> None:
    (one, split), (other, _) = _network(), _network()
    settle(one, split, settings=5)
    settle(other, split, settings=3)
    settle(other, split, settings=5)
    assert one.chain.norms.knobs == other.chain.norms.knobs
    knob = one.chain.norms.knobs[1]
    assert all(torch.equal(a, b) for a, b in zip(*(_statistics(n.chain, knob) for n in (one, other)), strict=True))


def test_statistics_are_stored(tmp_path: Path) -> None:
    network, split = _network()
    settle(network, split, settings=5)
    calibrate(network, split, rows=5)
    network.use(budget=0.6)
    save_runtime(tmp_path, network, NetworkSpec("resnet20", {"width": 0.25}))
    again = load(tmp_path)
    assert isinstance(again, RuntimePrunedNetwork)
    assert again.chain.norms.knobs == network.chain.norms.knobs
    assert torch.equal(again(split.x), network(split.x))
    described = json.loads((tmp_path / "model.json").read_text())
    described["statistics"] = described["statistics"][::-1]
    (tmp_path / "model.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match="statistics of their own must grow"):
        load(tmp_path)


def test_settings_that_do_not_grow_are_refused() -> None:
    network, split = _network()
    with pytest.raises(ChainError, match=r"must grow, but got \(1\.0, 1\.0\)"):
        network.chain.norms.hold([1.0, 1.0])
    with pytest.raises(ChainError, match="at least two samples"):
        settle(network, split.subset(slice(0, 1)))
