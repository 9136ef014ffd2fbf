"""Multiply-accumulates of a network for given actions, exact, from one table a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.graph import LayerGraph, LayerInfo
from autoprune.runtime.gates import Lane
from autoprune.runtime.stages import Step


@dataclass(frozen=True, eq=False)
class MacTable:
    """Counts by action.

    Attributes:
        fixed: what runs for every sample.
        pairs: (stage read, stage made, ``[k, k]`` int64) of each layer that a decision changes; a stage is -1 where
            that side is whole.
        stages: number of stages.
    """

    fixed: int
    pairs: tuple[tuple[int, int, Tensor], ...]
    stages: int

    @classmethod
    def of(cls, graph: LayerGraph, steps: Sequence[Step], stages: int, groups: int) -> MacTable:
        """Tables of a network."""
        changed = {s.call.module: s for s in steps if s.incoming is not None or s.outgoing is not None}
        pairs, fixed = [], graph.macs
        for name, info in graph.layers.items():
            if info.macs and name in changed:
                step = changed[name]
                table = _table(info, step.incoming, step.outgoing, groups)
                pairs.append((_stage(step.incoming), _stage(step.outgoing), table))
                fixed -= info.macs
        return cls(fixed, tuple(pairs), stages)

    def count(self, actions: Tensor) -> Tensor:
        """``[N]`` int64 multiply-accumulates of one sample each, for checked actions ``[N, m]``."""
        at = actions.detach().cpu() - 1
        total = torch.full((len(at),), self.fixed, dtype=torch.int64)
        nothing = torch.zeros(len(at), dtype=torch.int64)
        for read, made, table in self.pairs:
            total += table[nothing if read < 0 else at[:, read], nothing if made < 0 else at[:, made]]
        return total


def _stage(lane: Lane | None) -> int:
    return -1 if lane is None else lane.stage


def _table(info: LayerInfo, incoming: Lane | None, outgoing: Lane | None, groups: int) -> Tensor:
    """``[k, k]``: by what is read, by what is made."""
    outputs, inputs = info.weight_shape[:2]
    each = info.macs // (outputs * inputs)  # of one pair of channels
    reads = torch.tensor(incoming.sizes if incoming is not None else [inputs] * groups)
    makes = torch.tensor(outgoing.sizes if outgoing is not None else [outputs] * groups)
    return each * reads[:, None] * makes[None, :]
