"""A plan, read against a graph: which groups lose how many units, and every way in which the two do not fit."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.errors import PlanError, unknown_name
from autoprune.graph import Group, LayerGraph
from autoprune.plan import LayerDecision, Pattern, Plan


@dataclass(frozen=True)
class Resolved:
    """What a plan means for one graph.

    Attributes:
        units: decision of each group that loses units, by group name in the order of the network.
        removed: units each of them loses, at least one.
        weights: decisions about single weights, by layer.
    """

    units: dict[str, LayerDecision]
    removed: dict[str, int]
    weights: dict[str, LayerDecision]


def resolve(plan: Plan, graph: LayerGraph) -> Resolved:
    """Read ``plan`` against ``graph``; decisions of sparsity 0 change nothing and are left out.

    Raises:
        UnknownNameError: a layer, group, method or reconstruction that does not exist, with near misses.
        PlanError: two decisions for one group, a protected group, a pattern or method that does not fit, or a sparsity
            above zero that removes nothing.
    """
    _check_names(plan)
    units: dict[str, LayerDecision] = {}
    weights: dict[str, LayerDecision] = {}
    for decision in plan.decisions:
        if decision.pattern is Pattern.WEIGHT:
            weights[decision.layer] = _weight_decision(decision, graph)
            continue
        group = graph.group(decision.layer)
        _check_group(decision, group)
        if group.name in units:
            other = units[group.name]
            raise PlanError(
                f"layers {other.layer!r} (sparsity {other.sparsity:g}) and {decision.layer!r} (sparsity "
                f"{decision.sparsity:g}) belong to one group {group.name!r} and go together; give one decision for it"
            )
        units[group.name] = decision
    order = {name: place for place, name in enumerate(graph.groups)}
    chosen = {n: units[n] for n in sorted(units, key=order.__getitem__) if units[n].sparsity > 0}
    removed = {name: graph.groups[name].removed(decision.sparsity) for name, decision in chosen.items()}
    return Resolved(chosen, removed, {n: d for n, d in weights.items() if d.sparsity > 0})


def _check_names(plan: Plan) -> None:
    from autoprune.methods import METHODS
    from autoprune.reconstruction import RECONSTRUCTIONS

    if plan.reconstruction not in RECONSTRUCTIONS:
        raise unknown_name("reconstruction", plan.reconstruction, RECONSTRUCTIONS)
    for decision in plan.decisions:
        if decision.method not in METHODS:
            raise unknown_name("method", decision.method, METHODS)
        patterns = METHODS[decision.method].patterns
        if decision.pattern not in patterns:
            raise PlanError(
                f"method {decision.method!r} of layer {decision.layer!r} ranks {', '.join(sorted(patterns))}, "
                f"not pattern {decision.pattern.value!r}"
            )


def _check_group(decision: LayerDecision, group: Group) -> None:
    if decision.pattern is not group.pattern:
        raise PlanError(
            f"the units of group {group.name!r} have pattern {group.pattern.value!r}, "
            f"but the plan says {decision.pattern.value!r}"
        )
    if group.protected is not None and decision.sparsity > 0:
        raise PlanError(f"group {group.name!r} must stay whole: {group.protected}; set its sparsity to 0")
    if decision.sparsity > 0 and group.removed(decision.sparsity) == 0:
        raise PlanError(
            f"sparsity {decision.sparsity:g} of group {group.name!r} removes none of its {group.size} units; "
            f"use 0 or at least {0.5 / group.size:.3g}"
        )


def _weight_decision(decision: LayerDecision, graph: LayerGraph) -> LayerDecision:
    if decision.layer not in graph.weight_layers:
        raise unknown_name("layer with weights", decision.layer, graph.weight_layers)
    return decision
