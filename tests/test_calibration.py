"""Statistics against brute force, and the promise that collecting them changes nothing."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.calibration import LayerStats, Need, collect, read_stats, stats_digest, write_stats
from autoprune.data.splits import Split
from autoprune.errors import ArtifactError, ModelError, SettingsError, UnknownNameError
from autoprune.graph import LayerGraph
from autoprune.seeding import generator
from autoprune.tracing import trace

ALL = {Need.MOMENTS, Need.GRADIENT}


class Small(nn.Module):
    """Convolution with norm, depthwise and plain convolution, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.point = nn.Conv2d(6, 5, 1)
        self.hidden = nn.Linear(5 * 9, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.tanh(self.point(self.depth(x)))
        return self.out(torch.tanh(self.hidden(F.avg_pool2d(x, 2).flatten(1))))


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Small().double()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        model.norm.weight.data.uniform_(0.5, 2)
        model.norm.bias.data.normal_()
    return model


def images(n: int = 24, shape: tuple[int, ...] = (2, 6, 6), classes: int = 3) -> Split:
    draws = generator(3, "images")
    return Split(torch.randn(n, *shape, generator=draws), torch.randint(classes, (n,), generator=draws))


GRAPHS: dict[type[nn.Module], LayerGraph] = {}


def traced(model: nn.Module, split: Split) -> LayerGraph:
    if type(model) not in GRAPHS:
        GRAPHS[type(model)] = trace(model, split.inputs(slice(0, 2)).to(next(model.parameters()).dtype))
    return GRAPHS[type(model)]


def inputs_of(model: nn.Module, layer: str, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    ("layer", "unfold"),
    [
        ("stem", lambda x: F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)),
        ("point", lambda x: x.permute(0, 2, 3, 1).flatten(0, 2)),
        ("hidden", lambda x: x),
    ],
)
def test_moments_equal_brute_force_over_all_positions(layer: str, unfold) -> None:
    model, split = small(), images()
    stats = collect(model, traced(model, split), split, {Need.MOMENTS}, positions_per_sample=None, batch_size=7)
    rows = unfold(inputs_of(model, layer, split.inputs().double())[0])
    assert stats[layer].samples == len(rows)
    torch.testing.assert_close(stats[layer].mean, rows.mean(0), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(stats[layer].gram, rows.T @ rows / len(rows), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(stats[layer].covariance, rows.T.cov(correction=0), rtol=1e-11, atol=1e-12)


def test_grouped_convolutions_have_no_moments() -> None:
    model, split = small(), images()
    stats = collect(model, traced(model, split), split, {Need.MOMENTS})
    assert set(stats) == {"stem", "point", "hidden", "out"}
    assert not stats["stem"].has(Need.GRADIENT)


def test_one_seed_one_result_and_batches_do_not_matter_for_moments() -> None:
    model, split = small(), images()
    graph = traced(model, split)

    def digest(**options: object) -> str:
        return stats_digest(collect(model, graph, split, ALL, samples=17, positions_per_sample=4, **options))  # type: ignore[arg-type]

    assert digest(seed=5) == digest(seed=5)
    assert digest(seed=5) != digest(seed=6)
    whole = collect(model, graph, split, {Need.MOMENTS}, positions_per_sample=None, batch_size=24)
    parts = collect(model, graph, split, {Need.MOMENTS}, positions_per_sample=None, batch_size=5)
    for layer in whole:
        torch.testing.assert_close(whole[layer].covariance, parts[layer].covariance, rtol=1e-12, atol=1e-13)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.out(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def test_a_layer_that_runs_twice_sees_the_inputs_of_both_runs() -> None:
    model, split = Twice().double(), images(20, (4,))
    stats = collect(model, traced(model, split), split, {Need.MOMENTS})
    rows = torch.cat(inputs_of(model, "shared", split.inputs().double()))
    assert stats["shared"].samples == 40
    torch.testing.assert_close(stats["shared"].covariance, rows.T.cov(correction=0))


# ---- gradients ---------------------------------------------------------------------------------------------------


def gate_slopes(model: nn.Module, split: Split, scale) -> float:
    """Central difference of the mean loss along a gate: ``scale(model, g)`` multiplies what a unit gives out by g."""
    step = 1e-5

    def loss(gate: float) -> float:
        other = copy.deepcopy(model)
        with torch.no_grad():
            scale(other, gate)
            return float(F.cross_entropy(other.eval()(split.inputs().double()), split.y))

    return (loss(1 + step) - loss(1 - step)) / (2 * step)


def _scale_norm(model: nn.Module, gate: float) -> None:
    model.norm.weight[2] *= gate
    model.norm.bias[2] *= gate


def _scale_depth(model: nn.Module, gate: float) -> None:
    model.depth.weight[2] *= gate
    model.depth.bias[2] *= gate


def _scale_hidden(model: nn.Module, gate: float) -> None:
    model.hidden.weight[2] *= gate
    model.hidden.bias[2] *= gate


def _scale_input(model: nn.Module, gate: float) -> None:
    model.stem.weight[:, 1] *= gate


@pytest.mark.parametrize(
    ("layer", "key", "unit", "scale"),
    [
        ("stem", ("stem.weight", 0), 2, _scale_norm),
        ("depth", ("depth.weight", 0), 2, _scale_depth),
        ("hidden", ("hidden.weight", 0), 2, _scale_hidden),
        ("stem", ("stem.weight", 1), 1, _scale_input),
    ],
)
def test_criteria_are_slopes_along_gates(layer: str, key: tuple[str, int], unit: int, scale) -> None:
    model, split = small(), images()
    stats = collect(model, traced(model, split), split, {Need.GRADIENT}, batch_size=24)
    assert stats[layer].taylor[key].shape[1] == 1
    assert float(stats[layer].taylor[key][unit, 0]) == pytest.approx(
        gate_slopes(model, split, scale), rel=1e-6, abs=1e-9
    )


class Up(nn.Module):
    """A transposed convolution, whose outputs lie along dimension 1 of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.ConvTranspose2d(2, 4, 2, stride=2), nn.Conv2d(4, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x))).mean((2, 3))


def test_transposed_convolutions_by_the_dimension_of_their_slot() -> None:
    model, split = Up().double(), images()
    stats = collect(model, traced(model, split), split, {Need.GRADIENT}, batch_size=24)

    def scale(other: nn.Module, gate: float) -> None:
        other.up.weight[:, 3] *= gate
        other.up.bias[3] *= gate

    assert stats["up"].taylor["up.weight", 1].shape == (4, 1)
    assert float(stats["up"].taylor["up.weight", 1][3, 0]) == pytest.approx(gate_slopes(model, split, scale), rel=1e-6)


def test_batches_are_full_ones_unless_there_is_only_one() -> None:
    model, split = small(), images()
    graph = traced(model, split)
    sizes = [
        collect(model, graph, split, {Need.GRADIENT}, batch_size=size)["out"].taylor["out.weight", 0].shape[1]
        for size in (24, 10, 100)
    ]
    assert sizes == [1, 2, 1]


def test_frozen_parameters_get_the_same_criteria() -> None:
    model, split = small(), images()
    graph = traced(model, split)
    free = stats_digest(collect(model, graph, split, ALL))
    model.requires_grad_(False)
    assert stats_digest(collect(model, graph, split, ALL)) == free
    assert not any(p.requires_grad for p in model.parameters())


# ---- nothing changes ---------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A module that changes its buffer whenever it runs, in evaluation mode too, and rebinds another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.last = x.detach().mean().reshape(1)
        return self.layer(x)


def _everything(model: nn.Module) -> dict[str, object]:
    facts: dict[str, object] = {f"mode {n}": m.training for n, m in model.named_modules()}
    facts |= {f"flag {n}": p.requires_grad for n, p in model.named_parameters()}
    facts |= {
        f"grad {n}": None if p.grad is None else (id(p.grad), p.grad.tolist()) for n, p in model.named_parameters()
    }
    facts |= {f"value {n}": (id(t), t.tolist()) for n, t in (*model.named_parameters(), *model.named_buffers())}
    return facts | {f"hooks {n}": len(m._forward_pre_hooks) for n, m in model.named_modules()}


@pytest.mark.parametrize("needs", [{Need.MOMENTS}, ALL])
def test_the_model_is_as_it_was(needs: set[Need]) -> None:
    for make, split in ((small, images()), (Counting, images(24, (4,)))):
        model = make()
        graph = traced(model, split)
        model.train()
        next(model.children()).eval()
        first = next(model.parameters())
        first.grad = torch.ones_like(first)
        first.requires_grad_(False)
        before = _everything(model)
        collect(model, graph, split, needs)
        assert _everything(model) == before


def test_the_model_is_as_it_was_after_an_error() -> None:
    model, split = small(), images()
    graph = traced(model, split)
    model.train()
    before = _everything(model)
    wrong = Split(torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long))
    with pytest.raises(RuntimeError):
        collect(model, graph, wrong, ALL)
    assert _everything(model) == before


# ---- bad input, files --------------------------------------------------------------------------------------------


def test_errors_name_what_came() -> None:
    model, split = small(), images()
    graph = traced(model, split)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'hiden'; did you mean 'hidden'"):
        collect(model, graph, split, ALL, layers=["hiden"])
    with pytest.raises(SettingsError, match="batch_size must be at least 1, but got 0"):
        collect(model, graph, split, ALL, batch_size=0)
    with pytest.raises(SettingsError, match="samples must be at least 1, but got -3"):
        collect(model, graph, split, ALL, samples=-3)


def test_layers_restrict_what_is_collected() -> None:
    model, split = small(), images()
    stats = collect(model, traced(model, split), split, ALL, layers=["hidden"])
    assert set(stats) == {"hidden"}
    assert stats["hidden"].has(Need.MOMENTS)
    assert stats["hidden"].has(Need.GRADIENT)


class Wrapped(nn.Module):
    def __init__(self, give) -> None:
        super().__init__()
        self.layer, self.give = nn.Linear(4, 3), give

    def forward(self, x: Tensor) -> object:
        return self.give(self.layer(x))


def test_outputs_that_are_not_one_tensor_of_scores() -> None:
    split = images(24, (4,))
    plain = Wrapped(lambda y: y)
    graph = traced(plain, split)
    named = Wrapped(lambda y: SimpleNamespace(logits=y))
    named.load_state_dict(plain.state_dict())
    want = collect(plain, graph, split, {Need.GRADIENT})["layer"].taylor["layer.weight", 0]
    got = collect(named, graph, split, {Need.GRADIENT})["layer"].taylor["layer.weight", 0]
    assert torch.equal(got, want)
    with pytest.raises(ModelError, match=r"class scores \[24, classes\], but the model returned tuple"):
        collect(Wrapped(lambda y: (y,)), graph, split, {Need.GRADIENT})
    with pytest.raises(ModelError, match="calibration split is nan"):
        collect(Wrapped(lambda y: y * float("nan")), graph, split, {Need.GRADIENT})


def test_statistics_go_to_a_file_and_back(tmp_path) -> None:
    model, split = small(), images()
    stats = collect(model, traced(model, split), split, ALL)
    path = tmp_path / "stats.safetensors"
    write_stats(path, stats)
    again = read_stats(path)
    assert stats_digest(again) == stats_digest(stats)
    assert again["stem"].samples == stats["stem"].samples
    assert set(again["stem"].taylor) == {("stem.weight", 0), ("stem.weight", 1)}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"cannot read statistics from '.*stats.safetensors'.*delete the file"):
        read_stats(path)
    with pytest.raises(ArtifactError, match="cannot read statistics"):
        read_stats(tmp_path / "none.safetensors")


def test_no_moments_no_gram() -> None:
    assert LayerStats().gram is None
    assert not LayerStats().has(Need.MOMENTS)
