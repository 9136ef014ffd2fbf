"""The deploying network: what it decides is what it runs; the knob, its table, stored and exported."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import NETWORKS, ZOO, close, images, random_actions, spread_norms, zoo
from torch import Tensor, nn

from autoprune import load
from autoprune.artifacts import NetworkSpec
from autoprune.costs import Budget
from autoprune.data import DataSplits, Split
from autoprune.deploy import deployed
from autoprune.errors import ArtifactError, BudgetError, ChainError, ModelError
from autoprune.export import export_network
from autoprune.runtime import (
    Chain,
    Compiled,
    Controller,
    KnobRow,
    KnobTable,
    Run,
    RuntimePrunedNetwork,
    calibrate,
    compiled,
    save_runtime,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def _controller(chain: Chain, seed: int = 0) -> Controller:
    """One whose decisions differ between samples and stages."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        controller = Controller(chain.channels, chain.groups, code=16, hidden=16)
    walk, pooled = chain.begin(images(32, chain.input_shape, seed=9)), []
    with torch.no_grad():
        while not walk.done:
            pooled.append(walk.pooled)
            walk = walk.step(torch.full((32,), chain.groups))
        controller.standardise(pooled)
        controller.decoder.weight.mul_(10)
    return controller


def _network(name: str, seed: int = 0) -> tuple[RuntimePrunedNetwork, nn.Module, tuple[int, ...]]:
    chain, model, shape = zoo(name)
    return RuntimePrunedNetwork(chain, _controller(chain, seed)), model, shape


@pytest.mark.parametrize("name", ZOO)
def test_it_runs_what_it_decides(name: str) -> None:
    network, _, shape = _network(name)
    x = images(9, shape)
    run = network.run(x)
    assert len(run.actions.unique()) > 1
    assert close(run.logits, network.chain(x, run.actions, "masked").detach())
    assert torch.equal(network(x), run.logits)
    assert torch.equal(network.decide(x), run.actions)
    assert torch.equal(run.macs, network.chain.macs(run.actions))
    singles = [network.run(x[n : n + 1]) for n in range(9)]
    assert torch.equal(torch.cat([one.actions for one in singles]), run.actions)
    assert close(torch.cat([one.logits for one in singles]), run.logits)
    assert torch.equal(torch.cat([one.controller_macs for one in singles]), run.controller_macs)
    assert network(x[:0]).shape == (0, 10)
    assert not network(x).is_inference()


@settings(deadline=None, max_examples=20)
@given(NETWORKS, st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_the_packed_form_agrees_on_generated_networks(model: nn.Module, size: int, groups: int, seed: int) -> None:
    chain = spread_norms(Chain(model, images(2), groups=groups), seed)
    x, actions, compiled = images(size, seed=seed), random_actions(size, chain, seed), Compiled(chain)
    with torch.no_grad():
        walk, kept = compiled.begin(x), x.clone()
        for stage in range(len(chain.stages)):
            walk.step(torch.full((size,), groups))  # a way that is left again
            walk = walk.step(actions[:, stage])
        assert close(walk.output, chain(x, actions, "masked"))
        assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ZOO)
