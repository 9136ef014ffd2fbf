"""Statistics of batch norms, one set for each width of what the layer before them reads.

A prefix of a convolution's channels does not change with how many of them are computed, so what a norm sees of a
channel depends on the width of the convolution's *input* (the action of the stage before), not on its own action.
There is one set of running mean and variance for each of the k input widths; scale and shift are shared. Where the
input is whole (a residual stream) there is one set, the dense network's.

That separate statistics make one set of weights work at several widths: J. Yu, L. Yang, N. Xu, J. Yang, T. Huang,
"Slimmable Neural Networks", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.runtime.stages import Kind, Step


class WidthNorms(nn.Module):
    """Means and variances ``[rows, C]`` of every batch norm: k rows where a decision chooses one, else a single row.

    The last row is that of the dense network.
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step], groups: int) -> None:
        super().__init__()
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
        mean, var = self.rows(layer)
        at = -1 if action is None else action - 1
        return mean[at], var[at]

    @torch.no_grad()
    def put(self, layer: str, action: int | None, mean: Tensor, var: Tensor) -> None:
        """Set one row."""
        own_mean, own_var = self.row(layer, action)
        own_mean.copy_(mean)
        own_var.copy_(var)

    def _buffer(self, name: str) -> Tensor:
        found = self._buffers[name]
        assert found is not None
        return found
