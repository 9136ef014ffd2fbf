"""Several small networks at once: all members of an ensemble in one tensor program.

A member sees the features of one group and says what pruning it costs, as a mean and a variance; a plan costs the sum
over its groups. ``M`` members, ``R`` rows, ``T`` plans, ``F`` features, ``H`` hidden units.

Sources: B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", 2017; M. Seitzer, A. Tavakoli, D. Antic, G. Martius, "On the Pitfalls of Heteroscedastic Uncertainty
Estimation with Probabilistic Neural Networks", 2022 (the weight on the likelihood).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.checks import in_range, whole
from autoprune.seeding import generator

_START = -2.0  # softplus of this: a group that loses everything costs 13 % before anything is learned
_BETA = 0.5  # of the weight on the likelihood


@dataclass(frozen=True)
class FitSettings:
    """How an ensemble is fitted.

    Attributes:
        members: networks, each with its own start and its own weights on the examples.
        hidden: units of each of the two hidden layers.
        steps: of Adam; ``lr``: its highest rate, falling to 0 as a cosine.
        batch: plans in a step.
        decay: pull of the weights towards where they start (0 for a new ensemble, else the stored one).
        monotone: penalty on a harm that falls as the threshold rises; 0 for none.
    """

    members: int = 5
    hidden: int = 64
    steps: int = 150
    lr: float = 0.02
    batch: int = 64
    decay: float = 3e-5
    monotone: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("members", 2), ("hidden", 1), ("steps", 1), ("batch", 1)):
            whole(f"predictor setting {name!r}", getattr(self, name), least)
        in_range("predictor setting 'lr'", self.lr, above=0.0)
        for name in ("decay", "monotone"):
            in_range(f"predictor setting {name!r}", getattr(self, name), least=0.0)


class Ensemble(nn.Module):
    """``M`` networks ``F -> H -> H -> 2``, and for each an effect of retraining that no layer causes.

    The mean of a row is ``removed * softplus(.)``: 0 where nothing goes, and never below. Retraining may also help or
    harm a network as a whole: a linear function of accuracy, steps and batch, added where there is retraining.
    """

    def __init__(self, features: int, retraining: int, settings: FitSettings, draws: torch.Generator) -> None:
        super().__init__()
        m, h = settings.members, settings.hidden

        def start(inputs: int, outputs: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(m, inputs, outputs, generator=draws) * scale / math.sqrt(inputs))

        self.w1, self.b1 = start(features, h), nn.Parameter(torch.zeros(m, 1, h))
        self.w2, self.b2 = start(h, h), nn.Parameter(torch.zeros(m, 1, h))
        self.w3, self.b3 = start(h, 2, 0.5), nn.Parameter(torch.zeros(m, 1, 2))
        self.effect = nn.Parameter(torch.zeros(m, retraining + 1, 1))

    def forward(self, x: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) ``[M, R]`` of rows ``x [R, F]`` that remove the share ``removed [R]``."""
        x = x.expand(len(self.w1), *x.shape)
        x = torch.tanh(torch.baddbmm(self.b1, x, self.w1))  # [M, R, H]
        x = functional.silu(torch.baddbmm(self.b2, x, self.w2))  # [M, R, H]
        raw = torch.baddbmm(self.b3, x, self.w3)  # [M, R, 2]
        mean = removed * functional.softplus(raw[..., 0] + _START)
        return mean, removed.square() * torch.exp((raw[..., 1] - 5).clamp(-12, 2))

    def whole(self, retraining: Tensor, on: Tensor) -> Tensor:
        """Effect ``[M, T]`` of retraining ``[T, C]`` on plans, where it is ``on [T]``."""
        x = torch.cat([retraining, torch.ones(len(retraining), 1)], 1)  # [T, C + 1]
        return (x @ self.effect).squeeze(-1) * on


