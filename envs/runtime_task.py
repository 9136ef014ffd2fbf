"""What ``autoprune/Runtime-v0`` needs of the world: a network in stages, and images with their classes."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.data import DataSplits, Split
from autoprune.envs.tasks import ASSETS, _spare_threads
from autoprune.errors import EnvError, SettingsError, unknown_name
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain, by_importance, recalibrate
from autoprune.seeding import generator
from autoprune.settings.parts import BasePart
from autoprune.settings.runtime import ChainPart
from autoprune.tracing import trace

if TYPE_CHECKING:
    from autoprune.opening import Opened

RUNTIME_TASKS: dict[str, str] = {
    "digits": "a small trained network on 8x8 digits that comes with the package; with base or model, one of your own",
    "mnist": "a network trained on MNIST (base or model)",
    "cifar10": "a network trained on CIFAR-10 (base or model)",
}
_PROBED = 1024  # images that alpha is measured on
_FLOOR = 1e-3  # the least mean loss that alpha is one over
_KEPT = 4  # tasks kept in a process, each with its network and data


class ChainTask(BasePart, ChainPart):
    """Options of a task by name; names and meanings are those of ``autoprune runtime train``."""

    command: ClassVar[str] = "runtime train"


class RuntimeTask:
    """A network in stages with its data, shared by every environment on it.

    Args:
        chain: the network; it is moved to where the data lie.
        data: images in four splits.
        name: what it is called in pictures and messages.
    """

    def __init__(self, chain: Chain, data: DataSplits, name: str = "task") -> None:
        chain.to(data.train.device)
        self.chain, self.data, self.name = chain, data, name

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: DataSplits,
        *,
        groups: int = 4,
        first: bool = False,
        order: str = "l1_norm",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        name: str = "network",
    ) -> RuntimeTask:
        """A task about a trained network of your own; it is copied, and norms get their statistics of every width.

        Args:
            model: the network.
            data: images in four splits.
            groups, first, include, exclude: as of :class:`autoprune.runtime.Chain`.
            order: method by which the most important channels of each layer come first; ``"none"`` for as they are.
            name: what it is called in pictures and messages.

        Raises:
            ChainError: nothing in it can be computed in part, or a layer has fewer channels than groups.
            GraphError: it cannot be traced.
            UnknownNameError: another method.
        """
        example = data.example(2)
        graph = trace(model, example)
        orders = None if order == "none" else by_importance(model, graph, order, data.calibration)
        named: dict[str, Any] = {"groups": groups, "first": first, "include": include, "exclude": exclude}
        chain = Chain(model, example, graph=graph, orders=orders, **named)
        chain.to(data.train.device)
        recalibrate(chain, data.calibration)
        return cls(chain, data, name)

    def __len__(self) -> int:
        """Steps of an episode."""
        return len(self.chain.stages)

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeTask:
        """Itself: environments and their specs share one network."""
        return self

    @property
    def width(self) -> int:
        """Columns of the features: the channels of all stages side by side."""
        return sum(self.chain.channels)

    @cached_property
    def alpha(self) -> float:
        """:meth:`measured_alpha` of the network as it was when this was first asked."""
        return self.measured_alpha()

    def measured_alpha(self) -> float:
        """Factor on the loss so that its mean over calibration images under uniformly random actions is 1.

        J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017, choose it so that the average is about 1.
        Random actions, because the loss of the whole network on images it was trained on is hardly above zero.
        """
        split = self.data.calibration
        size = min(len(split), _PROBED)
        x, y = split.inputs(slice(0, size)), split.y[:size]
        check_finite(x, range(size), "calibration")
        noise = generator(0, "alpha")
        actions = torch.randint(1, self.chain.groups + 1, (size, len(self)), generator=noise)
        losses: list[Tensor] = []
        with torch.no_grad():
            for at in range(0, size, 128):
                part = slice(at, at + 128)
                logits = checked_logits(self.chain(x[part], actions[part]), y[part])
                losses.append(nn.functional.cross_entropy(logits, y[part], reduction="none"))
        return 1.0 / max(float(torch.cat(losses).double().mean()), _FLOOR)

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            UnknownNameError: another name.
        """
        parts = dict(self.data.parts())
        if name not in parts:
            raise unknown_name("split", name, parts)
        return parts[name]


