"""What a method is: from a group's weights and statistics, a score for each unit. Low scores go first.

A method knows no model, loader, device or file. Shapes: ``U`` units of a group, ``F`` entries that make a unit in one
layer, ``O`` outputs and ``I`` inputs (unfolded: channels * kh * kw) of a layer, ``B`` batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autoprune.calibration.stats import LayerStats, Need
from autoprune.errors import MethodError
from autoprune.plan import Pattern

STRUCTURED = frozenset({Pattern.CHANNEL, Pattern.UNIT, Pattern.INPUT})


@dataclass(frozen=True, eq=False)
class Member:
    """One layer's share of a group.

    Attributes:
        layer: its name.
        weight: ``[U, F]`` float64: what makes each unit in this layer (for ``weight``: ``[O, I]``, every entry a unit).
        stats: what calibration saw at this layer, ``None`` where the method needs nothing.
        positions: ``[U, k]`` rows (for ``input``: columns) of the layer that belong to each unit.
        tensor: name of the weight.
        dim: dimension of the weight along which the units lie.
    """

    layer: str
    weight: Tensor
    stats: LayerStats | None
    positions: Tensor
    tensor: str = ""
    dim: int = 0

    @property
    def taylor(self) -> Tensor:
        """``[U, B]``: derivative of each batch's loss along a gate on each unit in this layer.

        Raises:
            MethodError: gradients were not collected here.
        """
        sums = None if self.stats is None else self.stats.taylor.get((self.tensor, self.dim))
        if sums is None:
            raise MethodError(
                f"the gradient of {self.layer!r} (dimension {self.dim} of its weight) was not collected; "
                "pass needs={Need.GRADIENT}"
            )
        return sums[self.positions].sum(1)


class Method(Protocol):
    """One way to rank the units of a group."""

    @property
    def name(self) -> str:
        """Its key in the registry."""

    @property
    def patterns(self) -> frozenset[Pattern]:
        """The units it can rank."""

    @property
    def needs(self) -> frozenset[Need]:
        """The statistics it needs."""

    @property
    def source(self) -> str:
        """Authors, title, year."""

    def score(
        self, members: Sequence[Member], pattern: Pattern, generator: torch.Generator, *, combine: str = "mean"
    ) -> Tensor:
        """Scores ``[U]`` (for ``weight``: ``[O, I]``), float64, finite; the lowest goes first.

        Args:
            members: the layers that make the units, at least one; for ``weight`` exactly one.
            pattern: what a unit is.
            generator: the only source of chance.
            combine: name in :data:`COMBINE`, for methods that score each member alone.
        """


def _shares(scores: Tensor) -> Tensor:
    """``[members, ...]`` scores, each member's divided by the mean of their absolute values."""
    means = scores.abs().flatten(1).mean(1).clamp(min=torch.finfo(scores.dtype).tiny)
    return scores / means.view(-1, *[1] * (scores.dim() - 1))


COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: _shares(s).mean(0),
    "sum": lambda s: s.sum(0),
    "max": lambda s: _shares(s).amax(0),
    "first": lambda s: s[0],
}
"""How scores ``[members, U]`` of a group's layers become one: mean or largest share, plain sum, first layer's alone."""


@dataclass(frozen=True)
class Recipe:
    """A method that scores each member alone and combines. See :func:`recipe`."""

    name: str
    source: str
    rank: Callable[[Member], Tensor]
    patterns: frozenset[Pattern]
    needs: frozenset[Need]

    def score(
        self,
        members: Sequence[Member],
        pattern: Pattern,  # noqa: ARG002 (the protocol's signature)
        generator: torch.Generator,  # noqa: ARG002
        *,
        combine: str = "mean",
    ) -> Tensor:
        """Score each member by ``rank``; a single member's scores stay as they are."""
        if len(members) == 1:
            return self.rank(members[0])
        return COMBINE[combine](torch.stack([self.rank(member) for member in members]))


def recipe(
    name: str,
    source: str,
    rank: Callable[[Member], Tensor],
    *,
    patterns: Iterable[Pattern] = STRUCTURED,
    needs: Iterable[Need] = (),
) -> Recipe:
    """A method from one function.

    Args:
        name: its key in the registry.
        source: authors, title, year.
        rank: scores ``[U]`` (for ``weight``: ``[O, I]``) of one member, float64, finite.
        patterns: the units it can rank.
        needs: the statistics it needs.
    """
    return Recipe(name, source, rank, frozenset(patterns), frozenset(needs))


@dataclass(frozen=True)
class Joint:
    """A method that scores all members at once. See :func:`joint`."""

    name: str
    source: str
    rank: Callable[[Sequence[Member], Pattern, torch.Generator], Tensor]
    patterns: frozenset[Pattern]
    needs: frozenset[Need]

    def score(
        self,
        members: Sequence[Member],
        pattern: Pattern,
        generator: torch.Generator,
        *,
        combine: str = "mean",  # noqa: ARG002 (nothing is combined)
    ) -> Tensor:
        """Score all members at once by ``rank``."""
        return self.rank(members, pattern, generator)


def joint(
    name: str,
    source: str,
    rank: Callable[[Sequence[Member], Pattern, torch.Generator], Tensor],
    *,
    patterns: Iterable[Pattern] = STRUCTURED,
    needs: Iterable[Need] = (),
) -> Joint:
    """A method from one function that sees all members of a group at once; otherwise as :func:`recipe`."""
    return Joint(name, source, rank, frozenset(patterns), frozenset(needs))
