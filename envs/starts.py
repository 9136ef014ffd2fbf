"""Plans that a local search begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autoprune.envs.episode import Decision
from autoprune.envs.refining import Decisions
from autoprune.envs.task import Task
from autoprune.errors import PlanError, unknown_name
from autoprune.plan import Plan
from autoprune.space import Values

Start = Callable[[Task, np.random.Generator], Values]


def uniform(task: Task, draw: np.random.Generator) -> Values:
    """The same sparsity in every group, the smallest that meets the budget (0 without one), by the first method."""
    del draw
    whole = task.space.point({})
    return whole if task.target is None else task.space.shift(whole, task.target.fits)


def dense(task: Task, draw: np.random.Generator) -> Values:
    """Nothing removed; for tasks without a budget."""
    del draw
    return task.space.point({})


def random(task: Task, draw: np.random.Generator) -> Values:
    """Sparsities up to the most that may go, and methods, drawn evenly; then shifted to just meet the budget."""
    space = task.space
    sparsities = {g.name: draw.uniform(0.0, g.max_sparsity) for g in space.groups}
    methods = {g.name: space.methods[draw.integers(len(space.methods))] for g in space.groups}
    drawn = space.point(sparsities, methods)
    return drawn if task.target is None else space.shift(drawn, task.target.fits)


STARTS: dict[str, Start] = {"uniform": uniform, "dense": dense, "random": random}


def given(task: Task, plan: Plan | Mapping[str, Any]) -> Values:
    """The point of a plan, of what :meth:`Plan.to_dict` gave, or of values by name (what is not named stays whole).

    Raises:
        PlanError: a plan that cannot be said in the task's space, or a sparsity outside [0, 1).
        UnknownNameError: a value of a parameter that the space does not have, or a method or repair that it does not.
    """
    if isinstance(plan, Mapping) and "decisions" not in plan:
        return _named(task, plan)
    found = plan if isinstance(plan, Plan) else Plan.from_dict(plan)
    if found.steps is not None:
        raise PlanError(f"the plan asks for {found.steps} steps of retraining; those of the task hold: leave them out")
    if found.reconstruction not in task.space.reconstructions:
        raise unknown_name("reconstruction of this space:", found.reconstruction, task.space.reconstructions)
    return task.space.values(found)


def _named(task: Task, values: Mapping[str, Any]) -> Values:
    whole = task.space.point({})
    for name, value in values.items():
        if name not in whole:
            raise unknown_name("parameter", str(name), whole)
        if isinstance(whole[name], float) and not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise PlanError(f"{name} of the start must be a number in [0, 1), but got {value!r}")
    return task.space.values(task.space.plan({**whole, **values}))


def decisions_of(task: Task, values: Values) -> Decisions:
    """Places and methods at a point of the space."""
    space = task.space
    methods = {g.name: space.methods.index(str(values.get(f"method/{g.name}", space.methods[0]))) for g in space.groups}
    return tuple(Decision(g.place(float(values[f"sparsity/{g.name}"])), methods[g.name]) for g in space.groups)
