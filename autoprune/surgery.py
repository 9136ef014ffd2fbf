"""A network of another size: the structure is copied, the tensors are given, the sizes follow from the tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError

Attributes = Mapping[str, Mapping[str, Any]]

KEPT_INPUTS = "kept_inputs"


def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, share: bool = False) -> nn.Module:
    """A copy of ``model`` that holds ``tensors`` in place of its parameters and buffers of those names.

    Args:
        model: any module; not changed.
        tensors: new parameters and buffers, by qualified name, of any shape.
        share: leave tensors that are not given shared with ``model`` (to evaluate only) instead of copying them.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in memo:
            continue
        if name in tensors:
            memo[id(parameter)] = nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
        elif share:
            memo[id(parameter)] = parameter
        else:
            memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if id(buffer) not in memo:
            memo[id(buffer)] = tensors[name] if name in tensors else buffer if share else buffer.detach().clone()
    clone = copy.deepcopy(model, memo)
    for module in clone.modules():
        fit(module)
    return clone


def put_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put ``parameter`` in every place where the one called ``name`` hangs, so that tied layers stay tied."""
    owner, _, leaf = name.rpartition(".")
    old = model.get_submodule(owner)._parameters[leaf]
    for part in model.modules():
        for key, value in part._parameters.items():
            if value is old:
                part._parameters[key] = parameter


def resize(model: nn.Module, tensors: Mapping[str, Tensor], attributes: Attributes | None = None) -> nn.Module:
    """The network of ``model``'s structure that ``tensors`` and ``attributes`` were stored from.

    Raises:
        ModelError: a tensor that the structure does not have, or one that is missing.
    """
    attributes = attributes or {}
    grown = copy.deepcopy(model)
    for name, entries in attributes.items():
        if entries.get("bias"):
            module = grown.get_submodule(name)
            module.register_parameter("bias", nn.Parameter(torch.zeros(0)))
    names = {name for name, _ in grown.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in grown.named_buffers(remove_duplicate=False)}
    known = set(grown.state_dict())
    for wrong, what in ((set(tensors) - names, "holds no tensor"), (known - set(tensors), "needs the tensor")):
        if wrong:
            raise ModelError(f"the network {what} {sorted(wrong)[0]!r}; was the file stored from another network?")
    resized = with_tensors(grown, tensors)
    for name, entries in attributes.items():
        if KEPT_INPUTS in entries:
            select_inputs(resized.get_submodule(name), torch.tensor(entries[KEPT_INPUTS], dtype=torch.int64))
    return resized


def attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the tensors do not tell: which inputs a layer still reads."""
    return {
        name: {KEPT_INPUTS: getattr(module, KEPT_INPUTS).tolist()}
        for name, module in model.named_modules()
        if isinstance(getattr(module, KEPT_INPUTS, None), Tensor)
    }


def fit(module: nn.Module) -> None:
    """Set the sizes that a layer keeps beside its tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        _fit_conv(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape  # type: ignore[union-attr]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = weight if weight is not None else module.running_mean
        if isinstance(sized, Tensor):
            module.num_features = sized.shape[0]
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        members = max(module.num_channels // module.num_groups, 1)
        module.num_channels = weight.shape[0]
        module.num_groups = module.num_channels // members
    elif isinstance(module, nn.Embedding) and isinstance(weight, Tensor):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.PReLU) and isinstance(weight, Tensor):
        module.num_parameters = weight.shape[0]
    elif hasattr(module, "nf") and isinstance(weight, Tensor) and weight.dim() == 2:
        vars(module)["nf"] = weight.shape[1]  # the transposed linear layer of GPT-2 in transformers


def _fit_conv(module: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    depthwise = module.groups == module.in_channels and module.groups > 1
    multiplier = module.out_channels // module.groups
    if depthwise:
        module.groups = module.in_channels = weight.shape[0] if module.transposed else weight.shape[0] // multiplier
        module.out_channels = module.groups * multiplier
    elif module.transposed:
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    else:
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups


class _Select:
    """Mixed into a layer whose inputs were removed: it reads the ones it keeps."""

    kept_inputs: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``x`` whole; the layer takes its share along the channels."""
        axis = x.dim() - 1 if isinstance(self, nn.Linear) else 1
        return super().forward(x.index_select(axis, self.kept_inputs))  # type: ignore[misc,no-any-return]


def select_inputs(module: nn.Module, kept: Tensor) -> None:
    """Make ``module`` (linear or convolution) read only the inputs ``kept``, as many as its weight has columns."""
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        name = type(module).__name__
        raise ModelError(f"inputs of a {name} cannot be selected; only of linear layers and convolutions")
    if not isinstance(module, _Select):
        selecting: Any = _selecting(type(module))
        module.__class__ = selecting
    module.register_buffer(KEPT_INPUTS, kept, persistent=False)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _selecting(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"InputSelecting{kind.__name__}", (_Select, kind), {})
    return _CLASSES[kind]
