"""First-order criteria: how the loss of a batch changes along a gate on each unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoprune.graph import Group, LayerGraph, Role, Slot
from autoprune.plan import Pattern


@dataclass(frozen=True, eq=False)
class Gate:
    """One dimension of one weight, with a gate of value 1 on each position along it.

    A gate multiplies all that its unit gives out, so the loss's derivative along it is the sum of ``p * dL/dp`` over
    the parameters ``p`` that make the output: the weight's rows and the bias or, where a batch norm alone consumes the
    layer and the gate stands behind it, the norm's scale and shift. For features of the network's input it is the sum
    over the columns that consume them.

    Attributes:
        layer: the layer that owns the weight.
        tensor: name of the weight.
        dim: dimension of the weight along which the units lie.
        summed: the weight is summed over its other dimensions (``False`` where the norm stands for it).
        along: names of further parameters ``[n]`` that belong to the gate.
        sums: criteria ``[n]`` of the batches so far.
    """

    layer: str
    tensor: str
    dim: int
    summed: bool
    along: tuple[str, ...]
    sums: list[Tensor] = field(default_factory=list)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters behind the gate."""
        return ((self.tensor,) if self.summed else ()) + self.along

    def add(self, products: Mapping[str, Tensor]) -> None:
        """Take in a batch, given ``p * dL/dp`` (float64) by parameter."""
        parts = [products[name] for name in self.along]
        if self.summed:
            parts.append(products[self.tensor].movedim(self.dim, 0).flatten(1).sum(1))
        self.sums.append(torch.stack(parts).sum(0).cpu())


def gates(model: nn.Module, graph: LayerGraph, layers: Collection[str]) -> list[Gate]:
    """A gate for every dimension of a weight of ``layers`` along which the units of a group lie."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    norms = dict(graph.norms)
    found: dict[tuple[str, int], Gate] = {}
    for slot in (slot for group in graph.groups.values() for slot in scored_slots(group)):
        key = (slot.tensor, slot.dim)
        if slot.layer in layers and slot.tensor in parameters and key not in found:
            found[key] = _gate(slot, parameters, norms.get(slot.layer))
    return list(found.values())


def scored_slots(group: Group) -> tuple[Slot, ...]:
    """Where the weights stand by which units are judged: what makes them, or for inputs what consumes them.

    A group that nothing makes (a learned constant) is judged by what consumes it.
    """
    first, second = group.producers, group.consumers
    return (second or first) if group.pattern is Pattern.INPUT else (first or second)


def _gate(slot: Slot, parameters: Mapping[str, Tensor], norm: str | None) -> Gate:
    size = parameters[slot.tensor].shape[slot.dim]

    def fits(*names: str) -> bool:
        return all(name in parameters and parameters[name].shape == (size,) for name in names)

    behind = (f"{norm}.weight", f"{norm}.bias")
    bias = slot.tensor.removesuffix("weight") + "bias"
    if slot.role is Role.OUT and norm is not None and fits(*behind):
        return Gate(slot.layer, slot.tensor, slot.dim, False, behind)
    if slot.role is Role.OUT and slot.tensor.endswith("weight") and fits(bias):
        return Gate(slot.layer, slot.tensor, slot.dim, True, (bias,))
    return Gate(slot.layer, slot.tensor, slot.dim, True, ())


def add_batch(gates: list[Gate], parameters: Mapping[str, Tensor], loss: Tensor) -> None:
    """Differentiate ``loss`` once and give every gate its share."""
    names = sorted({name for gate in gates for name in gate.parameters})
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    products: dict[str, Tensor] = {}
    for name, gradient in zip(names, gradients, strict=True):
        value = parameters[name].detach().to(torch.float64)
        products[name] = torch.zeros_like(value) if gradient is None else value * gradient
    for gate in gates:
        gate.add(products)
