"""What is lost along a path of widths: as measured, and as a curve."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-4  # added loss of a group: what costs nothing goes in the order of its multiply-accumulates


@dataclass(frozen=True)
class Curve:
    """Mean loss along a path: ``loss + fall * exp(-steepness * share)``, and below ``least`` about a straight line.

    Attributes:
        fall, steepness: see above.
        least: a share.
        below: slope there.
    """

    fall: float
    steepness: float
    least: float
    below: float

    def slope(self, shares: Tensor) -> Tensor:
        """What the loss falls by for a share of the multiply-accumulates, at ``shares``; it never grows."""
        above = self.fall * self.steepness * (-self.steepness * shares).exp()
        return torch.where(shares < self.least, self.below * (1 + LEAST * (self.least - shares)), above)


@dataclass(frozen=True, eq=False)
class Losses:
    """What samples lose along a path, with the statistics of norms that are stored.

    Attributes:
        end: share at the end of the path.
        first: float64 ``[N]``, cross-entropies there.
        begin: share from which they are measured closely.
        shares: ``[R]`` float64, those of the rows that are measured from there on.
        along: float64 ``[R, N]``, cross-entropies under these.
    """

    end: float
    first: Tensor
    begin: float
    shares: Tensor
    along: Tensor

    @property
    def errors(self) -> Losses:
        """The chance of any but the right class in place of the cross-entropy."""
        return replace(self, along=error(self.along), first=error(self.first))

    @property
    def curve(self) -> Curve:
        """By least squares over the rows that were measured."""
        shares, means = self.shares.numpy(), self.along.mean(1).numpy()
        best = (np.inf, 0.0, 1.0)
        for steepness in np.geomspace(0.5, 40, 60):
            falling = np.exp(-steepness * shares)
            about, losses_about = falling - falling.mean(), means - means.mean()
            fall = max(float(about @ losses_about / max(about @ about, 1e-12)), 0.0)
            best = min(best, (float(np.square(losses_about - fall * about).sum()), fall, float(steepness)))
        found = Curve(max(best[1], LEAST), best[2], self.begin, 0.0)
        if self.begin <= self.end:
            return found
        below = (float(self.first.mean()) - float(means[0])) / (self.begin - self.end)
        return replace(found, below=max(below, float(found.slope(torch.tensor([self.begin])))))


def error(losses: Tensor) -> Tensor:
    """The chance of any but the right class, from cross-entropies."""
    return 1 - (-losses).exp()
