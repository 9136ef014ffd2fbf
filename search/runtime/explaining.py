"""What a network that decides at run time does, and why that is right: tables of which pictures are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data import Split
from autoprune.errors import ChainError
from autoprune.runtime import RuntimePrunedNetwork
from autoprune.search.runtime.judging import Greedy, Judged, Table, judge
from autoprune.seeding import derive

RESAMPLES = 1000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of the dense network's loss on an image and the groups run for it.

    Attributes:
        rho: ``None`` where one of the two does not vary.
        low, high: bounds of the 95 % interval, by the bootstrap over images.
        images: how many.
    """

    rho: float | None
    low: float | None
    high: float | None
    images: int


def rank_correlation(losses: Tensor, groups: Tensor, *, seed: int = 0, resamples: int = RESAMPLES) -> Correlation:
    """Of losses ``[N]`` and mean groups ``[N]``."""
    from scipy.stats import rankdata

    x, y = losses.double().numpy(), groups.double().numpy()
    size = len(x)
    if size < 3 or not np.ptp(x) or not np.ptp(y):
        return Correlation(None, None, None, size)
    draws = np.random.default_rng(derive(seed, "bootstrap"))
    found = []
    for _ in range(resamples):
        index = draws.integers(size, size=size)
        if np.ptp(x[index]) and np.ptp(y[index]):
            found.append(_pearson(rankdata(x[index]), rankdata(y[index])))
    low, high = np.quantile(found, [0.025, 0.975])
    return Correlation(_pearson(rankdata(x), rankdata(y)), float(low), float(high), size)


def _pearson(x: Any, y: Any) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def sweep(network: RuntimePrunedNetwork, split: Split, shares: Sequence[float]) -> list[tuple[float, float, Judged]]:
    """(wanted share, knob, what was done) for every share that the network's table reaches.

    Raises:
        ChainError: no table, or none of the shares is in it.
    """
    table = network.table
    if table is None:
        raise ChainError("this network has no calibrated table; call autoprune.runtime.calibrate(network, split) first")
    within = [share for share in shares if table.least <= share <= table.most]
    if not within:
        raise ChainError(
            f"this network can be set to {table.least:.4g} to {table.most:.4g} of the dense multiply-accumulates, "
            f"which none of {', '.join(f'{s:g}' for s in shares)} lies in"
        )
    knobs = [(share, table.knob(share)) for share in within]
    return [(share, knob, at_knob(network, split, knob)) for share, knob in knobs]


def at_knob(network: RuntimePrunedNetwork, split: Split, knob: float) -> Judged:
    """What the network does at a setting of its knob."""
    return judge(network.chain, split, Greedy(network.controller, knob), norms=network.chain.norms.at(knob))


def dense(network: RuntimePrunedNetwork, split: Split) -> Judged:
    """What the whole network does."""
    return judge(network.chain, split, Table(torch.full((len(network.chain.stages),), network.chain.groups)))


def groups_by_class(judged: Judged, y: Tensor, classes: int) -> list[list[float]]:
    """Mean groups of every stage ``[classes, m]``; NaN-free: classes without images are left out by the caller."""
    table, y = judged.actions.double(), y.cpu()
    return [[round(v, 4) for v in table[y == c].mean(0).tolist()] for c in range(classes) if bool((y == c).any())]


def easiest_and_hardest(judged: Judged, losses: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Places of the images for which least and most was run; of equal ones those of least and most dense loss."""
    ranks = losses.argsort().argsort()
    order = (judged.macs * len(losses) + ranks).argsort()
    count = min(count, len(order) // 2)
    return order[:count].tolist(), order.flip(0)[:count].tolist()


def correlation_of(judged: Judged, losses: Tensor, seed: int = 0) -> dict[str, Any]:
    """:class:`Correlation` as JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return asdict(rank_correlation(losses, judged.actions.double().mean(1), seed=seed))
