"""Batch norm folded into the layer before it: the same outputs in evaluation mode, one pass over activations less."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights


def fold_norms(module: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """Fold each (layer, batch norm) of ``pairs`` in ``module``, in place; returns ``module``.

    The layer's parameters are replaced, not written to, so tensors shared with another network stay as they are.

    Args:
        module: a network in evaluation mode.
        pairs: :attr:`autoprune.graph.LayerGraph.norms`.
    """
    for layer_name, norm_name in pairs:
        layer, norm = module.get_submodule(layer_name), module.get_submodule(norm_name)
        if _foldable(layer, norm):
            _fold(layer, norm)
            parent, _, child = norm_name.rpartition(".")
            setattr(module.get_submodule(parent), child, nn.Identity())
    return module


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
        and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.running_mean is not None
        and not norm.training
    )


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight,  # type: ignore[arg-type]
        layer.bias,  # type: ignore[arg-type]
        norm.running_mean,  # type: ignore[arg-type]
        norm.running_var,  # type: ignore[arg-type]
        norm.eps,  # type: ignore[arg-type]
        norm.weight,  # type: ignore[arg-type]
        norm.bias,  # type: ignore[arg-type]
    )
