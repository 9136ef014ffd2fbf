"""Closed-form repairs of one layer that loses inputs. Pure functions on float64 tensors.

A layer ``a = W x + b`` with weight ``[O, I]`` keeps the inputs ``keep [k]``. Each repair gives a weight ``[O, k]`` and
a shift ``[O]`` of the pre-activations ``a``, from mean ``mu`` and covariance ``C`` of the dense network's inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.calibration.stats import LayerStats, Need
from autoprune.errors import MethodError, unknown_name

SINGULAR_RIDGE = 1e-8  # of the mean variance, where the kept inputs depend on each other
CONSTANT = 1e-12  # variance below this share of the second moment is rounding


@dataclass(frozen=True, eq=False)
class Repair:
    """What a layer becomes.

    Attributes:
        weight: ``[O, k]``.
        shift: ``[O]``, to add to the pre-activations; zero where there is no intercept to take it.
    """

    weight: Tensor
    shift: Tensor


Solver = Callable[[Tensor, Tensor, LayerStats, bool, float], Repair]


@dataclass(frozen=True)
class Reconstruction:
    """One way to repair.

    Attributes:
        name: its key in the registry.
        needs: statistics it needs.
        source: authors, title, year.
        solve: ``(weight [O, I], keep [k], stats, intercept, ridge) -> Repair``.
    """

    name: str
    needs: frozenset[Need]
    source: str
    solve: Solver

    def repair(
        self, weight: Tensor, keep: Tensor, stats: LayerStats, *, intercept: bool = True, ridge: float = 0.0
    ) -> Repair:
        """Repair a layer for the loss of all inputs but ``keep``.

        Args:
            weight: ``[O, I]`` of the dense layer.
            keep: ``[k]`` sorted indices of the inputs that stay.
            stats: moments of its ``I`` inputs.
            intercept: whether a bias, or the mean of a batch norm behind the layer, can take a shift.
            ridge: penalty on the change of the kept weights, as a share of the mean variance of the kept inputs; 0 is
                the paper's solution.

        Raises:
            MethodError: moments that were not collected, or are of another size.
        """
        if Need.MOMENTS in self.needs:
            _check(self.name, weight, stats)
        return self.solve(weight.to(torch.float64), keep, stats, intercept, ridge)


def _check(name: str, weight: Tensor, stats: LayerStats) -> None:
    if stats.mean is None or stats.covariance is None:
        raise MethodError(
            f"reconstruction {name!r} needs the input moments, which were not collected; pass needs={{Need.MOMENTS}}"
        )
    if len(stats.mean) != weight.shape[1]:
        raise MethodError(
            f"reconstruction {name!r} got moments of {len(stats.mean)} inputs for a weight of {weight.shape[1]}; "
            "collect them again for this network"
        )


def _none(weight: Tensor, keep: Tensor, stats: LayerStats, intercept: bool, ridge: float) -> Repair:  # noqa: ARG001
    """``W~ = W[:, K]``, no shift."""
    return Repair(weight[:, keep], weight.new_zeros(len(weight)))


def _bias_only(weight: Tensor, keep: Tensor, stats: LayerStats, intercept: bool, ridge: float) -> Repair:  # noqa: ARG001
    """``W~ = W[:, K]``; the mean of what is gone moves into the shift, where there is an intercept."""
    return _with_shift(weight, weight[:, keep], keep, stats, intercept)


def _mauch_yang(weight: Tensor, keep: Tensor, stats: LayerStats, intercept: bool, ridge: float) -> Repair:
    """``W~ = W C[:, K] C[K, K]^-1``, ``b~ = b + W mu - W~ mu[K]``; uncentred moments without an intercept.

    Solved for the change ``W~ - W[:, K] = W[:, R] C[R, K] C[K, K]^-1`` (``R`` the inputs removed), so that nothing
    moves where nothing is removed, and a ridge draws towards the weights as they were. Kept inputs that never vary are
    left out of the solve.
    """
    assert stats.mean is not None
    assert stats.covariance is not None
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[keep] = False
    spread = stats.covariance.diagonal()
    second = spread + stats.mean.square()
    live = (spread if intercept else second) > CONSTANT * second
    removed = (gone & live).nonzero().flatten()  # [r]
    active = live[keep].nonzero().flatten()  # [a] places in keep
    kept = keep[active]
    repaired = weight[:, keep].clone()  # [O, k]
    if len(removed) and len(active):
        target = weight[:, removed] @ _moments(stats, removed, kept, intercept)  # [O, a]
        repaired[:, active] += _solve(_moments(stats, kept, kept, intercept), target.T, ridge).T
    return _with_shift(weight, repaired, keep, stats, intercept)


def _moments(stats: LayerStats, rows: Tensor, columns: Tensor, centred: bool) -> Tensor:
    """Block ``[rows, columns]`` of the covariance, or of the uncentred second moments."""
    assert stats.mean is not None
    assert stats.covariance is not None
    block = stats.covariance.index_select(0, rows).index_select(1, columns)
    return block if centred else block.addr_(stats.mean[rows], stats.mean[columns])


def _solve(square: Tensor, target: Tensor, ridge: float) -> Tensor:
    """``square^-1 target`` by one Cholesky factor; ``square`` is used up.

    Where rows of ``square`` depend on each other a ridge of :data:`SINGULAR_RIDGE` picks, to rounding, the smallest
    solution.
    """
    scale = square.diagonal().mean()
    diagonal = square.diagonal().clone()
    for share in (ridge, max(ridge, SINGULAR_RIDGE)):
        square.diagonal().copy_(diagonal + share * scale)
        factor, info = torch.linalg.cholesky_ex(square)
        pivots = factor.diagonal().square()
        floor = len(square) * torch.finfo(square.dtype).eps * float(diagonal.max())
        if int(info) == 0 and float(pivots.min()) > floor:
            return torch.cholesky_solve(target, factor)
    smallest: Tensor = torch.linalg.pinv(square, hermitian=True) @ target
    return smallest


def _with_shift(weight: Tensor, repaired: Tensor, keep: Tensor, stats: LayerStats, intercept: bool) -> Repair:
    """``shift = W mu - W~ mu[K]``."""
    assert stats.mean is not None
    if not intercept:
        return Repair(repaired, weight.new_zeros(len(weight)))
    return Repair(repaired, weight @ stats.mean - repaired @ stats.mean[keep])


def output_error(weight: Tensor, keep: Tensor, repair: Repair, stats: LayerStats) -> float:
    """``E || (W~ x[K] + shift) - W x ||^2`` on the calibration rows: mean squared change, summed over outputs.

    >>> stats = LayerStats(9, torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double())
    >>> weight, keep = torch.tensor([[2.0, 3.0]]).double(), torch.tensor([0])
    >>> for how in RECONSTRUCTIONS.values():
    ...     print(how.name, output_error(weight, keep, how.repair(weight, keep, stats), stats))
    none 9.0
    bias_only 9.0
    mauch_yang 6.75
    """
    assert stats.mean is not None
    assert stats.covariance is not None
    change = -weight.to(torch.float64)  # [O, I]
    change[:, keep] += repair.weight
    drift = change @ stats.mean + repair.shift  # [O]
    return float(((change @ stats.covariance) * change).sum() + drift.square().sum())


_SOURCE = "L. Mauch, B. Yang, A Novel Layerwise Pruning Method for Fully Connected Deep Neural Networks, 2017"

RECONSTRUCTIONS: dict[str, Reconstruction] = {
    "none": Reconstruction("none", frozenset(), "", _none),
    "bias_only": Reconstruction("bias_only", frozenset({Need.MOMENTS}), _SOURCE, _bias_only),
    "mauch_yang": Reconstruction("mauch_yang", frozenset({Need.MOMENTS}), _SOURCE, _mauch_yang),
}


def get_reconstruction(name: str) -> Reconstruction:
    """The reconstruction called ``name``.

    Raises:
        UnknownNameError: no such reconstruction, with near misses.
    """
    if name not in RECONSTRUCTIONS:
        raise unknown_name("reconstruction", name, RECONSTRUCTIONS)
    return RECONSTRUCTIONS[name]
