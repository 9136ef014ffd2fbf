"""The oracle: for each image the cheapest actions that still classify it right. No policy can do better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from autoprune.checks import whole
from autoprune.data import Split
from autoprune.errors import ChainError
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain, Walk

LEAVES = 4096  # rows of actions up to which all are tried


@dataclass(frozen=True, eq=False)
class Oracle:
    """What the search found.

    Attributes:
        actions: int64 ``[N, m]``: the cheapest row that classifies the image right; the least where none does.
        solved: bool ``[N]``, whether any row does.
        macs: int64 ``[N]`` of these rows.
        least_macs: of the least row.
        easy: bool ``[N]``, whether the least row classifies the image right.
        dense_macs: of the whole network.
        exact: whether every row was tried; otherwise ``macs`` are an upper bound of the cheapest.
    """

    actions: Tensor
    solved: Tensor
    macs: Tensor
    least_macs: int
    easy: Tensor
    dense_macs: int
    exact: bool

    @property
    def accuracy(self) -> float:
        """Share of images that some row classifies right."""
        return float(self.solved.double().mean())

    @property
    def share(self) -> float:
        """Mean multiply-accumulates over the dense network's."""
        return float(self.macs.double().mean()) / self.dense_macs

    def at(self, share: float) -> float:
        """The best accuracy with a mean of at most ``share`` of the dense multiply-accumulates.

        The images that cost least beyond the least row are solved first.

        Raises:
            ChainError: even the least row everywhere is more.
        """
        spare = share * self.dense_macs * len(self.macs) - float(self.least_macs) * len(self.macs)
        if spare < -1e-6 * self.dense_macs:
            raise ChainError(
                f"the least that this network can run is {self.least_macs / self.dense_macs:.4g} of its "
                f"multiply-accumulates, but {share:.4g} were asked for"
            )
        extra = (self.macs - self.least_macs)[self.solved].double().sort().values
        return int((extra.cumsum(0) <= spare + 1e-6 * self.dense_macs).sum()) / len(self.macs)


def oracle(
    chain: Chain,
    split: Split,
    *,
    search: Literal["auto", "exhaustive", "beam"] = "auto",
    width: int = 4,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> Oracle:
    """Search the cheapest right actions of every image of ``split``.

    Args:
        chain: the network.
        split: images with their classes.
        search: ``exhaustive`` tries every row, as a tree of walks whose branches share their trunks; ``beam`` keeps the
            ``width`` cheapest right rows of each image and lowers one stage at a time until nothing more helps;
            ``auto`` takes the first up to 4096 rows.
        width: of the beam.
        batch: images that go through the tree together.
        progress: called with images done and images in all.

    Raises:
        ChainError: no images.
    """
    whole("width", width, 1)
    if not len(split):
        raise ChainError("an oracle needs images, but the split is empty")
    rows = chain.groups ** len(chain.stages)
    exact = search == "exhaustive" or (search == "auto" and rows <= LEAVES)
    found = []
    for at in range(0, len(split), batch):
        index = torch.arange(at, min(at + batch, len(split)))
        x, y = split.inputs(index), split.y[index].cpu()
        found.append(_exhaustive(chain, x, y) if exact else _beam(chain, x, y, width))
        if progress is not None:
            progress(at + len(index), len(split))
    actions, solved, easy = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Oracle(actions, solved, chain.macs(actions), int(chain.macs(1)), easy, chain.dense_macs, exact)


Found = tuple[Tensor, Tensor, Tensor]  # rows [N, m], whether solved [N], whether the least row is right [N]


@torch.no_grad()
def _exhaustive(chain: Chain, x: Tensor, y: Tensor) -> Found:
    size, stages = len(x), len(chain.stages)
    best = torch.ones(size, stages, dtype=torch.int64)
    cost = torch.full((size,), torch.iinfo(torch.int64).max)
    easy = torch.zeros(size, dtype=torch.bool)

    def visit(walk: Walk) -> None:
        if not walk.done:
            for action in range(1, chain.groups + 1):
                visit(walk.step(torch.full((size,), action)))
            return
        right = checked_logits(walk.output.cpu(), y).argmax(1) == y
        row = walk.actions[0]
        macs = int(chain.macs(row))
        if macs == int(chain.macs(1)):
            easy.logical_or_(right)
        better = right & (macs < cost)
        best[better] = row
        cost[better] = macs

    visit(chain.begin(x))
    return best, cost < torch.iinfo(torch.int64).max, easy


@torch.no_grad()
def _beam(chain: Chain, x: Tensor, y: Tensor, width: int) -> Found:
    stages = len(chain.stages)
    beam, right = _first(chain, x, y)
    easy = right[:, 0].clone()
    beam, right = _cheapest(chain, beam, right, width)
    improving = True
    while improving:
        before = _cost(chain, beam, right).sort(1).values
        for stage in range(stages):
            lower = beam.clone()
            lower[:, :, stage] = (lower[:, :, stage] - 1).clamp(min=1)
            tried = right & (lower != beam).any(2)
            good = torch.zeros_like(right)
            where = tried.nonzero()
            if len(where):
                good[tried] = _right(chain, x[where[:, 0]], y[where[:, 0]], lower[tried])
            beam, right = _cheapest(chain, torch.cat([beam, lower], 1), torch.cat([right, good], 1), width)
        improving = not torch.equal(before, _cost(chain, beam, right).sort(1).values)
    return torch.where(right[:, :1], beam[:, 0], torch.ones(stages, dtype=torch.int64)), right[:, 0], easy


def _first(chain: Chain, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of equal actions ``[N, k, m]``, and which of them are right."""
    rows = torch.arange(1, chain.groups + 1)[:, None].expand(-1, len(chain.stages))
    beam = rows.expand(len(x), -1, -1).contiguous()
    return beam, torch.stack([_right(chain, x, y, beam[:, place]) for place in range(chain.groups)], 1)


def _right(chain: Chain, x: Tensor, y: Tensor, actions: Tensor) -> Tensor:
    return checked_logits(chain(x, actions).cpu(), y).argmax(1) == y


def _cost(chain: Chain, beam: Tensor, right: Tensor) -> Tensor:
    """Multiply-accumulates ``[N, B]``, more than any where a row is not right."""
    macs = chain.macs(beam.flatten(0, 1)).view(beam.shape[:2])
    return torch.where(right, macs, torch.iinfo(torch.int64).max)


def _cheapest(chain: Chain, beam: Tensor, right: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` cheapest different right rows of each image, in order."""
    cost = _cost(chain, beam, right)
    order = cost.argsort(dim=1, stable=True)
    beam, right, cost = beam.gather(1, order[..., None].expand_as(beam)), right.gather(1, order), cost.gather(1, order)
    equal = (beam[:, 1:] == beam[:, :-1]).all(2) & right[:, 1:]
    right = right.clone()
    right[:, 1:] &= ~equal
    order = torch.where(right, cost, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)[:, :width]
    return beam.gather(1, order[..., None].expand(-1, -1, beam.shape[2])), right.gather(1, order)
