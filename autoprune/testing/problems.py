"""Small problems for conformance checks: random members of a group, and a network with every kind of group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from autoprune.calibration import LayerStats, Need, collect
from autoprune.data.splits import Split
from autoprune.graph import Group, LayerGraph
from autoprune.methods.base import Member
from autoprune.plan import Pattern
from autoprune.seeding import generator
from autoprune.tracing import trace

BATCHES = 3


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is shown: the members of one group, statistics of every kind included.

    Attributes:
        pattern: what a unit is.
        members: one layer for ``weight``, else two.
    """

    pattern: Pattern
    members: tuple[Member, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the scores."""
        weight = self.members[0].weight
        return tuple(weight.shape) if self.pattern is Pattern.WEIGHT else (len(weight),)

    def units_permuted(self, index: Tensor) -> Problem:
        """The same problem with its units (for ``weight``: outputs) in another order."""
        return replace(self, members=tuple(_units_permuted(m, self.pattern, index) for m in self.members))

    def entries_permuted(self, index: Tensor) -> Problem:
        """The same problem with the entries of each unit in another order, in the weights and in the statistics."""
        return replace(self, members=tuple(_entries_permuted(m, self.pattern, index) for m in self.members))


def problem(
    pattern: Pattern,
    *,
    units: int = 6,
    entries: int = 5,
    seed: int = 0,
    dead: bool = False,
    singular: bool = False,
    zeros: bool = False,
) -> Problem:
    """A random problem.

    Args:
        pattern: what a unit is.
        units: units of the group (for ``weight``: outputs).
        entries: weights of one unit.
        seed: of everything random.
        dead: an input that is always zero, and a unit without weights.
        singular: fewer samples than inputs.
        zeros: all weights and gradients are zero.
    """
    count = 1 if pattern is Pattern.WEIGHT else 2
    draws = generator(seed, "problem", pattern)
    members = []
    for place in range(count):
        weight = torch.randn(units, entries, generator=draws, dtype=torch.float64)
        inputs = units if pattern is Pattern.INPUT else entries
        rows = torch.randn(2 if singular else 20 + 2 * inputs, inputs, generator=draws, dtype=torch.float64) + 0.5
        if dead:
            weight[-1], rows[:, 0] = 0, 0
        weight = weight * 0 if zeros else weight
        members.append(_member(f"layer{place}", weight, rows, pattern, draws))
    return Problem(pattern, tuple(members))


def _member(name: str, weight: Tensor, rows: Tensor, pattern: Pattern, draws: torch.Generator) -> Member:
    dim = 1 if pattern is Pattern.INPUT else 0
    noise = torch.randn(len(weight), BATCHES, generator=draws, dtype=torch.float64)
    taylor = {(f"{name}.weight", dim): noise * weight.abs().sum(1, keepdim=True)}
    covariance = rows.T.cov(correction=0).reshape(rows.shape[1], rows.shape[1])
    stats = LayerStats(len(rows), rows.mean(0), covariance, taylor)
    return Member(name, weight, stats, torch.arange(len(weight))[:, None], f"{name}.weight", dim)


def _units_permuted(member: Member, pattern: Pattern, index: Tensor) -> Member:
    assert member.stats is not None
    stats = _inputs_permuted(member.stats, index) if pattern is Pattern.INPUT else member.stats
    taylor = {key: sums[index] for key, sums in stats.taylor.items()}
    return replace(member, weight=member.weight[index], stats=replace(stats, taylor=taylor))


def _entries_permuted(member: Member, pattern: Pattern, index: Tensor) -> Member:
    assert member.stats is not None
    stats = member.stats if pattern is Pattern.INPUT else _inputs_permuted(member.stats, index)
    return replace(member, weight=member.weight[:, index], stats=stats)


def _inputs_permuted(stats: LayerStats, index: Tensor) -> LayerStats:
    assert stats.mean is not None
    assert stats.covariance is not None
    return replace(stats, mean=stats.mean[index], covariance=stats.covariance[index][:, index])


class _Mixed(nn.Module):
    """A skip connection, norms, depthwise and transposed convolutions, flattened into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.skip = nn.Conv2d(8, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.down = nn.Conv2d(6, 5, 4, stride=4)
        self.hidden = nn.Linear(5 * 4, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depth(x + self.skip(x)))
        x = torch.relu(self.down(torch.relu(self.up(x))))
        return self.out(torch.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Network:
    """A small network in float64 with its graph, samples and every statistic."""

    model: nn.Module
    graph: LayerGraph
    split: Split
    stats: Mapping[str, LayerStats]

    def groups(self, pattern: Pattern) -> list[Group]:
        """Prunable groups of this pattern."""
        return [group for group in self.graph.prunable if group.pattern is pattern]

    @property
    def inputs(self) -> Tensor:
        """All samples, float64."""
        return self.split.inputs().double()


@lru_cache(maxsize=1)
def network() -> Network:
    """The network that the checks prune; made and traced once."""
    draws = generator(7, "testing", "network")
    model = _Mixed().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = max(1, parameter[0].numel()) ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * scale)
    split = Split(torch.randn(40, 3, 4, 4, generator=draws), torch.randint(3, (40,), generator=draws))
    graph = trace(model, split.inputs(slice(0, 2)).double())
    return Network(model, graph, split, collect(model, graph, split, set(Need), batch_size=10))
