"""Early rejection: a candidate is compared with the best plan so far on growing blocks of the validation split.

Both see the same images in the same random order, so what counts are the images on which they differ. Let ``b`` be
those that only the incumbent gets right, ``c`` those that only the candidate gets right, after ``n`` of ``N`` images.
If the candidate were at least as good on all ``N`` images, at most half of all differing images would be of the first
kind, and ``b`` out of ``b + c`` would follow a hypergeometric distribution, whose tail is largest when every image not
yet seen differs too. A candidate is rejected when that exact tail is at most ``delta / looks``. By the union bound, a
candidate that is at least as good as the incumbent on the whole split is rejected with probability at most ``delta``.

This is McNemar's exact test (Q. McNemar, "Note on the sampling error of the difference between correlated proportions
or percentages", 1947) for a finite population, used at several looks in the spirit of O. Maron, A. W. Moore, "Hoeffding
races: accelerating model selection search for classification and function approximation", 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import hypergeom
from torch import Tensor

from autoprune.costs.base import Cost
from autoprune.errors import SettingsError
from autoprune.evaluation import Evaluation
from autoprune.outcome import Outcome


@dataclass(frozen=True)
class RaceSettings:
    """How candidates are raced.

    Attributes:
        delta: probability, at most, with which a candidate that is at least as good as the incumbent is rejected.
        first: images in the first block.
        growth: each look sees this many times the images of the look before.
    """

    delta: float = 0.01
    first: int = 32
    growth: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.delta, (int, float)) or not 0 < self.delta < 1:
            raise SettingsError(f"race setting 'delta' must be in (0, 1), but got {self.delta!r}")
        if isinstance(self.first, bool) or not isinstance(self.first, int) or self.first < 1:
            raise SettingsError(f"race setting 'first' must be a whole number from 1 on, but got {self.first!r}")
        if not isinstance(self.growth, (int, float)) or not 1 < self.growth < float("inf"):
            raise SettingsError(f"race setting 'growth' must be above 1, but got {self.growth!r}")

    def looks(self, images: int) -> list[int]:
        """Images seen at each look, the last is all of them."""
        looks, size = [], float(self.first)
        while size < images:
            looks.append(int(size))
            size = max(size * self.growth, size + 1)
        return [*looks, images]


@dataclass(frozen=True)
class Verdict:
    """End of a race: what was seen, and the test's p-value where the candidate was rejected."""

    evaluation: Evaluation
    rejected: bool
    p_value: float | None = None


def race(run: Callable[[int, int], Evaluation], rival: Tensor, settings: RaceSettings) -> Verdict:
    """Evaluate a candidate block by block and stop once it cannot be as good as ``rival``.

    Args:
        run: evaluates images ``start`` to ``stop`` in the order of the race.
        rival: ``[N]`` bool, which images the incumbent gets right, in the same order.
        settings: error probability and blocks.
    """
    looks = settings.looks(len(rival))
    level = settings.delta / max(len(looks) - 1, 1)
    parts: list[Evaluation] = []
    only_rival = only_candidate = seen = 0
    for look in looks:
        parts.append(run(seen, look))
        theirs = rival[seen:look]
        only_rival += int((theirs & ~parts[-1].correct).sum())
        only_candidate += int((~theirs & parts[-1].correct).sum())
        seen = look
        if look == len(rival):
            break
        p_value = tail(only_rival, only_candidate, len(rival) - look)
        if p_value <= level:
            return Verdict(joined(parts), rejected=True, p_value=p_value)
    return Verdict(joined(parts), rejected=False)


@lru_cache(maxsize=65536)
def tail(only_rival: int, only_candidate: int, left: int) -> float:
    """Largest probability of seeing ``only_rival`` or more, if the candidate is at least as good on all images.

    Args:
        only_rival: images seen that only the incumbent gets right.
        only_candidate: images seen that only the candidate gets right.
        left: images not seen yet.
    """
    differ = only_rival + only_candidate
    if only_rival <= only_candidate:
        return 1.0
    most = differ + left  # images that may differ in all; with an odd number the half is rounded down
    totals = {total for total in (most, most - 1) if total >= differ}
    return max(float(hypergeom.sf(only_rival - 1, total, total // 2, differ)) for total in totals)


def joined(parts: Iterable[Evaluation]) -> Evaluation:
    """One evaluation from consecutive blocks."""
    blocks = list(parts)
    correct = torch.cat([block.correct for block in blocks])
    loss = sum(block.loss * block.images for block in blocks) / max(len(correct), 1)
    return Evaluation(correct, loss)


class RaceState:
    """The plans to beat: finished outcomes, none of which another one matches in accuracy at no higher cost.

    A search puts in what fits its budget and hands the state to the objective; it can be sent to another process.

    Args:
        metrics: costs that are objectives too. Without any there is one incumbent, the most accurate; with some, a
            candidate races the most accurate plan that costs no more in each of them.
    """

    def __init__(self, metrics: Iterable[str] = ()) -> None:
        self.metrics = tuple(metrics)
        self._front: list[Outcome] = []

    def update(self, outcome: Outcome) -> None:
        """Take in a finished outcome; failed and stopped ones, and those seen on part of the images, are ignored."""
        if not outcome.ok or outcome.accuracy is None or not outcome.correct:
            return
        if any(self._covers(other, outcome) for other in self._front):
            return
        self._front = [other for other in self._front if not self._covers(outcome, other)] + [outcome]

    def rival(self, cost: Cost) -> Outcome | None:
        """The plan that a candidate of ``cost`` must match, ``None`` where there is none yet."""
        cheaper = [o for o in self._front if all(o.cost.value(m) <= cost.value(m) for m in self.metrics)]
        return max(cheaper, key=lambda o: o.accuracy or 0.0, default=None)

    def _covers(self, one: Outcome, other: Outcome) -> bool:
        """Whether ``one`` is at least as accurate as ``other`` and costs no more."""
        better = (one.accuracy or 0.0) >= (other.accuracy or 0.0)
        return better and all(one.cost.value(m) <= other.cost.value(m) for m in self.metrics)

    def __len__(self) -> int:
        return len(self._front)
