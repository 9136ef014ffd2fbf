"""Networks by name: a registry, functions of the user's own, and names of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.errors import ModelError, unknown_name
from autoprune.factories import accepted, call_factory, import_factory
from autoprune.models.lenet import digits_cnn, lenet5
from autoprune.models.libraries import LIBRARIES
from autoprune.models.mlp import lenet300_100, mlp
from autoprune.models.mobilenet import mobilenet_v1, mobilenet_v2
from autoprune.models.resnet import resnet, resnet20, resnet32, resnet56, resnet110
from autoprune.models.vgg import vgg11_bn, vgg16_bn

if TYPE_CHECKING:
    from autoprune.data import DataSplits

#: Every factory takes ``input_shape`` and ``num_classes``; many take ``width``. A new model is one file and one line.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet300_100": lenet300_100,
    "lenet5": lenet5,
    "digits_cnn": digits_cnn,
    "vgg11_bn": vgg11_bn,
    "vgg16_bn": vgg16_bn,
    "resnet": resnet,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
}

__all__ = ["LIBRARIES", "MODELS", "build_model", "default_options", "get_factory"]


def get_factory(name: str) -> Callable[..., nn.Module]:
    """The function that makes the network called ``name``.

    Args:
        name: a key of :data:`MODELS`, ``package.module:function``, or ``timm:NAME``, ``torchvision:NAME``,
            ``transformers:TYPE`` (a model type such as ``resnet``, or a configuration class such as ``ViTConfig``).

    Raises:
        UnknownNameError: no such name, with near misses.
        MissingExtraError: the library is not installed.
        ModelError: the user's module or function cannot be found or imported.
    """
    if name in MODELS:
        return MODELS[name]
    prefix, colon, rest = name.partition(":")
    if not colon:
        raise unknown_name("model", name, [*MODELS, *(f"{lib}:NAME" for lib in LIBRARIES), "package.module:function"])
    if prefix in LIBRARIES:
        return LIBRARIES[prefix].factory(rest)
    return import_factory(name, "model", ModelError)


def build_model(name: str, **options: Any) -> nn.Module:
    """The network called ``name`` (see :func:`get_factory`), with fresh random weights; nothing is ever downloaded.

    Example:
        >>> sum(p.numel() for p in build_model("lenet300_100").parameters())
        266610

    Raises:
        UnknownNameError: no such name, with near misses.
        MissingExtraError: the library is not installed.
        ModelError: options that do not fit, or a function that does not return an ``nn.Module``.
    """
    factory = get_factory(name)
    if isinstance(factory, nn.Module):
        raise ModelError(f"model {name!r} is a network; name a function that makes it, so that it can be made again")
    module = call_factory(factory, name, options, "model", ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(f"model {name!r} must return a torch.nn.Module, but returned {type(module).__name__}")
    return module


def default_options(name: str, data: DataSplits) -> dict[str, Any]:
    """Options that fit the network called ``name`` to ``data``: what it takes of ``num_classes`` and ``input_shape``.

    A library's network gets the names that the library uses (``in_chans``, ``num_labels``, ...).
    """
    fitting: dict[str, object] = {"input_shape": list(data.input_shape), "num_classes": int(data.num_classes)}
    prefix, _, rest = name.partition(":")
    if prefix in LIBRARIES and name not in MODELS:
        return LIBRARIES[prefix].options(rest, tuple(data.input_shape), int(data.num_classes))
    factory = get_factory(name)
    extra = {"in_channels": data.input_shape[0], "in_features": _product(data.input_shape)}
    return accepted(factory, {**fitting, **extra})


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= int(size)
    return result
