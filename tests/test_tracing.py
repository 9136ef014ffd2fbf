"""trace: golden values, the zoo against two oracles, what is refused and with which words."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch_pruning
from networks import BLOCKS, Generated, example
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from autoprune import trace
from autoprune.errors import GraphError, UnknownNameError
from autoprune.graph import LayerGraph, Role
from autoprune.models import MODELS, build_model
from autoprune.plan import Pattern

SHAPES = {"digits_cnn": (1, 8, 8), "mlp": (64,), "lenet5": (1, 28, 28), "lenet300_100": (1, 28, 28)}
ZOO = sorted(MODELS)


def zoo(name: str) -> tuple[nn.Module, Tensor]:
    options = {"width": 0.25} if name in ("vgg16_bn", "vgg11_bn", "mobilenet_v1", "mobilenet_v2") else {}
    return build_model(name, **options), torch.randn(2, *SHAPES.get(name, (3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("lenet300_100", 266_610, 266_200), ("lenet5", 431_080, 2_293_000)]
)
def test_golden_costs(name: str, params: int, macs: int) -> None:
    model, x = zoo(name)
    graph = trace(model, x)
    assert (graph.params, graph.macs) == (params, macs)
    assert graph.cost() == (params, macs)


@pytest.mark.parametrize("name", ZOO)
def test_zoo_costs_agree_with_torch(name: str) -> None:
    model, x = zoo(name)
    graph = trace(model, x, prove=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    assert graph.macs == counter.get_total_flops() // 2 // len(x)
    assert graph.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["digits_cnn", "lenet5", "vgg11_bn", "resnet20", "mobilenet_v1", "mobilenet_v2", "mlp"]
)
def test_zoo_groups_equal_torch_prunings(name: str) -> None:
    model, x = zoo(name)
    graph = trace(model, x)
    assert {n for n, g in graph.groups.items() if g.protected} <= {list(graph.layers)[-1], "input"}
    peer = torch_pruning.DependencyGraph().build_dependency(model.eval(), x)
    for group in graph.prunable:
        if group.pattern is not Pattern.INPUT:
            assert places(graph, group.name) == peer_places(peer, model, group.layers[0]), group.name


def places(graph: LayerGraph, name: str) -> set[tuple[str, str]]:
    """(layer, what happens) of a group, norms as outputs the way torch-pruning sees them."""
    named = {Role.OUT: "out", Role.IN: "in", Role.ALONG: "out"}
    return {(slot.layer, named[slot.role]) for slot in graph.groups[name].slots}


def peer_places(peer: torch_pruning.DependencyGraph, model: nn.Module, layer: str) -> set[tuple[str, str]]:
    names = {module: name for name, module in model.named_modules()}
    root = model.get_submodule(layer)
    prune = peer.get_pruner_of_module(root).prune_out_channels
    found = set()
    for dependency, _ in peer.get_pruning_group(root, prune, [0]).items:
        module = dependency.target.module
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)):
            depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
            outwards = "out" in dependency.handler.__name__ or depthwise
            found.add((names[module], "out" if outwards else "in"))
    return found


class OwnForward(nn.Module):
    """Calls whatever it is given between two convolutions."""

    def __init__(self, middle) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(torch.relu(self.first(x)))).mean((2, 3))


PRUNABLE = {
    "upsample": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "zero padding": lambda x: nn.functional.pad(x, (1, 1, 1, 1)),
    "instance norm": nn.functional.instance_norm,
    "spatial softmax": lambda x: x.flatten(2).softmax(-1).view_as(x),
    "flip": lambda x: x.flip(-1),
    "in place": lambda x: x.add_(1).clamp_(0, 2),
    "written into zeros": lambda x: torch.zeros_like(x).copy_(x),
    "control flow": lambda x: x * 2 if len(x) > 1 and x.shape[2] == 4 else x.sum(1),
    "max pool": lambda x: nn.functional.max_pool2d(x, 2),
}
WHOLE = {
    "mean over channels": (lambda x: x - x.mean(1, keepdim=True), "mixes its channels"),
    "softmax over channels": (lambda x: x.softmax(1), "mixes its channels"),
    "sort over channels": (lambda x: x.sort(1).values, "no rule"),
    "fixed sizes": (lambda x: x.view(2, 8, -1).view(2, 8, 4, 4), "without a unit the network fails"),
    "product of activations": (lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2))[..., None][:, :8], "multiplies"),
    "padded channels": (lambda x: x + nn.functional.pad(x[:, :4], (0, 0, 0, 0, 2, 2)), "fixed size"),
}


@pytest.mark.parametrize("what", PRUNABLE)
def test_operations_that_keep_channels_apart(what: str) -> None:
    graph = trace(OwnForward(PRUNABLE[what]), example())
    assert graph.groups["first"].protected is None
    assert graph.groups["first"].size == 8


@pytest.mark.parametrize("what", WHOLE)
def test_what_cannot_be_removed_is_named(what: str) -> None:
    middle, reason = WHOLE[what]
    graph = trace(OwnForward(middle), example())
    assert reason in str(graph.groups["first"].protected)
    assert any(note.startswith("first: ") for note in graph.notes)


def test_random_forward_is_protected() -> None:
    graph = trace(OwnForward(lambda x: x * torch.rand(x.shape, dtype=x.dtype)), example())
    assert "not deterministic" in str(graph.groups["first"].protected)


def test_network_with_nan_is_protected() -> None:
    model = OwnForward(torch.relu)
    with torch.no_grad():
        model.second.weight[0] = float("nan")
    assert "not finite" in str(trace(model, example()).groups["first"].protected)


def test_tuple_and_mapping_examples() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"logits": self.c(torch.relu(self.a(left) + self.b(right)))}

    left, right = torch.randn(2, 4), torch.randn(2, 5)
    for given in ((left, right), {"left": left, "right": right}):
        graph = trace(Two(), given)
        assert graph.groups["a"].layers == ("a", "b")
        assert graph.groups["c"].protected == "it is the network's output"


def test_inputs_can_be_dropped() -> None:
    from autoprune.applied import masked, slim

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    graph = trace(model, x)
    assert (graph.groups["input"].pattern, graph.groups["input"].size) == (Pattern.INPUT, 12)
    kept = {"input": torch.tensor([0, 3, 11])}
    small = slim(model, graph, kept)
    assert small[1].weight.shape == (5, 3)
    torch.testing.assert_close(small(x), masked(model, graph, kept)(x), rtol=1e-12, atol=1e-12)


def test_order_of_layers_and_shapes() -> None:
    graph = trace(build_model("lenet5"), torch.randn(2, 1, 28, 28))
    assert list(graph.layers) == ["conv1", "conv2", "fc1", "fc2"]
    conv2 = graph.layers["conv2"]
    assert (conv2.weight_shape, conv2.input_shape, conv2.kernel) == ((50, 20, 5, 5), (20, 12, 12), (5, 5))
    assert conv2.macs == math.prod(conv2.weight_shape) * conv2.positions
    assert graph.groups["conv2"].consumers[0].per_unit == 16


def test_attention_models_keep_their_heads() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    graph = trace(layer, torch.randn(2, 5, 16))
    assert [g.name for g in graph.prunable] == ["linear1"]
    assert "heads" in str(graph.groups["self_attn"].protected)


def test_model_is_unchanged_by_tracing() -> None:
    model = Generated([(BLOCKS[0], 4), (BLOCKS[7], 4)], flatten=True, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    trace(model, example())
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(m.training for m in model.modules())


def test_globs() -> None:
    graph = trace(build_model("lenet5"), torch.randn(2, 1, 28, 28))
    assert [g.name for g in graph.select(["conv*"])] == ["conv1", "conv2"]
    assert [g.name for g in graph.select([], ["fc*"])] == ["conv1", "conv2"]
    with pytest.raises(UnknownNameError, match=r"unknown layer or glob 'cnv1'; did you mean 'conv1'"):
        graph.select(["cnv1"])
    with pytest.raises(UnknownNameError, match="no prunable group is left"):
        graph.select(["fc2"])
    with pytest.raises(UnknownNameError, match="did you mean 'conv1'"):
        graph.group("conv11")


def test_refusals() -> None:
    with pytest.raises(GraphError, match=r"forward failed on the example \(shapes \(2, 5\)\)"):
        trace(nn.Linear(4, 2), torch.randn(2, 5))
    with pytest.raises(GraphError, match=r"needs a torch\.nn\.Module, but got str"):
        trace("resnet20", torch.randn(2, 5))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="must hold a tensor"):
        trace(nn.Linear(4, 2), [])
    with pytest.raises(GraphError, match="layer '' has a parametrised weight"):
        trace(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), torch.randn(2, 4))
    masked_layer = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    prune.l1_unstructured(masked_layer[0], "weight", 0.5)
    with pytest.raises(GraphError, match="layer '0' recomputes its weight"):
        trace(masked_layer, torch.randn(2, 4))
    with pytest.raises(GraphError, match="lazy"):
        trace(nn.LazyLinear(3), torch.randn(2, 4))
    with pytest.raises(GraphError, match=r"longer than 0 s"):
        trace(build_model("resnet20"), torch.randn(2, 3, 32, 32), time_limit_s=0)
