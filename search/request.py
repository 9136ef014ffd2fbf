"""What a search is asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.costs import COSTS, Budget
from autoprune.errors import SettingsError, unknown_name
from autoprune.search.base import Controller
from autoprune.search.stopping import make_stopper
from autoprune.search.storage import DEFAULT_NAME
from autoprune.space import SearchSpace

HANDLINGS = ("project", "reject")


@dataclass(frozen=True)
class Request:
    """What a search is asked for, checked. The fields are those of :func:`search`."""

    budget: Budget | None
    controller: Controller
    trials: int
    space: SearchSpace
    metrics: tuple[str, ...]
    handling: str
    pruner: str | None
    seed: int
    workers: int
    timeout_s: float | None
    race: bool
    options: Mapping[str, Any] = field(default_factory=dict)


def checked(
    objective: Any,
    budget: Any,
    controller: str | Controller,
    trials: int,
    space: SearchSpace | None,
    metrics: tuple[str, ...],
    handling: str,
    pruner: str | None,
    seed: int,
    workers: int,
    timeout_s: float | None,
    options: Mapping[str, Any] | None,
) -> Request:
    """The arguments of :func:`search`, checked before any work.

    Raises:
        SettingsError, UnknownNameError, BudgetError: something that cannot be.
    """
    from autoprune.search import CONTROLLERS

    if not isinstance(controller, Controller):
        if controller not in CONTROLLERS:
            raise unknown_name("controller", controller, CONTROLLERS)
        controller = CONTROLLERS[controller]
    for name, value, least in (("trials", trials, 0), ("seed", seed, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingsError(f"{name} must be a whole number from {least} on, but got {value!r}")
    if handling not in HANDLINGS:
        raise unknown_name("handling", handling, HANDLINGS)
    if timeout_s is not None and not timeout_s > 0:
        raise SettingsError(f"timeout_s must be above 0 or None, but got {timeout_s!r}")
    limits = _budget(budget)
    _check_metrics(metrics, limits)
    _check_measured(metrics, limits, workers)
    space = space or SearchSpace.from_graph(objective.graph)
    controller.check(metrics, options or {}, space)
    _check_driver(controller, limits, handling, workers)
    make_stopper(pruner, metrics, DEFAULT_NAME)
    settings = getattr(objective, "settings", None)
    _check_reports(pruner, settings)
    return Request(
        budget=limits,
        controller=controller,
        trials=trials,
        space=space,
        metrics=metrics,
        handling=handling,
        pruner=pruner,
        seed=seed,
        workers=workers,
        timeout_s=timeout_s,
        race=getattr(settings, "race", None) is not None,
        options=dict(options or {}),
    )


def _budget(given: Any) -> Budget | None:
    if given is None or isinstance(given, Budget):
        return given or None
    return (Budget(**given) if isinstance(given, Mapping) else Budget.parse(given)) or None


def _check_metrics(metrics: tuple[str, ...], budget: Budget | None) -> None:
    if not metrics and budget is None:
        raise SettingsError("a search needs a budget, for example budget='macs=0.5', or pareto=('macs',)")
    for metric in metrics:
        if metric not in COSTS:
            raise unknown_name("cost metric", metric, COSTS)
    if len(metrics) > 2 or len(set(metrics)) != len(metrics):
        raise SettingsError(f"pareto takes one or two different cost metrics, but got {', '.join(metrics)}")


def _check_measured(metrics: tuple[str, ...], budget: Budget | None, workers: int) -> None:
    measured = [m for m in (*metrics, *(budget.metrics if budget else ())) if COSTS[m].measured]
    if measured and workers > 1:
        raise SettingsError(
            f"{measured[0]} is measured on this machine, which must be quiet meanwhile: use workers=1, not {workers}"
        )


def _check_driver(controller: Controller, budget: Budget | None, handling: str, workers: int) -> None:
    if not controller.drives:
        return
    if workers > 1:
        raise SettingsError(
            f"controller {controller.name!r} learns from one plan before it decides the next: use workers=1, "
            f"not {workers} (more threads evaluate a plan faster)"
        )
    if handling == "project" and budget is not None and budget.measured:
        raise SettingsError(
            f"controller {controller.name!r} keeps to a budget by what it decides, and {budget.measured.metrics[0]} is "
            "not known before it has decided: use handling='reject', or limit macs or params"
        )


def _check_reports(pruner: str | None, settings: Any) -> None:
    finetune = getattr(settings, "finetune", None)
    if pruner in (None, "none") or finetune is None:
        return
    if not finetune.steps:
        raise SettingsError(f"pruner {pruner!r} stops retraining early, but there is none: set the retraining steps")
