"""One pass over a few samples that collects every statistic asked for, and leaves the network as it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.calibration.gradients import Gate, add_batch, gates
from autoprune.calibration.moments import Moments, has_inputs, patches
from autoprune.calibration.stats import LayerStats, Need
from autoprune.deploy import deployed, foldable
from autoprune.errors import DataError, ModelError, SettingsError
from autoprune.graph import LayerGraph
from autoprune.seeding import generator

if TYPE_CHECKING:
    from autoprune.data.splits import Split

_TRIED = 4  # samples on which the deployed form must give the network's own outputs
_FOLDED = 1e-4  # of the largest output, how far they may be away


def collect(
    model: nn.Module,
    graph: LayerGraph,
    split: Split,
    needs: Collection[Need],
    *,
    layers: Collection[str] | None = None,
    samples: int | None = None,
    positions_per_sample: int | None = 10,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, LayerStats]:
    """Statistics of every layer from one pass over ``split``, with the network in evaluation mode.

    Moments are those of the rows that a linear layer or an ungrouped convolution multiplies with its weight ``[O, I]``:
    patches as the layer sees them, padding included. A layer that runs several times is summed over its runs; grouped
    and transposed convolutions have none. Gradients are those of the mean cross-entropy of each full batch (a last,
    smaller batch is left out unless it is the only one), for frozen parameters too.

    Args:
        model: the dense network; mode, gradients, flags and buffers are the same afterwards, bit for bit.
        graph: its graph.
        split: where samples come from (the calibration split).
        needs: what to collect.
        layers: names of layers; ``None`` takes all that have the statistic.
        samples: how many samples, drawn without replacement; ``None`` takes all.
        positions_per_sample: positions of each sample and convolution (or token layer) that enter the moments; ``None``
            takes all. Ten is the choice of He et al., "AMC: AutoML for Model Compression", 2018.
        batch_size: samples in one batch; the gradient criteria are squared for each batch, so it matters there.
        seed: draws samples and positions.

    Returns:
        Statistics by layer; layers that have none are left out.

    Raises:
        SettingsError: a number out of its range.
        DataError: the split is empty.
        UnknownNameError: a layer that the graph does not know.
        ModelError: the output has no class scores, or the loss is not finite.
    """
    _check(samples=samples, positions_per_sample=positions_per_sample, batch_size=batch_size)
    if len(split) == 0:
        raise DataError("the calibration split is empty; give it at least one sample")
    chosen = {graph.layer(name).name for name in (graph.layers if layers is None else layers)}
    index = _sample(len(split), samples, seed)
    moments: dict[str, Moments] = {}
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(model))
        run = model if Need.GRADIENT in needs else _quick(model, graph, split.inputs(index[:_TRIED]))
        if Need.MOMENTS in needs:
            stack.enter_context(_watched(run, chosen, moments, positions_per_sample, seed))
        found = gates(model, graph, chosen) if Need.GRADIENT in needs else []
        _run(run, split, index, batch_size, found)
    return _gathered(graph, moments, found)


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise SettingsError(f"{name} must be at least 1, but got {value}")


def _sample(available: int, samples: int | None, seed: int) -> Tensor:
    """Sorted indices of the samples to use."""
    if samples is None or samples >= available:
        return torch.arange(available)
    return torch.randperm(available, generator=generator(seed, "calibration", "samples"))[:samples].sort().values


@torch.no_grad()
def _quick(model: nn.Module, graph: LayerGraph, x: Tensor) -> nn.Module:
    """``model``, or its deployed form where that gives the same outputs for ``x``: layers see the same, sooner."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None or not x.is_floating_point():
        return model
    x = x.to(like.device, like.dtype)
    try:
        made = deployed(model, foldable(model, graph.norms), dtype=like.dtype)
        plain, quick = model(x), made(x)
    except Exception:  # noqa: BLE001 - whatever a network of the user's does not stand, it runs as it is
        return model
    if not isinstance(plain, Tensor) or not isinstance(quick, Tensor) or plain.shape != quick.shape:
        return model
    far = _FOLDED * (1 + float(plain.abs().max())) if len(x) else 0.0
    return made if torch.allclose(plain, quick, rtol=0, atol=far) else model


def _run(model: nn.Module, split: Split, index: Tensor, batch_size: int, found: list[Gate]) -> None:
    """The pass itself: forward for the moments, backward too where there are gates."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    like = next((p for p in parameters.values() if p.is_floating_point()), torch.empty(0))
    with torch.set_grad_enabled(bool(found)):
        for part in torch.split(index, batch_size):
            x = split.inputs(part)
            x = x.to(like.device, like.dtype) if x.is_floating_point() else x.to(like.device)
            if not found and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            output = model(x)
            if found and (len(part) == batch_size or len(index) < batch_size):
                add_batch(found, parameters, _loss(output, split.y[part].to(like.device)))


def _loss(output: Any, target: Tensor) -> Tensor:
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor) or scores.dim() < 2 or len(scores) != len(target):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(output).__name__
        raise ModelError(
            f"gradients need an output of class scores [{len(target)}, classes], but the model returned {shape}; "
            "wrap it so that it returns one tensor of scores"
        )
    loss = F.cross_entropy(scores, target)
    if not torch.isfinite(loss):
        raise ModelError(f"the loss of the dense network on the calibration split is {loss.item()}; train it first")
    return loss


def _gathered(graph: LayerGraph, moments: dict[str, Moments], found: list[Gate]) -> dict[str, LayerStats]:
    stats: dict[str, LayerStats] = {}
    for name in graph.layers:
        taylor = {(g.tensor, g.dim): torch.stack(g.sums, 1) for g in found if g.layer == name}
        seen = moments.get(name)
        if seen is not None and seen.rows:
            rows = seen.rows
            stats[name] = LayerStats(rows, *seen.finish(), taylor)
        elif taylor:
            stats[name] = LayerStats(taylor=taylor)
    return stats


@contextmanager
def _watched(
    model: nn.Module, layers: Collection[str], moments: dict[str, Moments], positions: int | None, seed: int
) -> Iterator[None]:
    """Moments of the inputs of ``layers`` are taken while the block runs."""
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        moments[name] = Moments()
        draws = generator(seed, "calibration", "positions", name)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for rows in patches(module, (args[0] if args else kwargs["input"]).detach(), positions, draws):
                moments[name].add(rows)

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    try:
        for name, module in model.named_modules():
            if name in layers and has_inputs(module):
                watch(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with every parameter differentiable; afterwards all is as it was, even after an error."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        model.eval()
        for parameter, _ in flags:
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer
