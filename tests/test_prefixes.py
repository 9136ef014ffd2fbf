"""What candidates share is computed once, and not one bit changes: in-place operations and repeated calls included."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import BLOCKS, Generated, example
from torch import Tensor, nn

from autoprune.models import build_model
from autoprune.prefixes import Course, Memo, arranged, observe, wanted
from autoprune.seeding import generator
from autoprune.skeleton import Skeleton
from autoprune.tracing import trace


class InPlace(nn.Module):
    """Writes to outputs of its layers, to the input of a block, and through a view; one layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.before = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))  # changes what it is given
        self.part = nn.Conv2d(4, 6, 1)
        self.twice = nn.Conv2d(6, 6, 1)
        self.pair = nn.ModuleList([nn.Conv2d(6, 5, 1), nn.Conv2d(5, 5, 1)])
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.before(x) + x
        x = self.part(x)
        x[:, :1].mul_(0.5)
        x = torch.relu_(self.twice(torch.relu_(self.twice(x))))
        return self.head(torch.relu_(self.pair[1](self.pair[0](x))).mean((2, 3)))


def of(model: nn.Module, x: Tensor) -> tuple[Skeleton, Course]:
    skeleton = Skeleton(model.eval(), trace(model, x, prove=False))
    return skeleton, observe(skeleton.module, [cut.tensor for cut in skeleton.cuts], x)


def test_course_of_a_chain_by_hand():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    skeleton, course = of(model, torch.randn(2, 4))
    names = [cut.name for cut in skeleton.cuts]
    reads = dict(zip(names, course.reads, strict=True))
    # Each linear layer is a transpose and a product with the bias; relu stands between two of them.
    assert reads == {"0.weight": 1, "0.bias": 2, "2.weight": 4, "2.bias": 5, "4.weight": 7}
    assert course.ends == {"0": 2, "2": 5, "4": 8}
    assert course.outermost(4) == {"0"}
    assert course.outermost(2) == set()
    assert course.outermost(7) == {"0", "2"}


def test_what_writes_to_older_memory_or_runs_twice_is_never_left_out():
    _, course = of(InPlace(), example())
    assert "twice" not in course.ends
    assert "before" not in course.ends
    assert {"stem", "before.1", "part", "pair.0", "pair.1"} <= course.ends.keys()


def test_whole_blocks_are_left_out_where_all_of_them_is_shared():
    model = build_model("resnet20", width=0.25)
    _, course = of(model, torch.randn(2, 3, 32, 32))
    shared = course.outermost(course.ends["stage2"] + 1)
    assert shared == {"conv1", "bn1", "stage1", "stage2"}
    assert {"stage2.0", "stage2.1.conv1"} <= course.outermost(course.ends["stage2.1.conv1"] + 1)


def test_a_parameter_that_is_read_outside_its_layer_counts_from_there():
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.two.weight.sum()
            return self.two(self.one(x))

    model = Early()
    course = observe(model, [model.two.weight, model.one.weight, torch.empty(3)], torch.randn(2, 4))
    assert course.reads[0] < course.reads[1]
    assert course.reads[2] == 0
    assert course.outermost(course.reads[0]) == set()


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=9, unique=True), st.permutations(range(4)))
def test_neighbours_share_as_much_as_any_two(rows, places):
    """Any two candidates between which the limits are at least T are equal before T, and no candidate is left out."""
    reads = [10 * (place + 1) for place in places]
    order, limits = arranged(rows, reads)
    assert sorted(order) == list(range(len(rows)))

    def first_difference(a: int, b: int) -> int:
        return min(read for read, x, y in zip(reads, rows[a], rows[b], strict=True) if x != y)

    for i, j in itertools.combinations(range(len(order)), 2):
        assert min(limits[i:j]) == first_difference(order[i], order[j])


@given(st.lists(st.integers(0, 60), max_size=8))
def test_outputs_are_kept_for_everyone_who_can_use_them(limits):
    ends = {"a": 20, "a.x": 5, "a.y": 12, "b": 40, "b.z": 33}
    course = Course((), ends)
    keep = wanted(course, limits)
    assert len(keep) == len(limits) + 1
    assert keep[-1] == set()
    for i, j in itertools.combinations(range(len(keep)), 2):
        assert course.outermost(min(limits[i:j])) <= keep[i]


def candidates(skeleton: Skeleton, names: list[str], sizes: dict[str, int], count: int, seed: int):
    """Keys and kept units of ``count`` candidates that often share decisions."""
    draws = random.Random(seed)
    found = {}
    for _ in range(count):
        kept = {}
        for name in names:
            keep = draws.choice([sizes[name], sizes[name], max(1, sizes[name] // 2), 1])
            if keep < sizes[name]:
                kept[name] = torch.arange(keep)
        key = tuple(tuple((g, len(kept[g])) for g in cut.groups if g in kept) for cut in skeleton.cuts)
        found[key] = kept
    return found


def check(model: nn.Module, x: Tensor, seed: int, most: int | None = None) -> int:
    """Outputs with and without a memo are the same bits, on two blocks of samples; how often it served."""
    graph = trace(model.eval(), x)
    skeleton, plain = Skeleton(model, graph), Skeleton(model, graph)
    course = observe(skeleton.module, [cut.tensor for cut in skeleton.cuts], x)
    groups = [group for group in graph.prunable if group.pattern != "input"]
    found = candidates(skeleton, [g.name for g in groups], {g.name: g.size for g in groups}, 6, seed)
    keys = list(found)
    order, limits = arranged(keys, course.reads)
    memo = Memo(course) if most is None else Memo(course, most)
    memo.watch(skeleton.module)
    keep = wanted(course, limits)
    for block in (x, x.flip(0) + 0.5):
        with torch.no_grad(), memo.samples():
            for number, limit, outputs in zip(order, [0, *limits], keep, strict=True):
                memo.turn(limit, outputs)
                tensors = skeleton.tensors(found[keys[number]])
                quick = skeleton.put(tensors)(block.clone())
                assert torch.equal(quick, plain.put(tensors)(block.clone()))
        assert not memo._held
    return memo.hits


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 5)), min_size=1, max_size=4),
    flatten=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bits_are_those_of_computing_everything(blocks, flatten, seed):
    check(Generated(blocks, flatten=flatten, seed=seed), example(), seed)


@pytest.mark.parametrize("seed", range(4))
def test_bits_with_operations_in_place(seed):
    torch.manual_seed(0)
    hits = check(InPlace(), example(), seed)
    hits += check(build_model("resnet20", width=0.25), torch.randn(2, 3, 16, 16, generator=generator(0)), seed)
    assert hits > 0


def test_memory_is_bounded():
    torch.manual_seed(0)
    assert check(build_model("resnet20", width=0.25), torch.randn(2, 3, 16, 16), 0, most=0) == 0


def test_only_tensors_are_kept():
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    model = nn.Sequential(Pairs())
    memo = Memo(Course((), {"0": 5, "0.inner": 4}))
    memo.watch(model)
    with torch.no_grad(), memo.samples():
        memo.turn(0, frozenset({"0", "0.inner"}))
        one = model(torch.ones(1, 4))
        memo.turn(9, frozenset())
        two = model(torch.ones(1, 4))
    assert memo.hits == 1
    assert one[0] is two[0]