def check_finite(x: Tensor, index: Any, split: str) -> None:
    """Refuse images ``x`` ``[N, ...]``, which stand at ``index`` of a split, that are not finite.

    Raises:
        EnvError: the first of them is named.
    """
    if math.isfinite(float(x.sum())):
        return
    bad = (~x.isfinite().flatten(1).all(1)).nonzero()
    if len(bad):
        raise EnvError(
            f"image {int(index[int(bad[0])])} of the {split} split holds NaN or infinite values, so nothing can be "
            "decided for it; check how it was read and normalised"
        )


def make_runtime_task(task: str | RuntimeTask = "digits", *, objective: Any = None, **options: Any) -> RuntimeTask:
    """A task by name, or about the network of an objective.

    Args:
        task: a name in :data:`RUNTIME_TASKS`, or a task, which is handed back.
        objective: an :class:`autoprune.Objective`, whose network and data are taken (Python only).
        options: ``base`` (a folder that ``autoprune train`` stored) or ``model="package.module:factory"`` that returns
            a trained network; ``data``, ``data_options``, ``data_seed``, ``data_dir``; ``groups``, ``first``,
            ``order``, ``include``, ``exclude`` as of :meth:`RuntimeTask.of`.

    A task of equal options is made once in a process and shared: environments only read it.

    Raises:
        UnknownNameError: a task or an option that does not exist.
        SettingsError: an option outside what it may be.
        ChainError: a network that cannot be cut into stages.
        AutopruneError: files or contents that cannot be used.
    """
    _spare_threads()
    if isinstance(task, RuntimeTask):
        given = options if objective is None else {"objective": objective, **options}
        if given:
            raise SettingsError(f"a task that is made already takes no further options, but got {', '.join(given)}")
        return task
    if objective is None and task not in RUNTIME_TASKS:
        raise unknown_name("task", task, RUNTIME_TASKS)
    for name in options:
        if name not in ChainTask.model_fields:
            raise unknown_name(f"option of task {task!r}:", name, ChainTask.model_fields)
    settings = ChainTask.make(options)
    if objective is not None:
        return _cut(objective.model, objective.data, settings, "objective")
    return _shared(task, settings)


def open_runtime_task(settings: Any, task: str = "digits") -> tuple[RuntimeTask, Opened]:
    """The task that ``settings`` (network and stages) describe, a new one that may be trained, and what it is made of.

    Raises:
        SettingsError: there is no trained network.
        AutopruneError: files or contents that cannot be used.
    """
    from autoprune.methods import get_method
    from autoprune.opening import open_base

    if settings.order != "none":
        get_method(settings.order)  # before anything is read
    opened = open_base(with_network(settings, task))
    return _cut(opened.module(), opened.data, settings, task), opened


def with_network(settings: Any, task: str) -> Any:
    """``settings`` with the base network of ``task`` where none is given.

    Raises:
        SettingsError: there is none.
    """
    if settings.base is None and settings.model is None:
        if task != "digits" or settings.data not in (None, "digits"):
            data = settings.data or task
            raise SettingsError(
                f"task {data!r} needs a trained network: 'autoprune train --data {data}' makes one; "
                "then give base='checkpoints/...', or model='package.module:factory'"
            )
        return settings.model_copy(update={"base": ASSETS / "digits_cnn"})
    if settings.model is not None and ":" not in settings.model:
        raise SettingsError(
            f"model {settings.model!r} has no trained weights: 'autoprune train --model {settings.model}' makes them; "
            "give base, or name a factory that returns a trained network: model='package.module:factory'"
        )
    return settings if settings.base is not None else settings.model_copy(update={"data": settings.data or task})


def _cut(model: nn.Module, data: DataSplits, settings: ChainPart, name: str) -> RuntimeTask:
    how = {key: getattr(settings, key) for key in ("groups", "first", "order", "include", "exclude")}
    return RuntimeTask.of(model, data, name=name, **how)


_MADE: OrderedDict[str, RuntimeTask] = OrderedDict()


def _shared(task: str, settings: ChainTask) -> RuntimeTask:
    from autoprune.artifacts import read_network

    base: Path | None = settings.base
    digest = "" if base is None else read_network(base).digest
    key = json.dumps([task, settings.values(), digest], sort_keys=True)
    if key not in _MADE:
        _MADE[key] = open_runtime_task(settings, task)[0]
        while len(_MADE) > _KEPT:
            _MADE.popitem(last=False)
    _MADE.move_to_end(key)
    return _MADE[key]