@dataclass(frozen=True, eq=False)
class Batch:
    """Standardised examples as tensors; see :class:`autoprune.search.threshold.examples.Examples`."""

    x: Tensor
    removed: Tensor
    owner: Tensor
    retraining: Tensor
    on: Tensor
    harm: Tensor
    noise: Tensor
    weight: Tensor
    counts: Tensor

    def some(self, plans: Tensor) -> Batch:
        """The plans at these places."""
        counts = self.counts[plans]
        first = self.counts.cumsum(0) - self.counts
        owner = torch.repeat_interleave(torch.arange(len(plans)), counts)
        inside = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
        rows = first[plans][owner] + inside
        return Batch(
            self.x[rows],
            self.removed[rows],
            owner,
            self.retraining[plans],
            self.on[plans],
            self.harm[plans],
            self.noise[plans],
            self.weight[:, plans],
            counts,
        )


def sums(net: Ensemble, batch: Batch) -> tuple[Tensor, Tensor]:
    """(mean, variance) ``[M, T]`` of whole plans."""
    return summed(net, batch, *net(batch.x, batch.removed))


def summed(net: Ensemble, batch: Batch, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) ``[M, T]`` of plans from those of their rows ``[M, R]``."""
    total = net.whole(batch.retraining, batch.on).index_add(1, batch.owner, mean)
    spread = torch.zeros_like(total).index_add(1, batch.owner, variance)
    return total, spread


def fit(
    net: Ensemble,
    batch: Batch,
    settings: FitSettings,
    seed: int,
    rise: Tensor,
    start: Mapping[str, Tensor] | None = None,
) -> None:
    """Fit ``net`` in place; the same on every run.

    Args:
        net: with its first weights.
        batch: all examples; weights ``[M, T]``, each member its own.
        settings: how.
        seed: of the order of the examples.
        rise: ``[F]`` what a rise of the threshold changes in a standardised row, for the penalty on harm that falls.
        start: weights that ``settings.decay`` pulls to; 0 by default.
    """
    draws = generator(seed, "fit")
    parameters = dict(net.named_parameters())
    adam = _Adam(list(parameters.values()))
    order = torch.empty(0, dtype=torch.int64)
    total = len(batch.harm)
    for step in range(settings.steps):
        part = batch
        if total > settings.batch:
            if len(order) < settings.batch:
                order = torch.cat([order, torch.randperm(total, generator=draws)])
            part, order = batch.some(order[: settings.batch]), order[settings.batch :]
        loss = _loss(net, part, settings, rise, draws)
        for name, value in parameters.items() if settings.decay else ():
            if not name.startswith("b"):
                away = value if start is None else value - start[name]
                loss = loss + settings.decay * away.square().sum() / len(value)
        adam.step(
            torch.autograd.grad(loss, adam.parameters),
            settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps)),
        )


class _Adam:
    """Adam (D. Kingma, J. Ba, 2015) for a few small tensors; torch's own loads its compiler, which takes seconds."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        """One step."""
        self._steps += 1
        rate = lr * math.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        for value, first, second, g in zip(self.parameters, self._first, self._second, gradients, strict=True):
            first.lerp_(g, 0.1)
            second.mul_(0.999).addcmul_(g, g, value=0.001)
            value.addcdiv_(first, second.sqrt().add_(1e-8), value=-rate)


def _loss(net: Ensemble, batch: Batch, settings: FitSettings, rise: Tensor, draws: torch.Generator) -> Tensor:
    rows = len(batch.x)
    few = torch.randint(rows, (min(rows, 64) if settings.monotone else 0,), generator=draws)
    x, removed = torch.cat([batch.x, batch.x[few] + rise]), torch.cat([batch.removed, batch.removed[few]])
    each, spread = net(x, removed)
    mean, variance = summed(net, batch, each[:, :rows], spread[:, :rows])
    variance = variance + batch.noise
    terms = variance.log() + (batch.harm - mean).square() / variance
    loss = (0.5 * terms * variance.detach() ** _BETA * batch.weight).sum() / batch.weight.sum()
    falls = functional.relu(each[:, few] - each[:, rows:])
    return loss + settings.monotone * falls.mean() if len(few) else loss
