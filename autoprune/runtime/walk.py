"""A batch on its way through the stages: each stage runs every sample with its own action, as few dense groups.

At a stage the samples are sorted by (what they read, what they compute), so that each group is one smaller dense
convolution; groups that no sample is in cost nothing. Between stages the groups' tensors stay as they are, and the next
sort copies each sample once. A walk never changes: going on makes a new one, so a walk can go on in several ways (a
tree of actions shares its trunk).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import ChainError
from autoprune.runtime.stages import Stage

Run = Callable[[int, Tensor, Sequence[int]], Tensor]  # (stage, value entering, action of every stage so far) -> leaving


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples.

    Attributes:
        index: their places in the batch ``[n]``, ``None`` for all of it in order.
        value: what enters the next stage, ``[n, ...]``.
        key: actions that later stages depend on; parts of equal key run together.
    """

    index: Tensor | None
    value: Tensor
    key: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Walk:
    """Where a batch stands.

    Attributes:
        stages: of the network.
        groups: k, the largest action.
        run: runs a stage for samples of equal actions.
        size: samples.
        stage: the next stage to decide; ``len(stages)`` at the end.
        actions: ``[N, stage]`` int64, what was decided (1 to k); on the CPU wherever the network is.
        parts: the value that enters the next stage, by samples.
    """

    stages: tuple[Stage, ...]
    groups: int
    run: Run
    size: int
    stage: int
    actions: Tensor
    parts: tuple[Part, ...]

    @property
    def done(self) -> bool:
        """Whether every stage has run."""
        return self.stage == len(self.stages)

    @property
    def pooled(self) -> Tensor:
        """Mean over positions of what enters the next stage, ``[N, channels]``; zeros for channels that were skipped.

        On the CPU wherever the network is, as whatever decides on it.

        Raises:
            ChainError: every stage has run.
        """
        if self.done:
            raise ChainError("every stage has run; there is nothing left to look at")
        means = [(part.index, pool(part.value).to(self.actions.device)) for part in self.parts]
        return _gathered(means, self.size, self.stages[self.stage].channels)

    @property
    def output(self) -> Tensor:
        """Logits ``[N, classes]``.

        Raises:
            ChainError: stages are left.
        """
        if not self.done:
            raise ChainError(f"stage {self.stage} of {len(self.stages)} has not run yet, so there is no output")
        return _gathered([(p.index, p.value) for p in self.parts], self.size, self.parts[0].value.shape[1])

    def step(self, actions: Tensor) -> Walk:
        """The walk after the next stage ran with ``actions``, int64 ``[N]`` (1 to k).

        Raises:
            ChainError: every stage has run, another number of actions, or one outside 1 to k.
        """
        self._check(actions)
        stage = self.stages[self.stage]
        known = torch.cat([self.actions, actions[:, None]], 1)
        alike: dict[tuple[int, ...], list[Part]] = defaultdict(list)
        for part in self.parts:
            alike[part.key].append(part)
        found: list[Part] = []
        for parts in alike.values():
            for index, value, row in _by_action(parts, actions, known):
                out = self.run(self.stage, value, row)
                found.append(Part(index, out, tuple(row[s] for s in stage.keeps)))
        return replace(self, stage=self.stage + 1, actions=known, parts=tuple(found))

    def _check(self, actions: Tensor) -> None:
        if self.done:
            raise ChainError("every stage has run; there is nothing left to decide")
        if actions.shape != (self.size,) or actions.dtype != torch.int64:
            raise ChainError(f"actions must be int64 [{self.size}], but got {actions.dtype} {list(actions.shape)}")
        if self.size:
            low, high = (int(end) for end in actions.aminmax())
            if low < 1 or high > self.groups:
                raise ChainError(
                    f"an action must be 1 to {self.groups}, but got {low if low < 1 else high} at stage {self.stage} "
                    f"({self.stages[self.stage].name!r})"
                )


def pool(value: Tensor) -> Tensor:
    """Mean over positions, ``[N, C]``."""
    if value.dim() == 4 and len(value):
        return F.avg_pool2d(value, (value.shape[2], value.shape[3])).flatten(1)  # faster than mean, channels-last
    return value.mean(tuple(range(2, value.dim()))) if value.dim() > 2 else value


def _by_action(
    parts: Sequence[Part], actions: Tensor, known: Tensor
) -> Iterator[tuple[Tensor | None, Tensor, list[int]]]:
    """Samples of equal action: places, values, and the actions so far (those that matter are equal)."""
    first = parts[0].index
    index = first if len(parts) == 1 else torch.cat([part.index for part in parts if part.index is not None])
    own = actions if index is None else actions[index]
    if not len(own):
        yield index, parts[0].value, [1] * known.shape[1]
        return
    if len(parts) == 1 and bool((own == own[0]).all()):
        yield index, parts[0].value, known[0 if index is None else int(index[0])].tolist()
        return
    order = own.argsort(stable=True)
    index = order if index is None else index[order]
    value = _sorted([part.value for part in parts], order)
    at = 0
    for count in own.bincount().tolist():
        if count:
            places = index[at : at + count]
            yield places, value[at : at + count], known[int(places[0])].tolist()
        at += count


def _sorted(values: Sequence[Tensor], order: Tensor) -> Tensor:
    """``torch.cat(values)[order]`` in one copy and in the layout of the values.

    Plain indexing takes several times as long for channels-last images, and may lose the layout.
    """
    last = all(_is_channels_last(value) for value in values)  # parts of other widths may come in another layout
    rows = [_rows(value, last) for value in values]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))  # where each row goes
    places = places.to(values[0].device)
    out, at = rows[0].new_empty(len(order), rows[0].shape[1]), 0
    for part in rows:
        out = out.index_copy_(0, places[at : at + len(part)], part)
        at += len(part)
    shape = values[0].shape[1:]
    if last:
        return out.view(-1, *shape[1:], shape[0]).permute(0, 3, 1, 2)
    return out.view(-1, *shape)


def _rows(value: Tensor, channels_last: bool) -> Tensor:
    """Samples as rows ``[n, entries]``, channels first or last; a view where the layout allows it."""
    return (value.permute(0, 2, 3, 1) if channels_last else value).flatten(1)


def _is_channels_last(value: Tensor) -> bool:
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _gathered(parts: Sequence[tuple[Tensor | None, Tensor]], size: int, channels: int) -> Tensor:
    """``[size, channels]`` with each part's rows in their places, zeros beyond their columns."""
    index, value = parts[0]
    if index is None and value.shape[1] == channels:
        return value
    out = value.new_zeros(size, channels)
    for places, rows in parts:
        out[slice(None) if places is None else places.to(out.device), : rows.shape[1]] = rows
    return out
