"""Images on their way through the stages together: what single and vector environments of runtime pruning share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.checks import in_range
from autoprune.data import Split
from autoprune.envs.runtime_task import RuntimeTask, check_finite
from autoprune.errors import EnvError, SettingsError
from autoprune.evaluation import checked_logits
from autoprune.runtime import Walk

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]
BOUND = 1e6  # of a feature; what lies outside is cut off, as spaces need an end


@dataclass(frozen=True)
class Pay:
    """``(groups - 1) * penalty`` for each stage, times its price, and ``-alpha * cross-entropy`` after the last.

    J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017.

    Attributes:
        penalty: at most 0.
        alpha: above 0.
        prices: of each stage; empty for 1 everywhere. See :meth:`autoprune.runtime.Chain.prices`.

    Raises:
        SettingsError: another number.
    """

    penalty: float
    alpha: float
    prices: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        number = isinstance(self.penalty, (int, float)) and not isinstance(self.penalty, bool)
        if not number or not math.isfinite(self.penalty) or self.penalty > 0:
            raise SettingsError(
                f"penalty must be a number of at most 0, the price of a group, but got {self.penalty!r}"
            )
        in_range("alpha", self.alpha, above=0)

    def of(self, groups: Whole, stage: int) -> NDArray[np.float64]:
        """What ``groups`` ``[N]`` of a stage are paid with."""
        price = self.prices[stage] if self.prices else 1.0
        return np.asarray((groups - 1).astype(np.float64) * (self.penalty * price), np.float64)


@dataclass(frozen=True, eq=False)
class End:
    """What came out, each ``[N]``: true classes, predicted ones, cross-entropies."""

    labels: Whole
    predictions: Whole
    losses: NDArray[np.float64]


class Passage:
    """``size`` images that go from stage to stage together, one batched grouped forward each.

    Attributes:
        stage: the one to be decided next.
        index: ``[N]`` places of the images in the split.
        shares: ``[N]`` multiply-accumulates over the dense network's, what is not decided yet left whole.
        end: what came out; ``None`` before the last decision.
    """

    def __init__(self, task: RuntimeTask, split: str, pay: Pay) -> None:
        self.task, self.pay = task, pay
        self._split, self._name = task.split(split), split
        self._walk: Walk | None = None
        self._seen: Floats = np.zeros((0, 0), np.float32)
        self.end: End | None = None

    @property
    def images(self) -> int:
        """How many there are to draw from."""
        return len(self._split)

    @property
    def source(self) -> Split:
        """The split they are drawn from."""
        return self._split

    @property
    def walk(self) -> Walk:
        """Where the images are.

        Raises:
            EnvError: no episode has begun.
        """
        if self._walk is None:
            raise EnvError("no episode has begun; call reset() before the first step()")
        return self._walk

    @property
    def stage(self) -> int:
        """The stage to be decided next."""
        return self.walk.stage

    @property
    def shares(self) -> NDArray[np.float64]:
        """``[N]`` share of the dense multiply-accumulates, undecided stages left whole."""
        chain, walk = self.task.chain, self.walk
        whole = torch.full((walk.size, len(chain.stages) - walk.stage), chain.groups, dtype=torch.int64)
        macs = chain.macs(torch.cat([walk.actions, whole], 1))
        return macs.numpy() / chain.dense_macs

    def begin(self, index: Whole) -> Floats:
        """Start with the images at ``index`` ``[N]``; the first observation ``[N, width + 1]``.

        Raises:
            EnvError: an image that holds NaN or infinite values.
        """
        x = self._split.inputs(torch.from_numpy(index))
        check_finite(x, index, self._name)
        with torch.no_grad():
            self._walk = self.task.chain.begin(x)
        self.index, self.end = index.copy(), None
        self._seen = np.zeros((len(index), self.task.width + 1), np.float32)
        self._look()
        return self._seen.copy()

    def step(self, groups: Whole) -> tuple[Floats, NDArray[np.float64]]:
        """Run a stage with ``groups`` ``[N]``; the next observation, and what is paid ``[N]``.

        Raises:
            EnvError: the episodes have ended.
        """
        walk = self.walk
        if walk.done:
            raise EnvError("the episode has ended; call reset() before the next step()")
        with torch.no_grad():
            self._walk = walk.step(torch.from_numpy(groups))
        reward = self.pay.of(groups, walk.stage)
        self._seen[:, -1] = self._walk.stage
        if self._walk.done:
            self.end = self._judge(self._walk.output)
            reward = reward - self.pay.alpha * self.end.losses
        else:
            self._look()
        return self._seen.copy(), reward

    def _look(self) -> None:
        """Put the pooled features of the stage into their columns."""
        walk = self.walk
        at = sum(self.task.chain.channels[: walk.stage])
        pooled = walk.pooled.numpy()
        self._seen[:, at : at + pooled.shape[1]] = np.clip(np.nan_to_num(pooled, nan=0.0), -BOUND, BOUND)

    def _judge(self, logits: Tensor) -> End:
        y = self._split.y[torch.from_numpy(self.index)].cpu()
        found = checked_logits(logits.cpu(), y)
        losses = nn.functional.cross_entropy(found.double(), y, reduction="none").numpy()
        if not np.isfinite(losses).all():
            place = int(np.flatnonzero(~np.isfinite(losses))[0])
            raise EnvError(
                f"the network gives no finite loss for image {int(self.index[place])} of the {self._name} split; "
                "its weights or statistics are not finite"
            )
        return End(y.numpy().copy(), found.argmax(1).numpy().copy(), losses)
