"""The closed-form repair against known answers, a least-squares oracle, and whole networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.applied import masked, slim
from autoprune.calibration import LayerStats, Need, collect
from autoprune.data import load_data
from autoprune.data.splits import Split
from autoprune.errors import MethodError, UnknownNameError
from autoprune.finetune import FinetuneSettings, finetune
from autoprune.graph import LayerGraph
from autoprune.models import build_model, default_options
from autoprune.plan import Pattern
from autoprune.ranking import Ranker
from autoprune.reconstruction import RECONSTRUCTIONS, get_reconstruction, output_error, repair_module, repairable
from autoprune.seeding import generator
from autoprune.tracing import trace

MAUCH_YANG = RECONSTRUCTIONS["mauch_yang"]


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def from_rows(rows: Tensor) -> LayerStats:
    return LayerStats(len(rows), rows.mean(0), rows.T.cov(correction=0).reshape(rows.shape[1], rows.shape[1]))


def from_moments(covariance: Tensor, mean: Tensor | None = None) -> LayerStats:
    return LayerStats(100, torch.zeros(len(covariance)).double() if mean is None else mean, covariance)


# ---- known answers -----------------------------------------------------------------------------------------------


def test_two_correlated_inputs() -> None:
    stats, weight, keep = from_moments(double([[1, 0.5], [0.5, 1]])), double([[2, 3]]), torch.tensor([0])
    repair = MAUCH_YANG.repair(weight, keep, stats)
    assert repair.weight.tolist() == [[3.5]]
    assert repair.shift.tolist() == [0.0]
    assert output_error(weight, keep, repair, stats) == pytest.approx(6.75, abs=1e-12)
    naive = RECONSTRUCTIONS["none"].repair(weight, keep, stats)
    assert output_error(weight, keep, naive, stats) == pytest.approx(9, abs=1e-12)


def test_keeping_all_changes_no_bit() -> None:
    rows = torch.randn(50, 6, generator=generator(1), dtype=torch.float64) + 3
    weight, keep = torch.randn(4, 6, generator=generator(2), dtype=torch.float64), torch.arange(6)
    for how in RECONSTRUCTIONS.values():
        repair = how.repair(weight, keep, from_rows(rows))
        assert torch.equal(repair.weight, weight)
        assert float(repair.shift.abs().max()) < 1e-12
        assert output_error(weight, keep, repair, from_rows(rows)) < 1e-12


def test_uncorrelated_inputs_leave_the_weights() -> None:
    weight = torch.randn(3, 5, generator=generator(2), dtype=torch.float64)
    keep = torch.tensor([0, 2, 3])
    repair = MAUCH_YANG.repair(weight, keep, from_moments(torch.eye(5).double(), torch.ones(5).double()))
    torch.testing.assert_close(repair.weight, weight[:, keep])
    torch.testing.assert_close(repair.shift, weight[:, [1, 4]].sum(1))


def test_of_two_twins_the_survivor_takes_both_weights() -> None:
    rows = torch.randn(80, 4, generator=generator(1), dtype=torch.float64)
    rows[:, 3] = rows[:, 1]
    weight, keep = torch.randn(2, 4, generator=generator(2), dtype=torch.float64), torch.tensor([0, 1, 2])
    repair = MAUCH_YANG.repair(weight, keep, from_rows(rows))
    torch.testing.assert_close(repair.weight, torch.stack([weight[:, 0], weight[:, 1] + weight[:, 3], weight[:, 2]], 1))
    assert output_error(weight, keep, repair, from_rows(rows)) < 1e-20


def test_twins_that_both_stay_share_and_nothing_blows_up() -> None:
    rows = torch.randn(80, 5, generator=generator(1), dtype=torch.float64)
    rows[:, 3] = rows[:, 1]
    rows[:, 4] = rows[:, 1]
    weight, keep = torch.randn(2, 5, generator=generator(2), dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    repair = MAUCH_YANG.repair(weight, keep, from_rows(rows))
    assert output_error(weight, keep, repair, from_rows(rows)) < 1e-9
    torch.testing.assert_close(repair.weight[:, 1] - weight[:, 1], weight[:, 4] / 2, rtol=1e-6, atol=1e-7)


def test_a_constant_input_goes_through_the_bias() -> None:
    rows = torch.randn(60, 3, generator=generator(1), dtype=torch.float64)
    rows[:, 2] = 2.5
    weight, keep = double([[1, 2, 4]]), torch.tensor([0, 1])
    for name in ("bias_only", "mauch_yang"):
        repair = RECONSTRUCTIONS[name].repair(weight, keep, from_rows(rows))
        torch.testing.assert_close(repair.weight, weight[:, keep])
        torch.testing.assert_close(repair.shift, double([10]))
        assert output_error(weight, keep, repair, from_rows(rows)) < 1e-20


def test_constant_and_dead_inputs_that_stay_keep_their_weights() -> None:
    rows = torch.randn(60, 5, generator=generator(1), dtype=torch.float64)
    rows[:, 1], rows[:, 2] = 0.1, 0
    rows[:, 4] = rows[:, 0] + 0.1 * rows[:, 4]
    weight = torch.randn(2, 5, generator=generator(2), dtype=torch.float64)
    keep = torch.tensor([0, 1, 2, 3])
    for intercept in (True, False):
        repair = MAUCH_YANG.repair(weight, keep, from_rows(rows), intercept=intercept)
        assert torch.equal(repair.weight[:, 2], weight[:, 2])
        assert bool(torch.isfinite(repair.weight).all())
    assert torch.equal(MAUCH_YANG.repair(weight, keep, from_rows(rows)).weight[:, 1], weight[:, 1])


def test_only_dead_inputs_stay() -> None:
    rows = torch.randn(60, 3, generator=generator(1), dtype=torch.float64)
    rows[:, 0] = 0
    repair = MAUCH_YANG.repair(double([[1, 2, 4]]), torch.tensor([0]), from_rows(rows))
    assert repair.weight.tolist() == [[1.0]]
    torch.testing.assert_close(repair.shift, double([2, 4]) @ rows[:, 1:].mean(0, keepdim=True).T)


# ---- oracle and properties ---------------------------------------------------------------------------------------


def problem(seed: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "problem")
    mix = torch.randn(inputs, inputs, generator=draws, dtype=torch.float64) / inputs**0.5
    rows = torch.randn(8 * inputs + 20, inputs, generator=draws, dtype=torch.float64) @ (mix + torch.eye(inputs))
    rows += torch.randn(inputs, generator=draws, dtype=torch.float64)
    return rows, torch.randn(outputs, inputs, generator=draws, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    inputs=st.integers(1, 14),
    outputs=st.integers(1, 5),
    intercept=st.booleans(),
    data=st.data(),
)
def test_equals_the_least_squares_oracle(seed: int, inputs: int, outputs: int, intercept: bool, data) -> None:
    rows, weight = problem(seed, inputs, outputs)
    keep = torch.tensor(sorted(data.draw(st.sets(st.integers(0, inputs - 1), min_size=1))))
    stats = from_rows(rows)
    repair = MAUCH_YANG.repair(weight, keep, stats, intercept=intercept)
    known = torch.cat([rows[:, keep], torch.ones(len(rows), 1).double()], 1) if intercept else rows[:, keep]
    oracle = torch.linalg.lstsq(known, rows @ weight.T, driver="gelsd").solution.T
    torch.testing.assert_close(repair.weight, oracle[:, : len(keep)], rtol=1e-8, atol=1e-8)
    if intercept:
        torch.testing.assert_close(repair.shift, oracle[:, -1], rtol=1e-8, atol=1e-8)
    change = rows[:, keep] @ repair.weight.T + repair.shift - rows @ weight.T
    measured = float(change.square().sum(1).mean())
    assert output_error(weight, keep, repair, stats) == pytest.approx(measured, rel=1e-8, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), inputs=st.integers(2, 12), intercept=st.booleans(), ridge=st.sampled_from([0, 1e-3, 1])
)
def test_never_worse_than_less_repair_and_monotone_in_what_stays(
    seed: int, inputs: int, intercept: bool, ridge: float
) -> None:
    rows, weight = problem(seed, inputs, 3)
    stats = from_rows(rows)
    order = torch.randperm(inputs, generator=generator(seed))
    last = 0.0
    for removed in range(inputs):
        keep = order[removed:].sort().values
        errors = {
            name: output_error(weight, keep, how.repair(weight, keep, stats, intercept=intercept, ridge=ridge), stats)
            for name, how in RECONSTRUCTIONS.items()
        }
        slack = 1e-9 * (1 + errors["none"])
        assert errors["mauch_yang"] <= errors["none"] + slack
        if intercept:
            assert errors["mauch_yang"] <= errors["bias_only"] + slack <= errors["none"] + 2 * slack
        if ridge == 0:
            assert errors["mauch_yang"] >= last - slack
            last = errors["mauch_yang"]


def test_fewer_samples_than_inputs() -> None:
    rows = torch.randn(10, 30, generator=generator(1), dtype=torch.float64)
    weight, keep = torch.randn(4, 30, generator=generator(2), dtype=torch.float64), torch.arange(0, 30, 2)
    repair = MAUCH_YANG.repair(weight, keep, from_rows(rows))
    assert bool(torch.isfinite(repair.weight).all())
    assert output_error(weight, keep, repair, from_rows(rows)) < 1e-6
    assert float(repair.weight.abs().max()) < 20


def test_a_ridge_draws_towards_the_weights_as_they_were() -> None:
    rows, weight = problem(1, 6, 2)
    keep = torch.arange(4)
    free, tied, fixed = (MAUCH_YANG.repair(weight, keep, from_rows(rows), ridge=r).weight for r in (0.0, 1.0, 1e9))
    naive = weight[:, keep]
    assert 0 < float((tied - naive).norm()) < float((free - naive).norm())
    torch.testing.assert_close(fixed, naive, rtol=0, atol=1e-6)


def test_errors_name_what_is_missing() -> None:
    with pytest.raises(UnknownNameError, match="unknown reconstruction 'mauch_jang'; did you mean 'mauch_yang'"):
        get_reconstruction("mauch_jang")
    with pytest.raises(
        MethodError, match=r"needs the input moments, which were not collected; pass needs=\{Need.MOMENTS"
    ):
        MAUCH_YANG.repair(double([[1, 2]]), torch.tensor([0]), LayerStats())
    with pytest.raises(MethodError, match="moments of 3 inputs for a weight of 2"):
        MAUCH_YANG.repair(double([[1, 2]]), torch.tensor([0]), from_moments(torch.eye(3).double()))


# ---- networks ----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolutions with a norm, without bias and norm, grouped; then linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.bare = nn.Conv2d(6, 5, 1, bias=False)
        self.depth = nn.Conv2d(5, 5, 3, groups=5)
        self.hidden = nn.Linear(5 * 16, 9)
        self.out = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(self.body(x)))
        x = torch.relu(self.depth(torch.relu(self.bare(x))))
        return self.out(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, LayerGraph, Split]:
    draws = generator(7, "case")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Net().double().eval()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    split = Split(torch.randn(40, 2, 6, 6, generator=draws), torch.randint(3, (40,), generator=draws))
    return model, trace(model, split.inputs(slice(0, 2)).double()), split


KEPT = {
    "input": torch.tensor([1]),
    "stem": torch.tensor([0, 2, 3, 5, 7]),
    "body": torch.tensor([1, 2, 4, 5]),
    "bare": torch.tensor([0, 3, 4]),
    "hidden": torch.tensor([0, 1, 2, 6, 8]),
}


def pre_activations(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, y: seen.append(y))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def test_layers_worth_collecting(case) -> None:
    model, graph, _ = case
    assert repairable(model, graph) == ("stem", "body", "bare", "hidden", "out")


@pytest.mark.parametrize("layer", ["stem", "body", "bare", "hidden", "out"])
def test_a_repaired_layer_is_the_best_fit_on_the_dense_inputs(case, layer: str) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.MOMENTS}, positions_per_sample=None)
    x = split.inputs().double()
    producer = {"stem": "input", "body": "stem", "bare": "body", "hidden": "bare", "out": "hidden"}[layer]
    kept = {producer: KEPT[producer]}
    pruned = slim(model, graph, kept)
    report = repair_module(pruned, model, graph, kept, stats, "mauch_yang", ridge=0)
    assert report.repaired == (layer,)
    assert report.skipped == {}

    inputs: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    want = pre_activations(model, layer, x)
    handle.remove()
    small, dense = pruned.get_submodule(layer), model.get_submodule(layer)
    block = dense.in_features // graph.groups[producer].size if isinstance(dense, nn.Linear) else 1
    columns = (KEPT[producer][:, None] * block + torch.arange(block)).flatten()
    if isinstance(dense, nn.Linear):
        rows, target = inputs[0][:, columns], want
        got = small(rows)
    else:
        part = inputs[0][:, columns]
        rows = F.unfold(part, dense.kernel_size, padding=dense.padding).transpose(1, 2).flatten(0, 1)
        target = want.movedim(1, -1).flatten(0, -2)
        raw = F.conv2d(part, small.weight, small.bias, padding=dense.padding)
        got = raw.movedim(1, -1).flatten(0, -2)
    if layer == "body":  # the norm behind it takes the shift
        got = got + (model.norm.running_mean - pruned.norm.running_mean)
    centred = layer != "bare"
    known = torch.cat([rows, torch.ones(len(rows), 1).double()], 1) if centred else rows
    oracle = known @ torch.linalg.lstsq(known, target, driver="gelsd").solution
    torch.testing.assert_close(got, oracle, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", ["bias_only", "mauch_yang"])
def test_masked_and_slim_networks_are_repaired_alike(case, how: str) -> None:
    model, graph, split = case
    before = copy.deepcopy(model.state_dict())
    stats = collect(model, graph, split, {Need.MOMENTS})
    x = split.inputs().double()
    outputs = []
    for make in (slim, masked):
        pruned = make(model, graph, KEPT)
        report = repair_module(pruned, model, graph, KEPT, stats, how)
        assert report.repaired == ("stem", "body", "bare", "hidden", "out")
        outputs.append(pruned.eval()(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_tensors_shared_with_the_dense_network_stay_as_they_are(case) -> None:
    model, graph, split = case
    before = copy.deepcopy(model.state_dict())
    stats = collect(model, graph, split, {Need.MOMENTS})
    kept = {name: KEPT[name] for name in ("stem", "hidden")}
    shared, own = (slim(model, graph, kept, share=share) for share in (True, False))
    for pruned in (shared, own):
        repair_module(pruned, model, graph, kept, stats)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(shared.out.bias, model.out.bias)
    assert not torch.equal(shared.norm.running_mean, model.norm.running_mean)
    assert all(torch.equal(a, b) for a, b in zip(shared.state_dict().values(), own.state_dict().values(), strict=True))


def test_the_predicted_error_is_what_the_output_moves_by(case) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.MOMENTS})
    x, kept, weight = split.inputs().double(), {"hidden": KEPT["hidden"]}, model.out.weight.detach()
    errors = []
    for name, how in RECONSTRUCTIONS.items():
        pruned = slim(model, graph, kept).eval()
        repair_module(pruned, model, graph, kept, stats, name, ridge=0)
        with torch.no_grad():
            errors.append(float((pruned(x) - model(x)).square().sum(1).mean()))
        repair = how.repair(weight, kept["hidden"], stats["out"])
        assert errors[-1] == pytest.approx(output_error(weight, kept["hidden"], repair, stats["out"]), rel=1e-8)
    assert errors[0] > errors[1] > errors[2]  # none, bias_only, mauch_yang


def test_layers_that_cannot_be_repaired_are_named(case) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.MOMENTS}, layers=["hidden"])
    pruned = slim(model, graph, KEPT)
    report = repair_module(pruned, model, graph, KEPT, stats)
    assert report.repaired == ("hidden",)
    assert set(report.skipped) == {"stem", "body", "bare", "out"}
    assert report.skipped["out"] == "no moments of its inputs were collected"
    assert repair_module(pruned, model, graph, KEPT, {}, "none").repaired == ()


def test_units_of_another_network_are_refused(case) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.MOMENTS})
    pruned = slim(model, graph, {"hidden": KEPT["hidden"]})
    with pytest.raises(
        MethodError, match=r"layer 'out' has a weight \[3, 5\] after pruning, but 3 outputs and 2 inputs stay"
    ):
        repair_module(pruned, model, graph, {"hidden": torch.tensor([0, 1])}, stats)


def test_a_trained_network_keeps_its_accuracy_on_real_digits() -> None:
    data = load_data("digits", seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("mlp", **default_options("mlp", data))
    finetune(model, data.train, FinetuneSettings(steps=300, optimizer="adamw", lr=3e-3, weight_decay=0.0), seed=0)
    model.eval()
    graph = trace(model, data.example())
    stats = collect(model, graph, data.calibration, {Need.MOMENTS})
    ranker = Ranker(model, graph)
    kept = {
        g.name: ranker.kept(g.name, "l1_norm", g.removed(0.6)) for g in graph.prunable if g.pattern is not Pattern.INPUT
    }

    def accuracy(how: str) -> float:
        pruned = slim(model, graph, kept).eval()
        repair_module(pruned, model, graph, kept, stats, how)
        with torch.no_grad():
            hits = pruned(data.validation.inputs()).argmax(1) == data.validation.y
        return float(hits.double().mean())

    accuracies = {how: accuracy(how) for how in RECONSTRUCTIONS}
    assert accuracies["mauch_yang"] > 0.9
    assert accuracies["mauch_yang"] > accuracies["none"] + 0.05