def test_the_ends_of_the_knob_are_the_dense_network_and_the_least(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, model, shape = _network(name)
    x = images(5, shape).contiguous(memory_format=torch.channels_last)
    network.knob = 1e6
    with torch.no_grad():
        dense = deployed(model, network.chain.graph.norms)
        assert close(network(x), dense(x))
        assert close(network(x[:1]), dense(x[:1]))
        with monkeypatch.context() as patch:  # other kernels may round otherwise where weights are laid out
            patch.setattr(compiled, "ROOM", 0)
            network.repack()
            assert torch.equal(network(x), dense(x))
            assert torch.equal(network(x[:1]), dense(x[:1]))
        network.repack()
        assert close(network(x), model(x))
        network.knob = -1e6
        assert network.run(x).macs.tolist() == [int(network.chain.macs(1))] * 5
        assert close(network(x), network.chain(x, 1))


def test_decisions_follow_the_scores() -> None:
    network, _, shape = _network("vgg11_bn")
    x = images(6, shape)
    for knob in (-2.0, 0.0, 1.5):
        network.knob = knob
        actions, walk, state = network.decide(x), network.chain.begin(x), network.controller.start(6)
        with torch.no_grad():
            for stage in range(len(network.chain.stages)):
                scores, state = network.controller.step(stage, walk.pooled, state)
                wanted = (scores + knob * torch.arange(4)).argmax(1) + 1
                assert torch.equal(actions[:, stage], wanted)
                walk = walk.step(wanted)


def test_weights_that_change_need_repacking_and_copies_stand_alone() -> None:
    network, _, shape = _network("digits_cnn")
    x = images(3, shape)
    before, other = network(x), copy.deepcopy(network)
    with torch.no_grad():
        network.chain.backbone.get_submodule("conv1.0").weight.add_(0.1)
    network.repack()
    assert not torch.equal(network(x), before)
    assert torch.equal(other(x), before)
    network.load_state_dict(other.state_dict())
    assert torch.equal(network(x), before)
    wide = network.double()(x.double())
    assert wide.dtype == torch.float64
    assert close(wide.float(), before)


@pytest.fixture(scope="module")
def trained(data: DataSplits, model: nn.Module) -> RuntimePrunedNetwork:
    chain = Chain(model, data.example(2))
    from autoprune.runtime import recalibrate

    recalibrate(chain, data.calibration)
    return RuntimePrunedNetwork(chain, _controller(chain))


def test_a_table_turns_budgets_into_knobs(trained: RuntimePrunedNetwork, data: DataSplits) -> None:
    trained.knob = 0.25
    table = calibrate(trained, data.validation, rows=12)
    assert table is trained.table
    assert trained.knob == 0.25
    dense, chain = trained.chain.dense_macs, trained.chain
    own = [int(trained.controller.macs(chain.reads(a))) for a in (1, 4)]
    assert table.least == pytest.approx((int(chain.macs(1)) + own[0]) / dense)
    assert table.most == pytest.approx((dense + own[1]) / dense)
    assert table.rows[-1].accuracy > 0.9
    x = data.validation.inputs()
    for share in (table.least, 0.5, 0.7, 0.9, table.most):
        run = trained.use(budget=share * dense).run(x)
        assert _share(run, dense) == pytest.approx(share, abs=0.06)
    knob = trained.use(budget=0.5).knob
    assert trained.use(budget=Budget(macs=0.5 * dense)).knob == pytest.approx(knob)
    assert trained.use(budget="50%").knob == knob
    assert trained.use(penalty=0.5).knob == -0.5
    with pytest.raises(ChainError, match=r"can be set to 0\.\d+ to 1\.\d+ of the dense .*, but 0\.01 was asked for"):
        trained.use(budget="macs=0.01")
    with pytest.raises(ChainError, match="a budget on macs alone, but got 'params <= 50% of dense'"):
        trained.use(budget="params=0.5")
    with pytest.raises(BudgetError, match="must be above 0"):
        trained.use(budget="macs=-1")


def _share(run: Run, dense: int) -> float:
    return float((run.macs + run.controller_macs).double().mean()) / dense


def test_equal_scores_still_make_a_table_of_both_ends(trained: RuntimePrunedNetwork, data: DataSplits) -> None:
    network = copy.deepcopy(trained)
    for parameter in network.controller.parameters():
        nn.init.zeros_(parameter)
    table = calibrate(network, data.validation.subset(slice(0, 40)))
    assert [row.knob < 0 for row in table.rows] == [True, False]
    nn.init.constant_(network.controller.decoder.bias, float("nan"))
    with pytest.raises(ChainError, match="scores are not finite"):
        calibrate(network, data.validation.subset(slice(0, 4)))


def test_stored_and_loaded_it_gives_the_same_bits(
    trained: RuntimePrunedNetwork, data: DataSplits, tmp_path: Path
) -> None:
    calibrate(trained, data.validation.subset(slice(0, 100)), rows=4)
    trained.use(budget=0.6)
    save_runtime(tmp_path, trained, NetworkSpec("digits_cnn"), metrics={"accuracy": 0.9})
    again = load(tmp_path)
    assert isinstance(again, RuntimePrunedNetwork)
    x = data.validation.inputs(slice(0, 30))
    for samples in (x, x[:1]):
        assert torch.equal(again(samples), trained(samples))
    assert again.knob == trained.knob
    assert again.table == trained.table
    assert again.use(budget=0.5).knob == trained.table.knob(0.5)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20", "mobilenet_v1"])
def test_the_zoo_is_stored_and_loaded(name: str, tmp_path: Path) -> None:
    network, _, shape = _network(name)
    save_runtime(tmp_path, network, NetworkSpec(name, ZOO[name][0]))
    assert torch.equal(load(tmp_path)(images(4, shape)), network(images(4, shape)))


def _damage(folder: Path, **fields: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 9}, "version 9, but this release reads version 4"),
        ({"groups": "4"}, "field 'groups' is missing or not what it must be"),
        ({"digest": "0"}, r"its SHA-256 differs"),
        ({"gates": ["conv3.0"]}, "a controller of 1 stages needs as many prices"),
        ({"table": {"rows": [{"knob": 1}], "images": 1}}, "a table of the knob cannot be read"),
        ({"controller": {"code": 16, "size": 3}}, "unexpected keyword argument 'size'"),
        ({"controller": {"code": 8, "hidden": 16}}, "does not fit: the network has shape"),
    ],
)
def test_damaged_folders_are_refused(
    fields: dict[str, object], message: str, trained: RuntimePrunedNetwork, tmp_path: Path
) -> None:
    save_runtime(tmp_path, trained, NetworkSpec("digits_cnn"))
    _damage(tmp_path, **fields)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path)


