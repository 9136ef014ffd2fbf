"""Networks of timm, torchvision and transformers, when those are installed: random weights, never a download."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autoprune.errors import MissingExtraError, ModelError, unknown_name


@dataclass(frozen=True)
class Library:
    """How networks of one library are made.

    Attributes:
        factory: from a name, the function that makes the network.
        options: from a name, the shape of a sample and the number of classes, the options that fit them.
    """

    factory: Callable[[str], Callable[..., nn.Module]]
    options: Callable[[str, Sequence[int], int], dict[str, Any]]


def _module(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, None, f"a model named '{package}:...'")
    try:
        return importlib.import_module(package)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"importing {package} failed: {type(error).__name__}: {reason}; reinstall it") from error


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _module("timm")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())

    def build(**options: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
        return module

    return build


def _torchvision(name: str) -> Callable[..., nn.Module]:
    models = _module("torchvision").models
    if name not in models.list_models(module=models):
        raise unknown_name("torchvision model", name, models.list_models(module=models))

    def build(**options: Any) -> nn.Module:
        module: nn.Module = models.get_model(name, weights=None, **options)
        return module

    return build


class Logits(nn.Module):
    """A transformers classifier that returns its logits ``[N, classes]`` instead of an output object."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The logits of the wrapped network."""
        logits: Tensor = self.network(*args, **kwargs).logits
        return logits


def _config_class(name: str) -> Any:
    transformers = _module("transformers")
    mapping = transformers.CONFIG_MAPPING
    if name in mapping:
        return mapping[name]
    by_class = {mapping[key].__name__: mapping[key] for key in mapping} if name.endswith("Config") else {}
    if name in by_class:
        return by_class[name]
    raise unknown_name("transformers model type or configuration", name, [*mapping, *by_class])


def _transformers(name: str) -> Callable[..., nn.Module]:
    config_class = _config_class(name)

    def build(num_labels: int = 10, **options: Any) -> nn.Module:
        import transformers

        config = config_class(num_labels=num_labels, **options)
        for auto in (transformers.AutoModelForImageClassification, transformers.AutoModelForSequenceClassification):
            if config_class in auto._model_mapping:
                return Logits(auto.from_config(config))  # type: ignore[no-untyped-call]
        raise ModelError(
            f"transformers has no classifier for {name!r}; build the network in a function of your own and name that"
        )

    return build


def _transformers_options(name: str, shape: Sequence[int], num_classes: int) -> dict[str, Any]:
    known = vars(_config_class(name)())
    options: dict[str, Any] = {"num_labels": num_classes}
    if len(shape) == 3:
        fitting = {"num_channels": shape[0], "image_size": shape[1]}
        options.update({key: value for key, value in fitting.items() if key in known})
    return options


#: Prefix of a model's name -> the library it comes from.
LIBRARIES: dict[str, Library] = {
    "timm": Library(_timm, lambda _, shape, classes: {"num_classes": classes, "in_chans": shape[0]}),
    "torchvision": Library(_torchvision, lambda _, __, classes: {"num_classes": classes}),
    "transformers": Library(_transformers, _transformers_options),
}
