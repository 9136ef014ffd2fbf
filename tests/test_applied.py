"""Plans applied: by every method, in both modes, with and without repair."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import BLOCKS, Generated, example
from torch import nn

from autoprune import LayerDecision, Plan, apply, build_model, trace
from autoprune.applied import slim
from autoprune.data import Split
from autoprune.errors import MethodError, PlanError, SettingsError, UnknownNameError
from autoprune.folding import fold_norms
from autoprune.methods import METHODS
from autoprune.plan import Pattern
from autoprune.resolve import resolve
from autoprune.surgery import attributes, resize

UNIT_METHODS = sorted(n for n, m in METHODS.items() if Pattern.CHANNEL in m.patterns)


def samples(model: nn.Module, count: int = 48) -> Split:
    x = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=next(model.parameters()).dtype)
    return Split(x, torch.arange(count) % 3, None, None)


CASES = [(name, "none") for name in UNIT_METHODS] + [("l2_norm", "bias_only"), ("l2_norm", "mauch_yang")]


@pytest.mark.parametrize(("method", "repair"), CASES)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda kind: kind.__name__)
def test_mask_and_remove_agree_for_every_method(method: str, repair: str, block: type[nn.Module]) -> None:
    model = Generated([(block, 4), (BLOCKS[1], 4)], flatten=True, seed=5).eval()
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, example(), prove=False)
    plan = Plan.uniform(graph, method=method, sparsity=0.4, reconstruction=repair)
    split = samples(model)
    small = apply(model, plan, graph=graph, calibration=split)
    zeroed = apply(model, plan, graph=graph, calibration=split, mode="mask")
    assert small.removed == zeroed.removed
    assert sum(small.removed.values()) > 0
    x = example(5).double()
    with torch.no_grad():
        torch.testing.assert_close(small.module.double()(x), zeroed.module.double()(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, mask in zeroed.masks.items():
        assert not zeroed.module.get_parameter(name)[~mask].any()


def test_single_weights_are_masked_to_the_exact_count() -> None:
    model = build_model("lenet300_100")
    x = torch.randn(2, 1, 28, 28)
    plan = Plan.uniform(trace(model, x), method="magnitude", sparsity=0.9, pattern="weight")
    pruned = apply(model, plan, x)
    weight = pruned.module.fc1.weight
    assert int((weight != 0).sum()) == 235_200 - 211_680
    assert pruned.masks["fc1.weight"].sum() == 235_200 - 211_680
    assert not pruned.kept


def test_units_and_weights_in_one_plan() -> None:
    model = build_model("lenet300_100")
    plan = Plan(
        (
            LayerDecision("fc1", "l1_norm", Pattern.UNIT, 0.5),
            LayerDecision("fc2", "magnitude", Pattern.WEIGHT, 0.5),
        )
    )
    x = torch.randn(2, 1, 28, 28)
    small, zeroed = apply(model, plan, x), apply(model, plan, x, mode="mask")
    assert small.module.fc2.weight.shape == (100, 150)
    assert small.masks["fc2.weight"].shape == (100, 150)
    torch.testing.assert_close(small.module.eval()(x), zeroed.module.eval()(x), rtol=1e-5, atol=1e-5)


def test_repair_lowers_the_error_of_the_outputs() -> None:
    model = Generated([(BLOCKS[0], 5), (BLOCKS[0], 5)], flatten=False, seed=2).eval()
    graph, split = trace(model, example()), samples(model, 400)
    errors = {}
    for repair in ("none", "mauch_yang"):
        plan = Plan.uniform(graph, method="l2_norm", sparsity=0.4, reconstruction=repair)
        pruned = apply(model, plan, graph=graph, calibration=split).module
        with torch.no_grad():
            errors[repair] = float((pruned(split.x) - model(split.x)).square().mean())
    assert errors["mauch_yang"] < 0.5 * errors["none"]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg11_bn"])
def test_folding_keeps_the_outputs(name: str) -> None:
    model = build_model(name, width=0.25).eval() if name != "resnet20" else build_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 32, 32)
    graph = trace(model, x)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(graph.norms) == len(norms)
    folded = fold_norms(copy.deepcopy(model), graph.norms)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda kind: kind.__name__)
def test_resize_rebuilds_a_pruned_network(block: type[nn.Module]) -> None:
    blocks = [(block, 4), (BLOCKS[5], 4)]
    model = Generated(blocks, flatten=True, seed=5).eval()
    graph = trace(model, example())
    decisions = tuple(LayerDecision(g.name, "l1_norm", g.pattern, 0.4) for g in graph.prunable if g.size > 2)
    small = apply(model, Plan(decisions), graph=graph).module
    again = resize(Generated(blocks, flatten=True, seed=9), small.state_dict(), attributes(small)).eval()
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(example()), small(example()))


def test_plans_that_do_not_fit() -> None:
    model = build_model("resnet20")
    graph = trace(model, torch.randn(2, 3, 32, 32), prove=False)

    def plan(*decisions: tuple[str, str, str, float], **choices: str) -> Plan:
        return Plan(tuple(LayerDecision(layer, m, Pattern(p), s) for layer, m, p, s in decisions), **choices)

    residual = graph.group("conv1").layers
    with pytest.raises(PlanError, match=rf"{residual[0]}.*{residual[1]}.*one group 'conv1'"):
        resolve(plan((residual[0], "l1_norm", "channel", 0.5), (residual[1], "l1_norm", "channel", 0.2)), graph)
    with pytest.raises(PlanError, match=r"group 'fc' must stay whole: it is the network's output"):
        resolve(plan(("fc", "l1_norm", "unit", 0.5)), graph)
    with pytest.raises(PlanError, match=r"removes none of its 16 units; use 0 or at least 0.0312"):
        resolve(plan(("conv1", "l1_norm", "channel", 0.01)), graph)
    with pytest.raises(PlanError, match=r"ranks weight, not pattern 'channel'|ranks .*weight"):
        resolve(plan(("conv1", "magnitude", "channel", 0.5)), graph)
    with pytest.raises(PlanError, match="have pattern 'channel', but the plan says 'unit'"):
        resolve(plan(("conv1", "l1_norm", "unit", 0.5)), graph)
    with pytest.raises(UnknownNameError, match="unknown method 'l1'"):
        resolve(plan(("conv1", "l1", "channel", 0.5)), graph)
    with pytest.raises(UnknownNameError, match="unknown group or layer 'conv2'; did you mean 'conv1'"):
        resolve(plan(("conv2", "l1_norm", "channel", 0.5)), graph)
    with pytest.raises(UnknownNameError, match="unknown reconstruction 'mauch'"):
        resolve(plan(reconstruction="mauch"), graph)
    with pytest.raises(UnknownNameError, match="unknown layer with weights 'bn1'"):
        resolve(plan(("bn1", "magnitude", "weight", 0.5)), graph)
    with pytest.raises(SettingsError, match="mode must be 'remove' or 'mask', but got 'drop'"):
        apply(model, plan(), graph=graph, mode="drop")
    with pytest.raises(MethodError, match="'taylor_fo' needs samples"):
        apply(model, plan(("conv1", "taylor_fo", "channel", 0.5)), graph=graph)


class KeepsReferences(nn.Module):
    """Keeps a child in a plain list and calls it through a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
        self.steps = [self.first.forward, torch.relu, self.second]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_sharing_never_writes_to_the_dense_network() -> None:
    for model, x in (
        (build_model("mobilenet_v2", width=0.25), torch.randn(2, 3, 32, 32)),
        (KeepsReferences(), torch.randn(2, 4)),
    ):
        model.eval()
        graph = trace(model, x)
        kept = {g.name: torch.arange(1, g.size) for g in graph.prunable if g.pattern is not Pattern.INPUT}
        assert kept
        before, sizes = copy.deepcopy(model.state_dict()), [str(m) for m in model.modules()]
        shared, apart = slim(model, graph, kept, share=True), slim(model, graph, kept)
        assert torch.equal(shared(x), apart(x))
        fold_norms(shared, graph.norms)
        shared.add_module("extra", nn.Identity())
        shared.train()
        assert [str(m) for m in model.modules()] == sizes
        assert not any(m.training for m in model.modules())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert not {p.data_ptr() for p in apart.parameters()} & {p.data_ptr() for p in model.parameters()}
