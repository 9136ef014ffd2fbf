"""Retraining: a fixed number of steps with masks held, distillation, reports; and batch norm estimated anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autoprune.train_loop import FinetuneSettings, TrainLoop, modes_kept

if TYPE_CHECKING:
    from autoprune.data import Split

__all__ = ["FinetuneResult", "FinetuneSettings", "finetune", "recalibrate"]


@dataclass(frozen=True)
class FinetuneResult:
    """What a training did: steps made, whether a report stopped it, mean loss since the last report."""

    steps: int
    stopped: bool
    loss: float


def finetune(
    module: nn.Module,
    split: Split,
    settings: FinetuneSettings,
    *,
    seed: int,
    augment: str = "none",
    masks: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    report: Callable[[int], bool] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> FinetuneResult:
    """Train ``module`` in place for ``settings.steps`` steps; the same seed gives the same weights, bit for bit.

    Args:
        module: the network; frozen parameters stay frozen, and its mode is put back.
        split: training samples.
        settings: how.
        seed: of order, augmentation and dropout.
        augment: what the data allow, used where ``settings.augment`` is ``None``.
        masks: by parameter name, ``True`` where a weight lives; the others are zero from the first step on, and so are
            their gradients and momenta.
        teacher: the network to distill from (with ``settings.distill_weight`` above 0).
        report: called with the step every ``settings.report_every`` steps and at the end; ``True`` stops the training.
        state: what :meth:`TrainLoop.state` gave, to continue.

    Raises:
        TrainingDiverged: a loss or a weight that is not finite.
        ModelError: nothing to train, or an output that is not logits ``[N, classes]``.
    """
    loop = TrainLoop(module, split, settings, seed=seed, augment=augment, masks=masks, teacher=teacher)
    if state is not None:
        loop.load_state(state)
    loss, stopped = math.nan, False
    with loop.running():
        while loop.step < settings.steps and not stopped:
            every = settings.report_every or settings.steps
            loss = loop.advance(min(loop.step + every - loop.step % every, settings.steps))
            stopped = report is not None and bool(report(loop.step))
    return FinetuneResult(loop.step, stopped, loss)


@torch.no_grad()
def recalibrate(module: nn.Module, split: Split, *, batch_size: int = 256) -> None:
    """Estimate the running statistics of every batch norm anew, as the mean over batches of ``split``, in place.

    Everything else runs in evaluation mode (no dropout), and every mode is put back. A network without batch norm is
    left as it is.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms or not len(split):
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with modes_kept(module):
            module.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative mean
                norm.train()
            parts = math.ceil(len(split) / batch_size)
            for index in torch.arange(len(split)).tensor_split(parts):  # sizes differ by at most one: equal weights
                x = split.inputs(index)
                module(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
