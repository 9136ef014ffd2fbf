"""What decides: an encoder for each stage, a recurrent core over the stages, one decoder to a score for each action.

After J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017: the means over positions of what enters a stage
are turned into a code of fixed size, a recurrent network carries what was seen before, and the same decoder gives the
scores of the k actions at every stage.

Beside these the decoder says how hard the sample looks so far, one number at every stage, with which all that is
expected of the actions at the stage grows or shrinks: a hard sample loses more by a smaller action than a sample of
average difficulty. So one number moves a sample along all stages, where k numbers a stage have each to be learned. What
first stages see says less of a sample than what last ones see, so how much is made of that number differs by stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.errors import ChainError

HARDEST = 3.0  # bound of the logarithm of a sample's difficulty, of either sign


class Controller(nn.Module):
    """Scores of the actions 1 to k at each stage.

    The same weights serve one stage at a time (:meth:`start`, :meth:`step`: deployment, environments) and on stored
    observations (:meth:`forward`: learning from a replay buffer); both give the same scores. The encoder is linear
    (the core follows at once), so the zeros of channels that were skipped cost nothing and need no mask.

    Attributes:
        channels: of what enters each stage.
        groups: k.
        code: size of the code.
        hidden: size of the core's state.
        prices: what a further group costs at each stage, in units of the knob.
        offsets: ``[m, k]``, part of the scores of a sample of average difficulty; zeros at first.
        paid: ``[m, k]``, part of the scores of every sample, however difficult; zeros at first.
        reliance: ``[m]``, the power of the difficulty that counts at each stage; ones at first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        groups: int,
        *,
        code: int = 64,
        hidden: int = 64,
        prices: Sequence[float] | None = None,
    ) -> None:
        """Fresh weights.

        Args:
            channels, groups, code, hidden: see the class.
            prices: above 0, one for each stage; ``None`` for 1 at all of them.

        Raises:
            ChainError: no stage, a size that is not a whole number from 1 on, or prices that do not fit.
        """
        super().__init__()
        sizes = {
            "groups": groups,
            "code": code,
            "hidden": hidden,
            **{f"channels of stage {s}": c for s, c in enumerate(channels)},
        }
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ChainError(f"a controller's {name} must be a whole number from 1 on, but got {value!r}")
        if not channels:
            raise ChainError("a controller needs at least one stage to decide")
        self.channels, self.groups, self.code, self.hidden = tuple(channels), groups, code, hidden
        self.prices = checked_prices(prices, len(channels))
        self.encoders = nn.ModuleList(nn.Linear(c, code) for c in channels)
        self.core = nn.GRUCell(code, hidden)
        self.decoder = nn.Linear(hidden, groups + 1)  # the last is the logarithm of the difficulty
        self.offsets: Tensor
        self.paid: Tensor
        self.reliance: Tensor
        for name in ("offsets", "paid"):
            self.register_buffer(name, torch.zeros(len(channels), groups))
        self.register_buffer("reliance", torch.ones(len(channels)))

    @property
    def width(self) -> int:
        """Columns of the features that :meth:`forward` takes: the channels of all stages side by side."""
        return sum(self.channels)

    def bias(self, stage: int) -> Tensor:
        """What a knob of 1 adds to the scores of a stage, float64 ``[k]``."""
        return self.prices[stage] * torch.arange(self.groups, dtype=torch.float64)

    def start(self, size: int) -> Tensor:
        """The state ``[size, hidden]`` before the first stage."""
        return self.decoder.weight.new_zeros(size, self.hidden)

    def step(self, stage: int, pooled: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[N, k]`` at a stage, and the next state ``[N, hidden]``.

        Args:
            stage: from 0.
            pooled: ``[N, c]``, means over positions of what enters the stage; a prefix of its channels will do, as
                channels that were skipped count as zero.
            state: from the stage before.
        """
        state = self._next(stage, pooled, state)
        known = (self.offsets[stage], self.paid[stage], self.reliance[stage])
        return composed(self.decoder(state), *known), state

    def _next(self, stage: int, pooled: Tensor, state: Tensor) -> Tensor:
        encoder = self.encoders[stage]
        assert isinstance(encoder, nn.Linear)
        pooled = pooled.to(state)
        code = nn.functional.linear(pooled, encoder.weight[:, : pooled.shape[1]], encoder.bias)
        found: Tensor = self.core(code, state)
        return found

    def forward(self, features: Tensor, stage: Tensor) -> Tensor:
        """Scores ``[N, k]`` of stored observations, each at its own stage.

        Args:
            features: ``[N, width]``: the pooled channels of the stages up to the sample's own side by side, as
                :meth:`padded` puts them; later columns are not looked at.
            stage: ``[N]`` int64, from 0.

        Raises:
            ChainError: shapes that do not fit, or a stage that is not there.
        """
        if features.dim() != 2 or features.shape[1] != self.width or stage.shape != features.shape[:1]:
            raise ChainError(
                f"features must be [N, {self.width}] and stages [N], but got {list(features.shape)} and "
                f"{list(stage.shape)}"
            )
        if len(stage) and not 0 <= int(stage.min()) <= int(stage.max()) < len(self.channels):
            raise ChainError(f"stages must be 0 to {len(self.channels) - 1}, but got {sorted(set(stage.tolist()))}")
        order = stage.argsort(descending=True, stable=True)  # those that stop early come last and drop out
        left, parts = stage[order], torch.split(features[order], list(self.channels), 1)
        state, scores = self.start(len(order)), []
        for at in range(int(left[0]) + 1 if len(left) else 0):
            going = int((left >= at).sum())
            here, state = self.step(at, parts[at][:going], state[:going])
            stay = int((left > at).sum())
            scores.append(here[stay:])
        found = torch.cat(scores[::-1]) if scores else features.new_zeros(0, self.groups)
        return found[order.argsort()]

    def scores(self, features: Tensor) -> Tensor:
        """Scores ``[N, m, k]`` of all stages of stored episodes, in one pass.

        Args:
            features: ``[N, width]``, the pooled channels of all stages side by side.
        """
        return composed(self.decoded(features), self.offsets, self.paid, self.reliance[:, None])

    def decoded(self, features: Tensor) -> Tensor:
        """What the decoder gives, ``[N, m, k + 1]``, at all stages of stored episodes; see :meth:`scores`."""
        state, found = self.start(len(features)), []
        for stage, pooled in enumerate(torch.split(features, list(self.channels), 1)):
            state = self._next(stage, pooled, state)
            found.append(state)
        decoded: Tensor = self.decoder(torch.stack(found, 1))
        return decoded

    def padded(self, pooled: Sequence[Tensor]) -> Tensor:
        """``[N, width]`` features from the pooled channels ``[N, c]`` of the stages so far, zeros elsewhere."""
        size = len(pooled[0])
        out = pooled[0].new_zeros(size, self.width)
        at = 0
        for values, channels in zip(pooled, self.channels, strict=False):
            out[:, at : at + values.shape[1]] = values
            at += channels
        return out

    @torch.no_grad()
    def standardise(self, pooled: Sequence[Tensor]) -> None:
        """Scale the encoders so that they see each channel with mean 0 and deviation 1 over ``pooled``.

        Args:
            pooled: ``[N, channels]`` for each stage, for example those of the whole network on calibration samples.
                Channels that hardly vary are only shifted.
        """
        for encoder, values in zip(self.encoders, pooled, strict=True):
            assert isinstance(encoder, nn.Linear)
            mean, deviation = values.mean(0), values.std(0, correction=0)
            scale = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
            encoder.weight.div_(scale)
            encoder.bias.sub_(encoder.weight @ mean)

    def macs(self, reads: Tensor) -> Tensor:
        """Multiply-accumulates of all decisions, int64 ``[N]``.

        Args:
            reads: int64 ``[N, m]``, how many channels of what enters each stage are there.
        """
        return decision_macs(reads, self.groups, self.code, self.hidden)


def decision_macs(reads: Tensor, groups: int, code: int, hidden: int) -> Tensor:
    """:meth:`Controller.macs` of any controller of that size, int64 ``[N]``."""
    stage = 3 * hidden * (code + hidden) + hidden * (groups + 1)
    return reads.sum(1) * code + reads.shape[1] * stage


def composed(decoded: Tensor, offsets: Tensor, paid: Tensor, reliance: Tensor) -> Tensor:
    """Scores ``[..., k]`` from what the decoder gives, ``[..., k + 1]``, and :attr:`Controller.offsets`,
    :attr:`Controller.paid` and :attr:`Controller.reliance` (``[..., 1]``), which broadcast."""
    return decoded[..., :-1] + offsets * difficulty(decoded, reliance) + paid


def difficulty(decoded: Tensor, reliance: Tensor | float = 1.0) -> Tensor:
    """``[..., 1]`` from what the decoder gives, ``[..., k + 1]``, to the power of ``reliance``, which broadcasts."""
    return (reliance * decoded[..., -1:]).clamp(-HARDEST, HARDEST).exp()


def checked_prices(prices: Sequence[float] | None, stages: int) -> tuple[float, ...]:
    """One price for each stage, all 1 for ``None``.

    Raises:
        ChainError: another number of them, or one that is not above 0.
    """
    found = (1.0,) * stages if prices is None else tuple(float(price) for price in prices)
    if len(found) != stages or not all(math.isfinite(price) and price > 0 for price in found):
        raise ChainError(f"a controller of {stages} stages needs as many prices above 0, but got {list(found)}")
    return found
