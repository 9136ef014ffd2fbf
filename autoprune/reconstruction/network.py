"""Repair of every layer of a pruned network that lost inputs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoprune.calibration.moments import has_inputs
from autoprune.calibration.stats import LayerStats
from autoprune.errors import MethodError
from autoprune.graph import LayerGraph, Role, Slot
from autoprune.reconstruction.repairs import Repair, get_reconstruction

DEFAULT_RIDGE = 1e-3
"""Costs nothing where samples are many, and keeps the fit from following noise where they are as few as inputs."""


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes:
        repaired: layers that were repaired, in order.
        skipped: layers that lost inputs and could not be repaired, with the reason.
    """

    repaired: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


def repairable(model: nn.Module, graph: LayerGraph) -> tuple[str, ...]:
    """Layers that can lose inputs to pruning and can be repaired: those whose moments are worth collecting."""
    modules = dict(model.named_modules())
    consuming = {slot.layer for group in graph.prunable for slot in group.consumers}
    return tuple(n for n in graph.layers if n in consuming and n in modules and has_inputs(modules[n]))


def repair_module(
    pruned: nn.Module,
    dense: nn.Module,
    graph: LayerGraph,
    kept: Mapping[str, Tensor],
    stats: Mapping[str, LayerStats],
    how: str = "mauch_yang",
    *,
    ridge: float = DEFAULT_RIDGE,
) -> RepairReport:
    """Repair, in place, every linear layer and ungrouped convolution of ``pruned`` that lost inputs.

    Each layer is fitted to the dense network's pre-activations on the dense network's inputs. The shift goes to the
    bias or, without one, to the running mean of the batch norm that alone consumes the layer; where there is neither
    the fit is uncentred.

    Args:
        pruned: what :func:`autoprune.applied.slim` or :func:`autoprune.applied.masked` made; changed in place.
        dense: the network it was made from; not changed.
        graph: the dense network's graph.
        kept: ``[k]`` indices of the units that stay, for each group that lost some.
        stats: statistics of the dense network, moments included.
        how: name in :data:`autoprune.reconstruction.RECONSTRUCTIONS`.
        ridge: see :meth:`autoprune.reconstruction.Reconstruction.repair`.

    Raises:
        UnknownNameError: no such reconstruction.
        MethodError: moments of another network.
    """
    reconstruction = get_reconstruction(how)
    if how == "none":
        return RepairReport()
    repaired: list[str] = []
    skipped: dict[str, str] = {}
    uses = Counter(id(parameter) for _, parameter in dense.named_parameters(remove_duplicate=False))
    for site in _sites(pruned, dense, graph, kept):
        reason = site.obstacle(uses, stats)
        if reason is None:
            weight = site.dense.weight.detach().to("cpu", torch.float64).flatten(1).index_select(0, site.rows)
            part = stats[site.layer]
            site.write(reconstruction.repair(weight, site.columns, part, intercept=site.intercept, ridge=ridge))
            repaired.append(site.layer)
        else:
            skipped[site.layer] = reason
    return RepairReport(tuple(repaired), skipped)


