"""The evaluation pass: deployed networks, prepared samples, batch size, precision, allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune import precision as precision_module
from autoprune.applied import slim
from autoprune.data import Split
from autoprune.deploy import deployed, foldable, folded_graph
from autoprune.errors import ModelError, SettingsError, UnknownNameError
from autoprune.evaluation import EvalSet, NotFinite, evaluate, pack_bits, unpack_bits
from autoprune.hardware import _cache_sizes, batch_size, bfloat16_in_hardware, cache_bytes
from autoprune.models import build_model
from autoprune.precision import choose_precision
from autoprune.seeding import seeded
from autoprune.tracing import trace


def images(count: int, channels: int = 3, size: int = 32, classes: int = 10) -> Split:
    draws = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=draws)
    y = torch.randint(0, classes, (count,), generator=draws)
    return Split(x, y, torch.full((channels,), 0.5), torch.full((channels,), 0.25))


def lively(name: str, **options: object) -> nn.Module:
    """A network whose batch norms have seen data, so that folding has something to fold."""
    with seeded(0, name):
        model = build_model(name, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
    return model


def digest(model: nn.Module) -> list[tuple[str, int, torch.Tensor]]:
    return [(name, id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg11_bn"])
def test_deployed_network_gives_the_same_outputs_and_changes_nothing(name):
    model = lively(name, **({} if name == "resnet20" else {"width": 0.25})).train()
    graph = trace(model, torch.zeros(2, 3, 32, 32), prove=False)
    assert len(foldable(model, graph.norms)) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    before, x = digest(model), images(4).inputs()
    fast = deployed(model, graph.norms)

    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for (name_a, id_a, a), (name_b, id_b, b) in zip(before, digest(model), strict=True):
        assert (name_a, id_a) == (name_b, id_b)
        assert torch.equal(a, b)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    convs = [m.weight for m in fast.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convs)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_cutting_the_folded_network_is_folding_the_cut_one_to_the_last_bit(name):
    model = lively(name, **({} if name == "resnet20" else {"width": 0.25})).eval()
    graph = trace(model, torch.zeros(2, 3, 32, 32), prove=False)
    norms = foldable(model, graph.norms)
    kept = {g.name: torch.arange(0, g.size, 2) for g in graph.prunable}
    one = slim(deployed(model, norms), folded_graph(graph, norms), kept, share=True)
    other = deployed(slim(model, graph, kept), norms)
    here, there = one.state_dict(), other.state_dict()
    assert here.keys() == there.keys()
    for tensor_name, tensor in here.items():
        assert torch.equal(tensor, there[tensor_name]), tensor_name
    x = images(2).inputs()
    with torch.no_grad():
        torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-5)


def test_layers_that_share_a_weight_are_not_folded():
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight
            self.na, self.nb = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.nb(self.b(self.na(self.a(x)))).mean((2, 3))

    assert foldable(Twins(), [("a", "na"), ("b", "nb")]) == ()


@pytest.mark.parametrize(("count", "batch"), [(1, 64), (37, 8), (64, 64), (100, 33)])
def test_accuracy_and_loss_count_every_image_once(count, batch):
    model, split = lively("digits_cnn").eval(), images(count, 1, 8)
    with torch.no_grad():
        logits = model(split.inputs()).double()
    right = logits.argmax(1) == split.y
    found = EvalSet(split, batch=batch).evaluate(deployed(model))
    assert torch.equal(found.correct, right)
    assert (found.images, found.accuracy) == (count, right.double().mean().item())
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, split.y)), rel=1e-5)
    assert evaluate(model, split, batch_size=batch).accuracy == found.accuracy


def test_order_is_fixed_by_the_seed_and_blocks_join_to_the_whole():
    model, split = deployed(lively("digits_cnn")), images(90, 1, 8)
    first, again, other = (EvalSet(split, batch=16, order_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.order, again.order)
    assert not torch.equal(first.order, other.order)
    assert torch.equal(first.order.sort().values, torch.arange(90))
    assert torch.equal(first.x, split.inputs(first.order).contiguous(memory_format=torch.channels_last))
    whole = first.evaluate(model)
    parts = [first.evaluate(model, a, b) for a, b in ((0, 10), (10, 75), (75, 200))]
    assert torch.equal(torch.cat([p.correct for p in parts]), whole.correct)
    plain = EvalSet(split, batch=90).evaluate(model)
    assert torch.equal(plain.correct[first.order], whole.correct)


def test_tables_and_token_indices_are_samples_too():
    table = Split(torch.randn(9, 4), torch.arange(9) % 3)
    assert EvalSet(table, dtype=torch.bfloat16).x.dtype == torch.bfloat16
    tokens = Split(torch.randint(0, 7, (5, 3)), torch.zeros(5, dtype=torch.int64))
    assert EvalSet(tokens, dtype=torch.bfloat16).x.dtype == torch.int64


class Says(nn.Module):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> object:
        return self.what(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda x: torch.full((len(x), 10), torch.nan), NotFinite, "loss is NaN on the validation"),
        (lambda x: torch.eye(10)[[0] * len(x)] * torch.inf, NotFinite, "loss is NaN|loss is infinite"),
        (lambda x: (x, x), ModelError, "must return one tensor of logits .* but returned tuple"),
        (lambda x: x, ModelError, r"must return logits \[20, classes\], but returned shape \[20, 1, 8, 8\]"),
        (lambda x: torch.zeros(1, 10), ModelError, r"but returned shape \[1, 10\]"),
        (lambda x: torch.zeros(len(x), 3), ModelError, "data hold class 9, but the network has 3 outputs"),
    ],
)
def test_what_is_not_logits_is_refused(what, error, message):
    split = images(20, 1, 8)
    split.y[0] = 9
    with pytest.raises(error, match=message):
        EvalSet(split, batch=64).evaluate(Says(what))
    with pytest.raises(SettingsError, match="batch size"):
        EvalSet(split, batch=0)


@given(st.lists(st.booleans()))
def test_bits_go_to_text_and_back(bits):
    tensor = torch.tensor(bits, dtype=torch.bool)
    assert torch.equal(unpack_bits(pack_bits(tensor)), tensor)


def test_ten_thousand_bits_are_short():
    right = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) < 0.9
    assert len(pack_bits(right)) < 1_250


@pytest.mark.parametrize(
    ("network", "example", "itemsize", "cache", "expected"),
    [
        ("resnet20", (2, 3, 32, 32), 4, 32 * 2**20, 128),
        ("resnet20", (2, 3, 32, 32), 2, 32 * 2**20, 256),
        ("resnet20", (2, 3, 32, 32), 4, 2**20, 64),
        ("vgg11_bn", (2, 3, 32, 32), 4, 32 * 2**20, 64),
        ("lenet300_100", (2, 1, 28, 28), 4, 32 * 2**20, 1024),
    ],
)
def test_batch_size_follows_from_sizes(network, example, itemsize, cache, expected):
    graph = trace(build_model(network), torch.zeros(example), prove=False)
    assert batch_size(graph, itemsize=itemsize, cache=cache) == expected


def test_cache_sizes_are_read_from_the_system(tmp_path):
    for place, text in enumerate(("32K", "1024K", "32768K\n", "odd", "2M")):
        (tmp_path / f"index{place}").mkdir()
        (tmp_path / f"index{place}" / "size").write_text(text)
    assert max(_cache_sizes(tmp_path)) == 32 * 2**20
    assert list(_cache_sizes(tmp_path / "nowhere")) == []
    assert cache_bytes() >= 2**18


def test_small_networks_stay_in_float32():
    model = lively("digits_cnn").eval()
    graph = trace(model, torch.zeros(2, 1, 8, 8), prove=False)
    found = choose_precision("auto", model, images(20, 1, 8), graph, batch=8)
    assert found.name == "float32"
    assert "small" in found.reason
    assert choose_precision("bfloat16", model, images(20, 1, 8), graph, batch=8).name == "bfloat16"
    with pytest.raises(UnknownNameError, match="unknown precision 'float23'; did you mean 'float32'"):
        choose_precision("float23", model, images(20, 1, 8), graph, batch=8)


@pytest.fixture
def convolution(monkeypatch: pytest.MonkeyPatch):
    """A network large enough for bfloat16, on a processor that says it has it."""
    monkeypatch.setattr(precision_module, "bfloat16_in_hardware", lambda: True)
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model.append(nn.Linear(64, 10))
    return model.eval()


def test_bfloat16_needs_the_hardware_and_the_same_predictions(convolution, monkeypatch):
    split = images(200)
    graph = trace(convolution, torch.zeros(2, 3, 32, 32), prove=False)
    with torch.no_grad():
        convolution[4].weight.mul_(50)
        convolution[4].bias[3] += 100.0  # one class far ahead: no rounding changes a prediction
    assert choose_precision("auto", convolution, split, graph, batch=64).name == "bfloat16"
    with torch.no_grad():
        convolution[4].bias.fill_(100.0)  # every logit near 100, where bfloat16 has steps of 0.5
        convolution[4].weight.mul_(0.02)
    found = choose_precision("auto", convolution, split, graph, batch=64)
    assert found.name == "float32"
    assert "of float32's predictions" in found.reason
    monkeypatch.setattr(precision_module, "bfloat16_in_hardware", lambda: False)
    assert "no bfloat16" in choose_precision("auto", convolution, split, graph, batch=64).reason


def test_a_network_that_fails_in_bfloat16_stays_in_float32(convolution):
    class Strict(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) @ torch.eye(10)

    model = Strict(convolution)
    graph = trace(model, torch.zeros(2, 3, 32, 32), prove=False)
    found = choose_precision("auto", model, images(20), graph, batch=8)
    assert (found.name, found.reason) == ("float32", "the network does not run in bfloat16")


@pytest.mark.skipif(not bfloat16_in_hardware(), reason="no bfloat16 arithmetic here")
def test_bfloat16_pass_ranks_as_float32_does():
    model, split = lively("resnet20").eval(), images(64)
    graph = trace(model, torch.zeros(2, 3, 32, 32), prove=False)
    losses = {p: evaluate(model, split, norms=graph.norms, precision=p).loss for p in ("float32", "bfloat16")}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.parametrize(("switch", "expected"), [("", platform.libc_ver()[0] == "glibc"), ("default", False)])
def test_allocator_can_be_left_alone(switch, expected):
    code = "from autoprune.allocator import keep_memory as k; print(k(), k())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AUTOPRUNE_MALLOC": switch},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(expected)] * 2
