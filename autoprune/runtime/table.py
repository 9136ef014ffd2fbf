"""What a knob gives: a table from the knob to mean multiply-accumulates and accuracy, measured on validation data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from autoprune.errors import ArtifactError, ChainError


@dataclass(frozen=True)
class KnobRow:
    """One setting of the knob.

    Attributes:
        knob: bias for each further group.
        macs: mean multiply-accumulates of a sample, the controller's included.
        share: ``macs`` over those of the dense network.
        controller_macs: mean of the controller's own.
        accuracy: fraction classified right.
    """

    knob: float
    macs: float
    share: float
    controller_macs: float
    accuracy: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ChainError(f"{name} in a table of the knob must be a finite number, but got {value!r}")


@dataclass(frozen=True)
class KnobTable:
    """Rows by growing share, from the least that can be run to all groups.

    Attributes:
        rows: at least one; knobs and shares grow from row to row.
        images: samples it was measured on.
    """

    rows: tuple[KnobRow, ...]
    images: int

    def __post_init__(self) -> None:
        if not self.rows:
            raise ChainError("a table of the knob needs at least one row")
        for low, high in pairwise(self.rows):
            if not (low.knob < high.knob and low.share < high.share):
                raise ChainError(f"rows of the knob must grow in knob and share, but {high} follows {low}")

    @property
    def least(self) -> float:
        """The smallest share of the dense network's multiply-accumulates."""
        return self.rows[0].share

    @property
    def most(self) -> float:
        """The largest share; the controller's part may bring it above 1."""
        return self.rows[-1].share

    def knob(self, share: float) -> float:
        """The knob that gives this mean share, interpolated between the rows around it.

        Raises:
            ChainError: a share that the table does not reach.
        """
        if not self.least <= share <= self.most:
            raise ChainError(
                f"this network can be set to {self.least:.4g} to {self.most:.4g} of the dense network's "
                f"multiply-accumulates (decisions included), but {share:.4g} was asked for"
            )
        return self._between(share, "knob")

    def accuracy(self, share: float) -> float:
        """The accuracy at this mean share, interpolated as :meth:`knob`.

        Raises:
            ChainError: a share that the table does not reach.
        """
        _ = self.knob(share)
        return self._between(share, "accuracy")

    def within(self, share: float) -> float:
        """The share nearest to ``share`` that the table reaches."""
        return min(max(share, self.least), self.most)

    def _between(self, share: float, name: str) -> float:
        for low, high in pairwise(self.rows):
            if share <= high.share:
                part = (share - low.share) / (high.share - low.share)
                one, other = float(getattr(low, name)), float(getattr(high, name))
                return one + (other - one) * part
        return float(getattr(self.rows[-1], name))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"images": self.images, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KnobTable:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArtifactError: something else.
        """
        try:
            return cls(tuple(KnobRow(**row) for row in data["rows"]), int(data["images"]))
        except (KeyError, TypeError, ValueError, ChainError) as error:
            raise ArtifactError(f"a table of the knob cannot be read: {error}") from None


def growing(rows: Iterable[KnobRow]) -> tuple[KnobRow, ...]:
    """Rows by knob without those that do not bring more than all before them (of equal ones the last stays)."""
    found: list[KnobRow] = []
    for row in sorted(rows, key=lambda row: row.knob):
        if found and row.share == found[-1].share:
            continue
        if not found or row.share > found[-1].share:
            found.append(row)
    return tuple(found)
