"""Tasks by name: from plain options (JSON values) to a :class:`~autoprune.envs.task.Task`, made once in a process."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, ClassVar

import torch

from autoprune.costs import Budget
from autoprune.envs.task import Task, TaskObjective
from autoprune.errors import SettingsError, unknown_name
from autoprune.fitting import Target
from autoprune.settings.base import Number, Whole, option
from autoprune.settings.parts import BasePart, EvaluationPart, RetrainPart, SpacePart
from autoprune.space import SearchSpace

BudgetLike = Budget | str | Sequence[str] | Mapping[str, float | str] | None

ASSETS = Path(__file__).resolve().parent / "assets"
DEFAULT_BUDGET = "macs=0.5"
_HOME = os.getpid()  # another one in a forked worker
_KEPT = 8  # tasks kept in a process, each with its network and data
_TEXTS = ("methods", "include", "exclude", "reconstruction")


class NetworkTask(BasePart, SpacePart, EvaluationPart, RetrainPart):
    """Options of a task about a network; names and meanings are those of ``autoprune search``."""

    command: ClassVar[str] = "search"

    retrain_steps: Whole = option(0, "Steps of retraining after pruning; 0 for none.", panel="Retraining", ge=0)
    seed: Whole = option(0, "Seed of retraining and of methods that draw.", panel="Run", ge=0)
    cache_dir: Path | None = option(None, "Folder for scores that processes share.", panel="Run")


class KnownAnswerTask(SpacePart):
    """Options of a problem with a known answer (:class:`autoprune.problems.KnownAnswer`)."""

    command: ClassVar[str] = "search"

    groups: Whole = option(6, "Groups, that is steps of an episode.", ge=1)
    seed: Whole = option(0, "Seed of the problem.", ge=0)
    wrong: Number = option(1.5, "Factor on the damage of a wrong method.", ge=1)
    noise: Number = option(0.0, "Standard deviation added to accuracy.", ge=0)


class SpaceOnly(SpacePart):
    """Options of a task about an objective that is given: what may be decided."""

    command: ClassVar[str] = "search"


@dataclass(frozen=True)
class TaskSource:
    """An entry of :data:`TASKS`: what it is, its options, and how its objective is made from them."""

    description: str
    options: type[SpacePart]
    open: Callable[[Any], TaskObjective]


def make_task(
    task: str | Task = "digits",
    *,
    budget: BudgetLike | EllipsisType = ...,
    objective: TaskObjective | None = None,
    **options: Any,
) -> Task:
    """A task by name, about a network of the user's own, or about an objective.

    Args:
        task: a name in :data:`TASKS`, or a task, which is handed back (with ``budget``, where one is given).
        budget: ``"macs=0.5"`` (the default), several, a mapping as ``{"macs": 0.5, "params": "60%"}``, or ``None``.
        objective: judges plans, in place of what ``task`` names (Python only: it cannot become JSON).
        options: as the names and values of ``autoprune search``: what may be decided (``methods``, ``include``,
            ``exclude``, ``max_sparsity``, ``round_to``, ``levels``, ``reconstruction``), the network (``base``, or
            ``model="package.module:factory"`` that returns a trained one; ``data``, ``data_options``, ``data_seed``,
            ``data_dir``), how it is judged (``retrain_steps`` and the other ``retrain_...``, ``precision``, ``seed``,
            ...), ``cache_dir``. ``known_answer`` takes ``groups``, ``seed``, ``wrong`` and ``noise``.

    A task of equal options is made once in a process and shared: its network, orders and statistics are only read. A
    worker that is forked from the process finds it made, and computes on one thread.

    Raises:
        UnknownNameError: a task, an option, a method or a layer that does not exist.
        SettingsError: an option outside what it may be.
        BudgetError: a budget that cannot be read, or that the smallest sub-network does not meet.
        AutopruneError: files or contents that cannot be used.
    """
    _spare_threads()
    if isinstance(task, Task):
        _refuse(options if objective is None else {"objective": objective, **options}, "a task that is made already")
        return task if isinstance(budget, EllipsisType) else task.with_budget(read_budget(budget))
    limits = read_budget(DEFAULT_BUDGET if isinstance(budget, EllipsisType) else budget)
    if objective is not None:
        return _assembled(objective, _settings(SpaceOnly, options, "a task about an objective"), limits, "objective")
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return _shared(task, _settings(TASKS[task].options, options, f"task {task!r}"), limits)


def read_budget(budget: BudgetLike) -> Budget | None:
    """A budget from what may stand for one; ``None`` for none.

    Raises:
        BudgetError: it cannot be read.
        UnknownNameError: a metric that does not exist.
    """
    if isinstance(budget, Mapping):
        budget = Budget(**budget)
    elif budget is not None and not isinstance(budget, Budget):
        budget = Budget.parse(budget) if budget else None
    return budget or None


def _open_digits(settings: NetworkTask) -> TaskObjective:
    if settings.base is None and settings.model is None:
        if settings.data is not None:
            raise SettingsError(
                f"data {settings.data!r} need a trained network: give base (a folder that 'autoprune train' stored) or "
                "model='package.module:factory'"
            )
        settings = settings.model_copy(update={"base": ASSETS / "digits_cnn"})
    return _open(settings)


def _open_base(data: str) -> Callable[[NetworkTask], TaskObjective]:
    def opened(settings: NetworkTask) -> TaskObjective:
        if settings.base is None and settings.model is None:
            raise SettingsError(
                f"task {data!r} needs a trained network: 'autoprune train --data {data}' makes one; "
                f"then give base='checkpoints/...', or model='package.module:factory'"
            )
        return _open(settings.model_copy(update={"data": settings.data or data}))

    return opened


def _open(settings: NetworkTask) -> TaskObjective:
    from autoprune.opening import objective_of, open_base

    if settings.model is not None and ":" not in settings.model:
        raise SettingsError(
            f"model {settings.model!r} has no trained weights: 'autoprune train --model {settings.model}' makes them; "
            "give base, or name a factory that returns a trained network: model='package.module:factory'"
        )
    return objective_of(settings, open_base(settings), cache_dir=settings.cache_dir)


def _open_known_answer(settings: KnownAnswerTask) -> TaskObjective:
    from autoprune.problems import KnownAnswer

    return KnownAnswer(
        settings.groups, seed=settings.seed, methods=settings.methods, wrong=settings.wrong, noise=settings.noise
    )


TASKS: dict[str, TaskSource] = {
    "digits": TaskSource(
        "a small trained network on 8x8 digits that comes with the package; with base or model, a network of your own",
        NetworkTask,
        _open_digits,
    ),
    "mnist": TaskSource("a network trained on MNIST (base or model)", NetworkTask, _open_base("mnist")),
    "cifar10": TaskSource("a network trained on CIFAR-10 (base or model)", NetworkTask, _open_base("cifar10")),
    "known_answer": TaskSource(
        "a problem whose best plan can be written down, judged in microseconds", KnownAnswerTask, _open_known_answer
    ),
}

_MADE: OrderedDict[str, Task] = OrderedDict()


def _shared(name: str, settings: SpacePart, budget: Budget | None) -> Task:
    """The task of these options, made once; a base folder counts with the digest of what it holds."""
    key = json.dumps([name, settings.values(), budget and budget.to_dict(), _digest(settings)], sort_keys=True)
    if key not in _MADE:
        made = _assembled(TASKS[name].open(settings), settings, budget, name)
        _MADE[key] = made
        while len(_MADE) > _KEPT:
            _MADE.popitem(last=False)
    _MADE.move_to_end(key)
    return _MADE[key]


def _spare_threads() -> None:
    """One thread in a forked worker: OpenMP's do not survive a fork, and it would wait for them for ever."""
    if os.getpid() != _HOME and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _digest(settings: SpacePart) -> str:
    from autoprune.artifacts import read_network

    base = getattr(settings, "base", None)
    return "" if base is None else read_network(base).digest


def _assembled(objective: TaskObjective, settings: SpacePart, budget: Budget | None, name: str) -> Task:
    space = SearchSpace.from_graph(objective.graph, **{n: getattr(settings, n) for n in SpacePart.model_fields})
    task = Task(objective, space, None if budget is None else Target(objective, budget), name)
    task.prepare()
    return task


def _settings(kind: type[SpacePart], options: Mapping[str, Any], what: str) -> Any:
    for name in options:
        if name not in kind.model_fields:
            raise unknown_name(f"option of {what}:", name, kind.model_fields)
    given = {n: [v] if n in _TEXTS and isinstance(v, str) else v for n, v in options.items()}
    return kind.make(given)


def _refuse(given: Mapping[str, Any], what: str) -> None:
    if given:
        raise SettingsError(f"{what} takes no further options, but got {', '.join(sorted(given))}; leave them out")
