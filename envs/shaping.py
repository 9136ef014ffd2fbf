"""Dense rewards: what the layers that read a group lose once some of its units are gone, known in closed form."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoprune.calibration import LayerStats, Need
from autoprune.calibration.moments import has_inputs
from autoprune.graph import Group
from autoprune.reconstruction import DEFAULT_RIDGE, get_reconstruction, output_error

if TYPE_CHECKING:
    from autoprune.envs.task import TaskObjective

_MOMENTS = frozenset({Need.MOMENTS})


class LayerErrors:
    """Relative errors of the layers that consume a group, each (group, method, count, repair) computed once.

    With ``W`` the weight ``[O, I]`` of a consumer, ``C`` the covariance of its inputs in the dense network, and ``E``
    the change of the weight after repair (the columns that are gone included), the error is
    ``tr(E C E') / tr(W C W')``, plus the drift of the mean where nothing takes it: the share of the variance of the
    layer's outputs that is lost. No data pass is needed. The error of a group is the mean over its consumers; those
    that have no moments (grouped convolutions) are left out.

    A problem with a known answer gives the accuracy that the decision costs.
    """

    def __init__(self, objective: TaskObjective) -> None:
        self.objective: Any = objective
        self._found: dict[tuple[str, str, int, str], float] = {}

    def prepare(self) -> None:
        """Collect the moments now, so that workers forked later share them."""
        if not hasattr(self.objective, "damage"):
            self.objective.stats(_MOMENTS)

    def of(self, group: str, method: str, removed: int, reconstruction: str = "none") -> float:
        """Error when the first ``removed`` units of ``group`` by ``method`` go; 0 where none goes."""
        key = (group, method, removed, reconstruction)
        if key not in self._found:
            self._found[key] = self._error(*key) if removed else 0.0
        return self._found[key]

    def _error(self, group: str, method: str, removed: int, reconstruction: str) -> float:
        if hasattr(self.objective, "damage"):
            return float(self.objective.damage(group, method, removed))
        stats = self.objective.stats(_MOMENTS)
        gone = self.objective.ranker.order(group, method)[:removed]
        modules = dict(self.objective.model.named_modules())
        errors = [
            self._consumer(layer, inputs, modules[layer], stats[layer], reconstruction)
            for layer, inputs in _inputs_gone(self.objective.graph.groups[group], gone).items()
            if has_inputs(modules[layer]) and layer in stats and stats[layer].covariance is not None
        ]
        return sum(errors) / max(len(errors), 1)

    def _consumer(self, layer: str, gone: Tensor, module: nn.Module, stats: LayerStats, reconstruction: str) -> float:
        assert stats.covariance is not None
        dense = module.get_parameter("weight").detach().to(torch.float64)
        block = dense[0, 0].numel()
        weight = dense.flatten(1)  # [O, I]
        stays = torch.ones(dense.shape[1], dtype=torch.bool)
        stays[gone] = False
        keep = (stays.nonzero() * block + torch.arange(block)).flatten()
        norms = dict(self.objective.graph.norms)
        intercept = getattr(module, "bias", None) is not None or layer in norms
        repair = get_reconstruction(reconstruction).repair(
            weight, keep, stats, intercept=intercept, ridge=DEFAULT_RIDGE
        )
        total = float(((weight @ stats.covariance) * weight).sum())
        return output_error(weight, keep, repair, stats) / total if total > 0 else 0.0


def _inputs_gone(group: Group, units: Tensor) -> dict[str, Tensor]:
    """Input channels that each consuming layer loses with ``units``."""
    gone: dict[str, list[Tensor]] = defaultdict(list)
    for slot in group.consumers:
        if slot.dim == 1:
            gone[slot.layer].append(slot.positions[units].flatten())
    return {layer: torch.cat(parts) for layer, parts in gone.items()}