def test_exports(trained: RuntimePrunedNetwork, data: DataSplits, tmp_path: Path) -> None:
    x = data.validation.inputs(slice(0, 3))
    for format in ("onnx", "torch"):
        with pytest.raises(ModelError, match=r"decides at run time .* network.at\(actions\)"):
            export_network(trained, x, tmp_path, format)
    plain = trained.at([2, 3])
    exported = export_network(plain, x, tmp_path, "torch")
    assert exported.any_batch
    with torch.no_grad():
        assert close(plain(x), trained.chain(x, [2, 3]))


def test_inputs_that_cannot_be_decided_are_refused(trained: RuntimePrunedNetwork) -> None:
    x = images(4, (1, 8, 8))
    x[2, 0, 3, 3] = float("nan")
    for bad in (x, x[2:3]):
        with pytest.raises(ModelError, match=r"input \d of \d holds NaN or infinite values"):
            trained(bad)
    x[2, 0, 3, 3] = float("-inf")
    with pytest.raises(ModelError, match="input 2 of 4 holds NaN or infinite"):
        trained(x)
    x[2] = 3e38  # the sum overflows, and yet every value is finite
    trained(x)
    with pytest.raises(ModelError, match=r"float inputs \[N, 1, 8, 8\], but got torch.float32 \[4, 1, 9, 8\]"):
        trained(torch.zeros(4, 1, 9, 8))
    with pytest.raises(ModelError, match=r"but got torch.uint8"):
        trained(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))


def test_bad_settings(trained: RuntimePrunedNetwork) -> None:
    chain = trained.chain
    with pytest.raises(ChainError, match=r"make it with Controller\(chain.channels, chain.groups\)"):
        RuntimePrunedNetwork(chain, Controller([3, 3], 4))
    fresh = RuntimePrunedNetwork(chain, trained.controller)
    for knob in (float("nan"), float("inf"), "much", True):
        with pytest.raises(ChainError, match="the knob must be a finite number"):
            fresh.knob = knob  # type: ignore[assignment]
    with pytest.raises(ChainError, match="no calibrated table"):
        fresh.use(budget=0.5)
    with pytest.raises(ChainError, match="one of the two"):
        fresh.use()
    with pytest.raises(ChainError, match="the split is empty"):
        calibrate(fresh, Split(images(0, (1, 8, 8)), torch.zeros(0, dtype=torch.int64)))


def test_a_table_grows() -> None:
    rows = [KnobRow(k, 10 * s, s, 1.0, 0.5) for k, s in ((-1.0, 0.2), (0.0, 0.6), (1.0, 1.0))]
    table = KnobTable(tuple(rows), 7)
    assert table.knob(0.2) == -1.0
    assert table.knob(0.4) == pytest.approx(-0.5)
    assert table.knob(1.0) == 1.0
    assert KnobTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    for wrong in ((), (rows[1], rows[0])):
        with pytest.raises(ChainError, match=r"at least one row|must grow"):
            KnobTable(wrong, 7)
    with pytest.raises(ChainError, match="accuracy in a table of the knob must be a finite number, but got nan"):
        KnobRow(0.0, 1.0, 1.0, 0.0, float("nan"))


class Forced(nn.Module):
    """A controller of another kind: always one row."""

    def __init__(self, chain: Chain, row: list[int]) -> None:
        super().__init__()
        self.channels, self.groups, self.row = chain.channels, chain.groups, row

    def start(self, size: int) -> Tensor:
        return torch.zeros(size)

    def step(self, stage: int, pooled: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.zeros(len(pooled), self.groups)
        scores[:, self.row[stage] - 1] = 1
        return scores, state

    def bias(self, stage: int) -> Tensor:
        del stage
        return torch.arange(self.groups, dtype=torch.float64)

    def macs(self, reads: Tensor) -> Tensor:
        return torch.zeros(len(reads), dtype=torch.int64)


def test_another_controller_may_decide_but_is_not_stored(trained: RuntimePrunedNetwork, tmp_path: Path) -> None:
    network = RuntimePrunedNetwork(trained.chain, Forced(trained.chain, [3, 2]))  # type: ignore[arg-type]
    x = images(3, (1, 8, 8))
    for samples in (x, x[:1]):
        assert network.decide(samples).tolist() == [[3, 2]] * len(samples)
    with pytest.raises(ArtifactError, match="only a Controller can be stored, but the network has a Forced"):
        save_runtime(tmp_path, network, NetworkSpec("digits_cnn"))
