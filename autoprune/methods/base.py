"""What a method is: from a group's weights and statistics, a score for each unit. Low scores go first.

A method knows no model, loader, device or file. Shapes: ``U`` units of a group, ``F`` entries that make a unit in one
layer, ``O`` outputs and ``I`` inputs (unfolded: channels * kh * kw) of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from autoprune.calibration import LayerStats, Need
from torch import Tensor

from autoprune.plan import Pattern


@dataclass(frozen=True, eq=False)
class Member:
    """One layer's share of a group.

    Attributes:
        layer: its name.
        weight: ``[U, F]`` float64: what makes each unit in this layer (for ``weight``: ``[O, I]``, every entry a unit).
        stats: what calibration saw at this layer, ``None`` where the method needs nothing.
        positions: ``[U, k]`` rows (for ``input``: columns) of the layer that belong to each unit.
    """

    layer: str
    weight: Tensor
    stats: LayerStats | None
    positions: Tensor


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

    def score(self, members: Sequence[Member], pattern: Pattern, generator: torch.Generator) -> Tensor:
        """Scores ``[U]`` (for ``weight``: ``[O, I]``), float64, finite; the lowest goes first."""


COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: s.mean(0),
    "sum": lambda s: s.sum(0),
    "max": lambda s: s.amax(0),
    "first": lambda s: s[0],
}
