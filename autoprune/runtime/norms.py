"""Statistics of batch norms, one set for each width of what the layer before them reads.

A prefix of a convolution's channels does not change with how many of them are computed, so what a norm sees of a
channel depends on the width of the convolution's *input* (the action of the stage before), not on its own action.
There is one set of running mean and variance for each of the k input widths; scale and shift are shared. Where the
input is whole (a residual stream) there is one set, the dense network's.

That separate statistics make one set of weights work at several widths: J. Yu, L. Yang, N. Xu, J. Yang, T. Huang,
"Slimmable Neural Networks", 2019.

What came before the input matters too: a residual stream, or the third layer behind a narrow one, has other statistics
where little is run than where much is. How much is run follows from the knob of a network that decides at run time, so
there may be further sets for some of its settings; between two of these, statistics are interpolated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from autoprune.errors import ChainError
from autoprune.runtime.execution import NormRows
from autoprune.runtime.stages import Kind, Step


class WidthNorms(nn.Module):
    """Means and variances ``[rows, C]`` of every batch norm: k rows where a decision chooses one, else a single row.

    The last row is that of the dense network.

    Attributes:
        knobs: growing settings of a knob that have sets of their own (:meth:`hold`, :meth:`at`).
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step], groups: int) -> None:
        super().__init__()
        self.knobs: tuple[float, ...] = ()
        self._place: dict[str, int] = {}
        for step in steps:
            if step.kind is Kind.NORM:
                layer = str(step.call.module)
                norm = model.get_submodule(layer)
                rows = groups if step.selector is not None else 1
                place = self._place.setdefault(layer, len(self._place))
                for kind in ("mean", "var"):
                    value: Tensor = getattr(norm, f"running_{kind}")
                    self.register_buffer(f"{kind}{place}", value.detach().clone().repeat(rows, 1))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the norms, in order."""
        return tuple(self._place)

    def rows(self, layer: str) -> tuple[Tensor, Tensor]:
        """(means, variances) of one norm, each ``[rows, C]``; the tensors themselves."""
        place = self._place[layer]
        return self._buffer(f"mean{place}"), self._buffer(f"var{place}")

    def row(self, layer: str, action: int | None) -> tuple[Tensor, Tensor]:
        """(mean, variance) ``[C]`` under the action 1 to k that chooses; ``None`` those of the dense network."""
        return _row(self.rows(layer), action)

    @torch.no_grad()
    def put(self, layer: str, action: int | None, mean: Tensor, var: Tensor) -> None:
        """Set one row."""
        own_mean, own_var = self.row(layer, action)
        own_mean.copy_(mean)
        own_var.copy_(var)

    @torch.no_grad()
    def hold(self, knobs: Sequence[float]) -> None:
        """Make room for sets ``[len(knobs), rows, C]`` of these settings, all like the common ones at first.

        Raises:
            ChainError: settings that do not grow.
        """
        found = tuple(float(knob) for knob in knobs)
        if not all(low < high for low, high in pairwise(found)):
            raise ChainError(f"settings of the knob that have statistics of their own must grow, but got {found}")
        self.knobs = found
        for place in self._place.values():
            for kind in ("mean", "var"):
                value = self._buffer(f"{kind}{place}")
                self.register_buffer(f"knob_{kind}{place}", value.repeat(len(found), 1, 1) if found else None)

    @torch.no_grad()
    def keep(self, place: int) -> None:
        """The common sets become those of setting ``place`` (from 0)."""
        for at in self._place.values():
            for kind in ("mean", "var"):
                self._buffer(f"knob_{kind}{at}")[place] = self._buffer(f"{kind}{at}")

    def at(self, knob: float) -> NormRows:
        """The sets of a setting of the knob; the common ones where none have any of their own."""
        return KnobNorms(self, knob) if self.knobs else self

    def known(self, layer: str) -> tuple[Tensor, Tensor]:
        """(means, variances) of one norm at :attr:`knobs`, each ``[len(knobs), rows, C]``."""
        place = self._place[layer]
        return self._buffer(f"knob_mean{place}"), self._buffer(f"knob_var{place}")

    def _buffer(self, name: str) -> Tensor:
        found = self._buffers[name]
        assert found is not None
        return found


class KnobNorms:
    """The sets at one setting of the knob, between those of the settings around it."""

    def __init__(self, norms: WidthNorms, knob: float) -> None:
        """``norms`` with at least one setting; beyond its ends the sets stay."""
        known = norms.knobs
        self._norms, self._high = norms, min(bisect_left(known, knob), len(known) - 1)
        self._low = max(self._high - 1, 0) if knob < known[self._high] else self._high
        width = known[self._high] - known[self._low]
        self._part = (knob - known[self._low]) / width if width and knob > known[self._low] else 0.0
        self._found: dict[str, tuple[Tensor, Tensor]] = {}

    def rows(self, layer: str) -> tuple[Tensor, Tensor]:
        """As of :class:`WidthNorms`; not to be written to."""
        if layer not in self._found:
            mean, var = (torch.lerp(k[self._low], k[self._high], self._part) for k in self._norms.known(layer))
            self._found[layer] = mean, var
        return self._found[layer]

    def row(self, layer: str, action: int | None) -> tuple[Tensor, Tensor]:
        """As of :class:`WidthNorms`."""
        return _row(self.rows(layer), action)


def _row(rows: tuple[Tensor, Tensor], action: int | None) -> tuple[Tensor, Tensor]:
    mean, var = rows
    at = -1 if action is None else action - 1
    return mean[at], var[at]
