"""The form in which a network is evaluated and would be deployed: batch norm folded, channels-last, frozen.

Folding commutes with slicing and with masking weights, so a search folds its dense network once and cuts candidates
from that (:func:`folded_graph`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.folding import fold_norms
from autoprune.graph import Group, LayerGraph, Role, Slot
from autoprune.surgery import with_tensors

Pairs = Sequence[tuple[str, str]]
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def deployed(module: nn.Module, norms: Pairs = (), *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of ``module`` in eval mode with ``norms`` folded, in ``dtype``, its convolutions channels-last.

    Args:
        module: any network; not changed (tensors that stay as they are are shared with it).
        norms: pairs (layer, batch norm that alone consumes it), as in ``LayerGraph.norms``.
        dtype: of every parameter and floating-point buffer.
    """
    return deploy(with_tensors(module, {}, share=True), norms, dtype=dtype)


def deploy(module: nn.Module, norms: Pairs = (), *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """:func:`deployed` in place, for a network that nobody needs as it was; returns ``module``."""
    fold_norms(module.eval(), foldable(module, norms))
    lay_out(module, dtype)
    return module


def foldable(module: nn.Module, norms: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The pairs of ``norms`` whose batch norm can be folded into a layer that shares no weight with another."""
    modules = dict(module.named_modules())
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    return tuple(
        (layer, norm)
        for layer, norm in norms
        if isinstance(modules.get(layer), _LAYERS)
        and isinstance(modules.get(norm), nn.modules.batchnorm._BatchNorm)
        and getattr(modules[norm], "running_mean", None) is not None
        and all(uses[id(parameter)] == 1 for parameter in modules[layer].parameters(recurse=False))
    )


def lay_out(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Give every tensor of ``module`` the type ``dtype`` and weights of convolutions the channels-last layout.

    Tensors are replaced, never written to; one that is right already stays shared.
    """
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(_laid_out(parameter.detach(), dtype), requires_grad=False)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point() and dtype is not None:
                part._buffers[name] = buffer.to(dtype)


def folded_graph(graph: LayerGraph, folded: Pairs) -> LayerGraph:
    """``graph`` of the network in which the pairs ``folded`` are folded, to slice it; costs are not kept up."""
    bias_of = {norm: f"{layer}.bias" for layer, norm in folded}
    groups = {name: replace(group, slots=_moved(group, bias_of)) for name, group in graph.groups.items()}
    shapes = {name: shape for name, shape in graph.shapes.items() if name.rpartition(".")[0] not in bias_of}
    for layer, norm in folded:
        channels = graph.shapes.get(f"{norm}.running_mean") or graph.shapes.get(f"{norm}.weight")
        if channels is not None:
            shapes[f"{layer}.bias"] = channels
    return replace(graph, groups=groups, shapes=shapes, norms=())


def _moved(group: Group, bias_of: dict[str, str]) -> tuple[Slot, ...]:
    """Slots without those of folded norms; where a norm stood, the bias it left stands in its channels."""
    kept = [slot for slot in group.slots if slot.layer not in bias_of]
    present = {slot.tensor for slot in kept}
    for slot in group.slots:
        bias = bias_of.get(slot.layer)
        if bias is not None and bias not in present:
            present.add(bias)
            kept.append(Slot(bias, bias.rpartition(".")[0], 0, Role.ALONG, slot.positions))
    return tuple(kept)


def _laid_out(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
