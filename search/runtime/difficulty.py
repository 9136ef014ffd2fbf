"""How hard a sample looks, learned before any decision is: from what it loses along a path of widths.

A decision at one stage changes the loss of a sample by far less than chance does, so that telling hard samples from
easy ones by single decisions takes very many episodes. Where all stages are narrow together the loss changes by much,
and one number a sample is enough to say by how much: the factor on what is lost on average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain, Controller
from autoprune.runtime.controller import difficulty

_EPOCHS, _BATCH, _LR, _DECAY = 12, 256, 1e-3, 1e-2
_SHRUNK = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1)
_OUTLIER = 2.0  # cross-entropy from which an error counts by its size, not its square

Rows = Callable[[Tensor], Tensor]  # shares [N] -> actions near a path, int64 [N, m]


@dataclass(frozen=True, eq=False)
class Passed:
    """What samples showed and lost.

    Attributes:
        features: ``[N, width]``, pooled channels of all stages.
        lost: ``[N]``, cross-entropy less that of the same sample under a common row of actions.
        expected: ``[N]``, the same for a sample of average difficulty.
    """

    features: Tensor
    lost: Tensor
    expected: Tensor


@torch.no_grad()
def passed(
    chain: Chain, split: Split, rows: Rows, least: float, middle: Tensor, worth: Tensor, *, count: int, batch: int
) -> Passed:
    """Run ``count`` samples at shares from ``least`` to 1 of the multiply-accumulates, drawn from torch's generator.

    Args:
        chain: the network.
        split: samples.
        rows: actions near a path.
        least: the smallest share.
        middle: int64 ``[m]``, the actions that are compared with.
        worth: ``[m, k]``, see :meth:`autoprune.search.runtime.width_path.WidthPath.worth`.
        count: samples, each of them at most once.
        batch: that go through the network together.
    """
    stage = torch.arange(len(chain.stages))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in torch.split(torch.randperm(len(split))[:count], batch):
        actions = rows(least + (1 - least) * torch.rand(len(index), dtype=torch.float64))
        x, y = split.inputs(index), split.y[index].cpu()
        walk, pooled = chain.begin(x), []
        while not walk.done:
            pooled.append(walk.pooled)
            walk = walk.step(actions[:, walk.stage].contiguous())
        losses = [
            nn.functional.cross_entropy(checked_logits(logits.cpu(), y).double(), y, reduction="none")
            for logits in (walk.output, chain(x, middle, "sliced"))
        ]
        expected = worth[stage, actions - 1].sum(1) - worth[stage, middle - 1].sum()
        found.append((torch.cat(pooled, 1), losses[0] - losses[1], expected))
    return Passed(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def fit(controller: Controller, samples: Passed, unseen: Passed) -> float:
    """Teach ``controller``, in place, the difficulty of samples at every stage; the mean error on ``unseen``.

    At each stage the factor on the expected loss is fitted to the loss by Huber's criterion, with all that was seen so
    far. The epoch stays that is best on samples that neither controller nor network have learned from, none if none
    helps, with the logarithm of the factor shrunk as far as is best for them: samples that the network has learned from
    say too much. Batches are drawn from torch's generator.
    """
    optimizer = torch.optim.AdamW(controller.parameters(), lr=_LR, weight_decay=_DECAY)
    best, factor = _shrunk(controller, unseen)
    kept = copy.deepcopy(controller.state_dict())
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(samples.lost)), _BATCH):
            optimizer.zero_grad()
            said = controller.decoded(samples.features[rows])[..., -1:]
            _error(said, samples.lost[rows], samples.expected[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if (now := _shrunk(controller, unseen))[0] < best:
            (best, factor), kept = now, copy.deepcopy(controller.state_dict())
    controller.load_state_dict(kept)
    with torch.no_grad():
        for part in (controller.decoder.weight, controller.decoder.bias):
            part[-1] *= factor
    return best


def _error(said: Tensor, lost: Tensor, expected: Tensor) -> Tensor:
    """Of the logarithm of the difficulty ``[N, m, 1]``."""
    found = difficulty(said)[..., 0] * expected.float()[:, None]
    return nn.functional.huber_loss(found, lost.float()[:, None].expand_as(found), delta=_OUTLIER)


@torch.no_grad()
def _shrunk(controller: Controller, unseen: Passed) -> tuple[float, float]:
    """(the least error, the factor on the logarithm of the difficulty that gives it)."""
    said = controller.decoded(unseen.features)[..., -1:]
    return min((_error(factor * said, unseen.lost, unseen.expected).item(), factor) for factor in _SHRUNK)
