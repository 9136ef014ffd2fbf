"""Statistics of batch norms at every width, from samples: exact moments, one norm after the other.

The samples go through the network once for each width, all of them through one layer before the next, so that every
norm sees what the norms before it give with their new statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.devices import batch_for
from autoprune.errors import ChainError
from autoprune.runtime.chain import Chain
from autoprune.runtime.execution import Layers, Masked, NormRows, normed
from autoprune.runtime.stages import Kind, Step


@torch.no_grad()
def recalibrate(
    chain: Chain,
    samples: Tensor | Split,
    actions: Tensor | None = None,
    *,
    whole: bool = False,
    chunk: int | None = None,
) -> None:
    """Estimate the statistics of every batch norm anew, in place: mean and (unbiased) variance over ``samples``.

    Without ``actions``, every set is estimated with the same action in all stages: set i with action i. With them (what
    a controller chose for these samples, say), set i of a norm comes from the samples that read width i there; a set
    that no sample reaches stays. The sets of the dense network (of the whole width, and of norms after whole inputs)
    stay too, so that the outputs with all groups stay those of the dense network, unless ``whole`` is set.

    Args:
        chain: the network.
        samples: inputs ``[N, ...]``, or a split.
        actions: int64 ``[N, m]``.
        whole: estimate the dense network's sets too.
        chunk: samples in one forward pass, by default what suits the device. The values between two layers of all
            samples stand in memory together.

    Raises:
        ChainError: fewer than two samples, or actions that do not fit.
    """
    _estimate_all(chain, samples, actions, whole, chunk)
    if whole:
        _to_backbone(chain)


@torch.no_grad()
def recalibrate_knobs(chain: Chain, samples: Tensor, decided: Mapping[float, Tensor]) -> None:
    """Estimate sets of statistics for settings of the knob (:meth:`autoprune.runtime.norms.WidthNorms.hold`).

    The common sets stay, and are those of a setting at which every sample runs all groups, and of widths that hardly
    any sample reaches (less than one in a hundred).

    Args:
        chain: the network.
        samples: inputs ``[N, ...]``.
        decided: settings, growing, each with the actions of the samples at it, int64 ``[N, m]``.

    Raises:
        ChainError: fewer than two samples, actions that do not fit, or settings that do not grow.
    """
    norms = chain.norms
    norms.hold(tuple(decided))
    common = {layer: [part.clone() for part in norms.rows(layer)] for layer in norms.layers}
    for place, actions in enumerate(decided.values()):
        if not bool((actions == chain.groups).all()):
            _estimate_all(chain, samples, actions, True, None, max(2, len(samples) // 100))
            norms.keep(place)
        for layer, parts in common.items():
            for own, part in zip(norms.rows(layer), parts, strict=True):
                own.copy_(part)


def _estimate_all(
    chain: Chain, samples: Tensor | Split, actions: Tensor | None, whole: bool, chunk: int | None, least: int = 1
) -> None:
    if len(samples) < 2:
        raise ChainError(f"statistics need at least two samples, but got {len(samples)}")
    chunk = chunk or batch_for(samples.device, 128)
    ends = [(at, min(at + chunk, len(samples))) for at in range(0, len(samples), chunk)]
    parts = [samples.inputs(slice(*e)) if isinstance(samples, Split) else samples[slice(*e)] for e in ends]
    if actions is not None:
        table = chain.checked(actions, len(samples))
        chunks = [(x, table[slice(*e)]) for x, e in zip(parts, ends, strict=True)]
        _estimate(chain, [(x, Masked(chain.norms, own), own) for x, own in chunks], whole, least)
    else:
        for action in ([chain.groups] if whole else []) + list(range(1, chain.groups)):
            layers = Widest(chain.norms, action)
            rows = [torch.full((len(x), len(chain.stages)), action) for x in parts]
            runs: list[Run] = [(x, layers, own) for x, own in zip(parts, rows, strict=True)]
            _estimate(chain, runs, action == chain.groups)


Run = tuple[Tensor, Layers, Tensor]  # samples, how layers are run for them, their actions


class Widest:
    """The same action everywhere, and yet all channels of every layer: a prefix of them is read, all are made."""

    def __init__(self, norms: NormRows, action: int) -> None:
        self._norms, self._action = norms, action

    def run(self, step: Step, module: nn.Module, x: Tensor) -> Tensor:
        """One layer."""
        if step.kind is Kind.NORM:
            action = None if step.selector is None else self._action
            return normed(module, x, *self._norms.row(str(step.call.module), action))
        size = None if step.incoming is None else step.incoming.size(self._action)
        if isinstance(module, nn.Linear):
            return F.linear(x[:, :size], module.weight[:, :size], module.bias)
        out: Tensor
        if isinstance(module, nn.Conv2d) and step.kind is Kind.CONV:
            out = module._conv_forward(x[:, :size], module.weight[:, :size], module.bias)
        else:
            out = module(x)
        return out


def _estimate(chain: Chain, runs: Sequence[Run], whole: bool, least: int = 1) -> None:
    """One pass; ``whole`` allows the dense network's rows to change, and ``least`` samples those that they reach."""
    values: list[dict[int, Any]] = [{0: x} for x, _, _ in runs]
    for step in chain.steps:
        if step.kind is Kind.NORM:
            inputs = [here[step.call.reads[0]] for here in values]
            for action, seen in _by_row(step, inputs, runs, None if whole else chain.groups, least):
                chain.norms.put(str(step.call.module), action, *_moments(seen))
        for here, (_, layers, _) in zip(values, runs, strict=True):
            here[step.call.index] = chain.network.one(step, here, layers)
            for gone in step.last:
                del here[gone]


def _by_row(
    step: Step, inputs: Sequence[Tensor], runs: Sequence[Run], stays: int | None, least: int
) -> Iterator[tuple[int | None, list[Tensor]]]:
    """(action that chooses a row of a norm, what the norm sees under it), for each row that may change."""
    if step.selector is None:
        if stays is None:
            yield None, list(inputs)
        return
    chosen = [actions[:, step.selector] for _, _, actions in runs]
    counts = torch.cat(chosen).bincount().tolist()
    for action in (a for a, count in enumerate(counts) if count >= least and a != stays):
        yield action, [x[(own == action).to(x.device)] for x, own in zip(inputs, chosen, strict=True)]


def _moments(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel ``[C]`` over samples and positions, summed in float64."""
    count = sum(part.numel() // part.shape[1] for part in parts)
    mean = torch.stack([_sum(part.double()) for part in parts]).sum(0) / count
    shape = (1, -1, *[1] * (parts[0].dim() - 2))
    squares = torch.stack([_sum((part.double() - mean.view(shape)).square()) for part in parts]).sum(0)
    return mean, squares / max(count - 1, 1)


def _sum(part: Tensor) -> Tensor:
    return part.sum([d for d in range(part.dim()) if d != 1])


def _to_backbone(chain: Chain) -> None:
    """The dense network's statistics also stand in the backbone itself."""
    for layer in chain.norms.layers:
        norm: Any = chain.backbone.get_submodule(layer)
        mean, var = chain.norms.row(layer, None)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
