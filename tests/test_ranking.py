"""Orders, how they are kept, and one ranking over several groups."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.calibration import LayerStats, Need, collect
from autoprune.data.splits import Split
from autoprune.errors import BudgetError, MethodError, PlanError, UnknownNameError
from autoprune.graph import Group, LayerGraph, Role, Slot
from autoprune.methods import COMBINE, METHODS, Member, recipe
from autoprune.plan import Pattern
from autoprune.ranking import Ranker, global_weights, smallest_prefix
from autoprune.ranking.members import as_stored, group_members, weight_member
from autoprune.seeding import generator
from autoprune.testing import network
from autoprune.tracing import trace


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, LayerGraph, Split]:
    """The network of the conformance checks; no test may change it."""
    made = network()
    return made.model, made.graph, made.split


def test_members_are_the_layers_that_make_a_unit(case) -> None:
    model, graph, _ = case
    tensors = dict(model.named_parameters())
    stem = group_members(graph.group("stem"), tensors, {})
    assert [(m.layer, tuple(m.weight.shape)) for m in stem] == [("stem", (8, 27)), ("skip", (8, 72)), ("depth", (8, 9))]
    (up,) = group_members(graph.group("up"), tensors, {})
    assert up.dim == 1
    assert torch.equal(up.weight, model.up.weight.transpose(0, 1).flatten(1))
    (image,) = group_members(graph.group("input"), tensors, {})
    assert torch.equal(image.weight, model.stem.weight.transpose(0, 1).flatten(1))


def test_a_unit_of_several_rows_is_one_row() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.out = nn.Linear(4, 24), nn.Conv2d(6, 5, 1), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(torch.relu(self.first(x)).view(-1, 6, 2, 2)).mean((2, 3)))

    model = Flat().eval()
    graph = trace(model, torch.randn(2, 4))
    (member,) = group_members(graph.group("first"), dict(model.named_parameters()), {})
    assert member.positions.shape == (6, 4)
    assert torch.equal(member.weight, model.first.weight.double().view(6, 16))


def test_a_unit_that_nothing_makes_is_judged_by_what_consumes_it() -> None:
    weight = torch.randn(3, 4, generator=generator(0))
    slot = Slot("out.weight", "out", 1, Role.IN, torch.arange(4)[:, None])
    (member,) = group_members(Group("constant", Pattern.CHANNEL, 4, (slot,)), {"out.weight": weight}, {})
    assert torch.equal(member.weight, weight.T.double())
    with pytest.raises(MethodError, match="group 'none' has no weights by which its units could be ranked"):
        group_members(Group("none", Pattern.CHANNEL, 4, ()), {}, {})


def test_layers_combine_as_shares_so_that_scale_does_not_matter(case) -> None:
    model, graph, _ = case
    members = group_members(graph.group("stem"), dict(model.named_parameters()), {})
    norms = torch.stack([m.weight.abs().sum(1) for m in members])
    shares = norms / norms.mean(1, keepdim=True)
    want = {"mean": shares.mean(0), "max": shares.amax(0), "sum": norms.sum(0), "first": norms[0]}
    assert set(want) == set(COMBINE)
    for combine, scores in want.items():
        torch.testing.assert_close(Ranker(model, graph, combine=combine).scores("stem", "l1_norm"), scores)
    scaled = [Member(m.layer, m.weight * s, None, m.positions) for m, s in zip(members, (1.0, 50.0, 0.01), strict=True)]
    score = METHODS["l1_norm"].score(scaled, Pattern.CHANNEL, generator(0))
    torch.testing.assert_close(score, want["mean"])
    with pytest.raises(UnknownNameError, match="unknown combination 'maen'; did you mean 'mean'"):
        Ranker(model, graph, combine="maen")


def test_taylor_sums_the_layers_before_it_squares(case) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.GRADIENT}, batch_size=10)
    parts = [stats[layer].taylor[f"{layer}.weight", 0] for layer in ("stem", "skip", "depth")]
    assert parts[0].shape == (8, len(split) // 10)
    want = sum(parts).square().mean(1)
    torch.testing.assert_close(Ranker(model, graph, stats=stats).scores("skip", "taylor_fo"), want)


def test_orders_start_with_the_lowest_and_ties_with_the_first(case) -> None:
    model, graph, _ = case
    ranker = Ranker(model, graph)
    order = ranker.order("hidden", "l2_norm")
    assert order.dtype == torch.int64
    assert order.tolist() == ranker.scores("hidden", "l2_norm").argsort().tolist()
    flat = recipe("flat", "", lambda m: torch.ones(len(m.weight), dtype=torch.float64))
    assert Ranker(model, graph).order("hidden", flat).tolist() == list(range(7))
    assert ranker.kept("hidden", "l2_norm", 3).tolist() == sorted(order[3:].tolist())
    assert ranker.order("out", "l2_norm").shape == (3,)


@pytest.mark.parametrize("layer", ["stem", "skip", "depth", "up", "hidden"])
def test_weight_orders_index_the_weight_as_it_is_stored(case, layer: str) -> None:
    model, graph, _ = case
    weight = model.get_submodule(layer).weight.detach()
    ranker = Ranker(model, graph)
    torch.testing.assert_close(ranker.weight_scores(layer, "magnitude"), weight.abs())
    mask = ranker.weight_mask(layer, "magnitude", 0.3)
    removed = math.floor(0.3 * weight.numel() + 0.5)
    assert int((~mask).sum()) == removed
    assert weight[~mask].abs().max() <= weight[mask].abs().min()
    member = weight_member(graph, layer, dict(model.named_parameters()), {})
    assert torch.equal(as_stored(member.weight, tuple(weight.shape), member.dim), weight)


def test_chance_is_seeded_for_each_group(case) -> None:
    model, graph, _ = case
    one, same, other = (Ranker(model, graph, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.order("stem", "random"), same.order("stem", "random"))
    assert not torch.equal(one.scores("stem", "random"), other.scores("stem", "random"))
    assert not torch.equal(one.scores("up", "random"), one.scores("stem", "random")[:6])
    torch.testing.assert_close(one.weight_scores("up", "random"), same.weight_scores("up", "random"))


# ---- errors ------------------------------------------------------------------------------------------------------


def test_errors_name_what_came(case) -> None:
    model, graph, _ = case
    ranker = Ranker(model, graph)
    with pytest.raises(UnknownNameError, match="unknown method 'magnitud'; did you mean 'magnitude'"):
        ranker.order("stem", "magnitud")
    with pytest.raises(UnknownNameError, match="unknown group or layer 'stm'; did you mean 'stem'"):
        ranker.order("stm", "l1_norm")
    with pytest.raises(
        MethodError, match="'magnitude' cannot rank pattern 'channel' of group 'stem'; it ranks: weight"
    ):
        ranker.order("stem", "magnitude")
    with pytest.raises(MethodError, match="'fpgm' cannot rank pattern 'weight' of layer 'up'"):
        ranker.weight_order("up", "fpgm")
    with pytest.raises(
        MethodError,
        match=r"needs the gradient of 'stem', which calibration did not collect; pass needs=\{Need.GRADIENT",
    ):
        ranker.order("stem", "taylor_fo")
    with pytest.raises(MethodError, match="layer 'norm' has no weights to mask; layers that have: stem, skip"):
        ranker.weight_order("norm", "magnitude")
    broken = recipe("broken", "", lambda m: torch.full((len(m.weight),), torch.nan, dtype=torch.float64))
    with pytest.raises(MethodError, match=r"'broken' for group 'stem' gave the score nan at \[0\]"):
        ranker.order("stem", broken)
    short = recipe("short", "", lambda m: m.weight[0])
    with pytest.raises(MethodError, match=r"'short' for group 'hidden' must score \[7\], but gave \[20\]"):
        ranker.order("hidden", short)


# ---- kept in memory and on disk ----------------------------------------------------------------------------------


def counting(calls: list[str]):
    def rank(member: Member) -> Tensor:
        calls.append(member.layer)
        return member.weight.abs().sum(1)

    return recipe("counting", "", rank)


def test_scores_are_computed_once_and_shared_through_a_folder(case, tmp_path) -> None:
    model, graph, _ = case
    calls: list[str] = []
    first = Ranker(model, graph, cache_dir=tmp_path)
    order = first.order("up", counting(calls))
    first.order("up", counting(calls))
    first.order("hidden", counting(calls))
    everything = sorted(calls)
    assert everything == ["depth", "down", "hidden", "skip", "stem", "stem", "up"]  # each group once, input included
    second = Ranker(model, graph, cache_dir=tmp_path)
    assert torch.equal(second.order("up", counting(calls)), order)
    second.order("stem", counting(calls))
    assert sorted(calls) == everything
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_folder_only_what_is_asked_is_computed(case) -> None:
    model, graph, _ = case
    calls: list[str] = []
    ranker = Ranker(model, graph)
    ranker.order("up", counting(calls))
    ranker.scores("up", counting(calls))
    assert calls == ["up"]


def test_what_determines_the_scores_is_in_the_key(case, tmp_path) -> None:
    model, graph, _ = case
    other = copy.deepcopy(model)
    other.hidden.weight.data.mul_(-2)
    for ranker in (
        Ranker(model, graph, cache_dir=tmp_path),
        Ranker(other, graph, cache_dir=tmp_path),
        Ranker(model, graph, cache_dir=tmp_path, combine="max"),
        Ranker(model, graph, cache_dir=tmp_path, seed=1),
    ):
        ranker.order("stem", "l1_norm")
    Ranker(model, graph, cache_dir=tmp_path).order("stem", "l2_norm")
    assert len(list(tmp_path.iterdir())) == 5
    torch.testing.assert_close(
        Ranker(other, graph, cache_dir=tmp_path).scores("hidden", "l1_norm"), other.hidden.weight.detach().abs().sum(1)
    )


def test_a_damaged_file_is_computed_again(case, tmp_path) -> None:
    model, graph, _ = case
    want = Ranker(model, graph, cache_dir=tmp_path).order("stem", "fpgm")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:-9], b"\xff" * len(whole)):
        file.write_bytes(damage)
        assert torch.equal(Ranker(model, graph, cache_dir=tmp_path).order("stem", "fpgm"), want)
        assert file.read_bytes() == whole


def test_statistics_are_asked_for_only_when_needed(case, tmp_path) -> None:
    model, graph, split = case
    asked: list[frozenset[Need]] = []

    def source(needs: frozenset[Need]) -> dict[str, LayerStats]:
        asked.append(needs)
        return collect(model, graph, split, needs)

    ranker = Ranker(model, graph, stats=source, cache_dir=tmp_path, stats_key="all of it")
    ranker.order("stem", "l1_norm")
    assert asked == []
    order = ranker.order("stem", "taylor_fo")
    ranker.order("hidden", "taylor_fo")
    assert asked == [frozenset({Need.GRADIENT})]
    again = Ranker(model, graph, stats=source, cache_dir=tmp_path, stats_key="all of it")
    assert torch.equal(again.order("stem", "taylor_fo"), order)
    assert len(asked) == 1
    Ranker(model, graph, stats=source, cache_dir=tmp_path, stats_key="another").order("stem", "taylor_fo")
    assert len(asked) == 2


def test_statistics_that_cover_some_layers_serve_the_groups_they_cover(case, tmp_path) -> None:
    model, graph, split = case
    stats = collect(model, graph, split, {Need.GRADIENT}, layers=["hidden"])
    ranker = Ranker(model, graph, stats=stats, cache_dir=tmp_path)
    assert ranker.order("hidden", "taylor_fo").shape == (7,)
    with pytest.raises(MethodError, match="'taylor_fo' needs the gradient of 'stem'"):
        ranker.order("stem", "taylor_fo")


# ---- one ranking over several groups -----------------------------------------------------------------------------


def brute(scores: dict[str, Tensor], fits, floors: dict[str, int]) -> dict[str, int] | None:
    pool = []
    for place, (name, values) in enumerate(scores.items()):
        ordered = sorted((float(v), i) for i, v in enumerate(values))
        pool += [(v, place, rank, name) for rank, (v, _) in enumerate(ordered[: max(0, len(ordered) - floors[name])])]
    removed = dict.fromkeys(scores, 0)
    if fits(removed):
        return removed
    for _, _, _, name in sorted(pool):
        removed[name] += 1
        if fits(removed):
            return removed
    return None


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    target=st.integers(0, 90),
    floor=st.integers(1, 3),
)
def test_the_prefix_is_the_shortest_that_fits(groups, weights, target: int, floor: int) -> None:
    scores = {f"g{i}": torch.tensor(values, dtype=torch.float64) for i, values in enumerate(groups)}
    floors = dict.fromkeys(scores, floor)
    calls = 0

    def fits(removed: dict[str, int]) -> bool:
        nonlocal calls
        calls += 1
        return sum(w * n for w, n in zip(weights, removed.values(), strict=False)) >= target

    want = brute(scores, fits, floors)
    calls = 0
    if want is None:
        with pytest.raises(BudgetError, match="budget cannot be met"):
            smallest_prefix(scores, fits, floors)
    else:
        assert smallest_prefix(scores, fits, floors) == want
        assert all(n <= max(0, len(g) - floor) for n, g in zip(want.values(), groups, strict=True))
    assert calls <= 2 + math.ceil(math.log2(1 + sum(map(len, groups))))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.first.weight.data = torch.tensor([[1.0], [2.0]])
        self.second.weight.data = torch.tensor([[0.1, 0.2]])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_magnitude_by_layer_and_global() -> None:
    model = Pair().eval()
    graph = trace(model, torch.ones(2, 1))
    ranker = Ranker(model, graph)
    names = ["first", "second"]
    assert [ranker.weight_mask(n, "magnitude", 0.5).flatten().tolist() for n in names] == [[False, True]] * 2

    def half(removed: dict[str, int]) -> bool:
        return sum(removed.values()) >= 2

    raw = {"pattern": "weight", "normalise": False}
    assert ranker.global_removed(names, "magnitude", half, **raw, floor=0) == {"first": 0, "second": 2}
    with pytest.raises(BudgetError, match=r"exceeded even when 1 of 4 units of 2 groups are removed"):
        ranker.global_removed(names, "magnitude", half, **raw)
    assert ranker.global_removed(names, "magnitude", half, pattern="weight", floor=1) == {"first": 1, "second": 1}


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.4])
def test_a_plan_of_global_magnitude_removes_the_smallest_of_all(case, sparsity: float) -> None:
    model, graph, _ = case
    ranker = Ranker(model, graph)
    plan = global_weights(ranker, sparsity, floor=1)
    masks = {d.layer: ranker.weight_mask(d.layer, d.method, d.sparsity) for d in plan.decisions}
    total = sum(model.get_submodule(n).weight.numel() for n in graph.weight_layers)
    gone = torch.cat(
        [model.get_submodule(n).weight.detach()[~mask].abs() for n, mask in masks.items()] or [torch.zeros(0)]
    )
    assert len(gone) == math.floor(sparsity * total + 0.5)
    every = torch.cat([model.get_submodule(n).weight.detach().abs().flatten() for n in graph.weight_layers])
    torch.testing.assert_close(gone.sort().values, every.sort().values[: len(gone)], rtol=0, atol=0, check_dtype=False)


def test_a_plan_of_global_magnitude_leaves_every_layer_a_weight_for_each_output(case) -> None:
    model, graph, _ = case
    plan = global_weights(Ranker(model, graph), 0.9)
    for decision in plan.decisions:
        shape = graph.layer(decision.layer).weight_shape
        assert math.prod(shape) - round(decision.sparsity * math.prod(shape)) >= (
            6 if decision.layer == "up" else shape[0]
        )
    with pytest.raises(PlanError, match="leave one with fewer than one for each output; lower it"):
        global_weights(Ranker(model, graph), 0.999)


def test_a_global_ranking_meets_a_budget_of_macs(case) -> None:
    model, graph, _ = case
    names = [g.name for g in graph.prunable if g.pattern is not Pattern.INPUT]
    dense = graph.cost()[1]
    removed = Ranker(model, graph).global_removed(names, "l2_norm", lambda r: graph.cost(r)[1] <= dense / 2)
    assert list(removed) == names
    assert graph.cost(removed)[1] <= dense / 2
    assert all(removed[n] <= graph.groups[n].size - 1 for n in names)
    nothing = Ranker(model, graph).global_removed(names, "l2_norm", lambda r: True)
    assert nothing == dict.fromkeys(names, 0)