_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, eq=False)
class _Site:
    """A layer that lost inputs.

    Attributes:
        layer: its name.
        dense, pruned: the layer in both networks.
        norm: the pruned network's batch norm that alone consumes it.
        rows: ``[o]`` outputs of the dense layer that stay.
        channels: ``[c]`` input channels or features of the dense layer that stay.
    """

    layer: str
    dense: _Layer
    pruned: _Layer
    norm: nn.modules.batchnorm._BatchNorm | None
    rows: Tensor
    channels: Tensor

    @property
    def columns(self) -> Tensor:
        """``[k]`` columns of the unfolded weight ``[O, I]`` that stay."""
        block = self.dense.weight[0, 0].numel()
        return (self.channels[:, None] * block + torch.arange(block)).flatten()

    @property
    def intercept(self) -> bool:
        """Whether something can take a shift of the pre-activations."""
        return self.pruned.bias is not None or (self.norm is not None and self.norm.running_mean is not None)

    def obstacle(self, uses: Mapping[int, int], stats: Mapping[str, LayerStats]) -> str | None:
        """Why the layer cannot be repaired, if it cannot; ``uses`` counts the names of each parameter by ``id``."""
        if uses[id(self.dense.weight)] > 1:
            return "its weight is shared with another layer"
        if self.layer not in stats or stats[self.layer].covariance is None:
            return "no moments of its inputs were collected"
        return None

    def write(self, repair: Repair) -> None:
        """Put the repair into the pruned layer, which has lost rows and columns, or still has them as zeros.

        Tensors are replaced, not written to: those that pruning left alone may be the dense network's own.
        """
        weight = self.pruned.weight.detach()
        full = weight.shape[:2] == self.dense.weight.shape[:2]
        if not full and weight.shape[:2] != (len(self.rows), len(self.channels)):
            raise MethodError(
                f"layer {self.layer!r} has a weight {list(weight.shape)} after pruning, but {len(self.rows)} outputs "
                f"and {len(self.channels)} inputs stay; pass the units that were kept in this network"
            )
        value = repair.weight.to(weight).view(len(self.rows), len(self.channels), *weight.shape[2:])
        if full:
            weight = weight.clone()
            weight[self.rows[:, None], self.channels] = value
            value = weight
        self.pruned.weight = nn.Parameter(value, requires_grad=self.pruned.weight.requires_grad)
        self._shift(repair.shift, self.rows if full else slice(None))

    def _shift(self, shift: Tensor, rows: Tensor | slice) -> None:
        bias = self.pruned.bias
        if bias is not None:
            moved = bias.detach().clone()
            moved[rows] += shift.to(moved)
            self.pruned.bias = nn.Parameter(moved, requires_grad=bias.requires_grad)
        elif self.norm is not None and self.norm.running_mean is not None:
            moved = self.norm.running_mean.clone()
            moved[rows] -= shift.to(moved)
            self.norm.running_mean = moved


def _sites(pruned: nn.Module, dense: nn.Module, graph: LayerGraph, kept: Mapping[str, Tensor]) -> Iterator[_Site]:
    gone = _gone(graph, kept)
    norms = dict(graph.norms)
    before, after = dict(dense.named_modules()), dict(pruned.named_modules())
    for layer, info in graph.layers.items():
        module, small = before.get(layer), after.get(layer)
        if info.weight is None or (info.weight, 1, Role.IN) not in gone or module is None or not has_inputs(module):
            continue
        assert isinstance(module, _Layer)
        assert isinstance(small, _Layer)
        norm = after.get(norms.get(layer, ""))
        yield _Site(
            layer,
            module,
            small,
            norm if isinstance(norm, nn.modules.batchnorm._BatchNorm) else None,
            _staying(module.weight.shape[0], gone.get((info.weight, 0, Role.OUT))),
            _staying(module.weight.shape[1], gone[info.weight, 1, Role.IN]),
        )


def _gone(graph: LayerGraph, kept: Mapping[str, Tensor]) -> dict[tuple[str, int, Role], Tensor]:
    """(tensor, dimension, role) -> positions that are removed."""
    gone: dict[tuple[str, int, Role], list[Tensor]] = defaultdict(list)
    for name, index in kept.items():
        group = graph.group(name)
        lost = torch.ones(group.size, dtype=torch.bool)
        lost[index] = False
        for slot in group.slots if lost.any() else ():
            gone[_key(slot)].append(slot.positions[lost].flatten())
    return {key: torch.cat(parts) for key, parts in gone.items()}


def _key(slot: Slot) -> tuple[str, int, Role]:
    return slot.tensor, slot.dim, slot.role


def _staying(size: int, gone: Tensor | None) -> Tensor:
    stays = torch.ones(size, dtype=torch.bool)
    if gone is not None:
        stays[gone] = False
    return stays.nonzero().flatten()
