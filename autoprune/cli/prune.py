"""``autoprune prune``: one plan, applied, judged and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from autoprune.cli.console import say
from autoprune.cli.options import command
from autoprune.errors import AutopruneError, PlanError, SettingsError
from autoprune.settings import PruneSettings

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.objective import Objective
    from autoprune.plan import Plan

app = typer.Typer(add_completion=False)


def run(settings: PruneSettings) -> None:
    """Prune by one method, by thresholds, or by a plan file.

    Say how much with --sparsity, with --budget, with --thresholds, or with --plan.
    """
    from autoprune.cli.record import made_with
    from autoprune.cli.results import row_of, show_bars, show_rows, store
    from autoprune.opening import default_folder, latency_of, objective_of, open_base, use_threads
    from autoprune.report import bars_of, sizes_of

    use_threads(settings.threads)
    if settings.base is None:
        raise SettingsError("prune needs a trained network; name its folder with --base ('autoprune train' makes one)")
    opened = open_base(settings)
    objective = objective_of(settings, opened)
    plan = plan_of(settings, objective)
    outcome = objective(plan)
    if not outcome.ok:
        raise PlanError(f"the plan gives no usable network: {outcome.reason}")
    out = settings.out or default_folder("runs", opened).with_name(f"{opened.name}-pruned")
    pruned, latency = objective.build(plan), latency_of(settings)
    rows = [
        row_of("dense", objective.dense, objective, latency),
        row_of("pruned", outcome, objective, latency, built=pruned),
    ]
    settings.save(out / "config.toml", made_with())
    store(out, pruned, outcome, opened, rows[-1].to_dict())
    show_rows(f"{opened.spec.factory} on {opened.data.name}", rows)
    show_bars(bars_of(outcome, sizes_of(objective.graph)))
    if outcome.form.value == "masked":
        say("Only masked: single weights are zero, so nothing is smaller or faster.")
    say(f"\nStored in {out}")
    say(f"Next:  autoprune evaluate {out}")
    say(f"       autoprune export {out} --format onnx")


def plan_of(settings: PruneSettings, objective: Objective) -> Plan:
    """The plan that ``settings`` ask for; checked against the network.

    Raises:
        PlanError: it does not fit the network.
        BudgetError: the budget cannot be met.
    """
    from autoprune.plan import Plan

    if settings.plan is not None:
        plan = read_plan(settings.plan)
    elif settings.thresholds is not None:
        plan = _by_thresholds(settings, objective)
    elif settings.budget:
        plan = _within(settings, objective)
    else:
        groups = None if settings.pattern == "channel" else settings.pattern
        whole = Plan.uniform(
            objective.graph,
            method=settings.method,
            sparsity=settings.sparsity or 0.0,
            pattern=groups,
            reconstruction=settings.reconstruction,
        )
        plan = _chosen(whole, settings, objective)
    objective.resolve(plan)
    return plan


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file.

    Raises:
        PlanError: it cannot be read, or holds no plan.
    """
    from autoprune.plan import Plan

    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read the plan {str(path)!r}: {error.strerror or error}") from None
    except (AutopruneError, UnicodeDecodeError) as error:
        raise PlanError(f"{str(path)!r}: {error}") from None


def _by_thresholds(settings: PruneSettings, objective: Objective) -> Plan:
    """What lies below the thresholds of a file goes; the method is the file's where it names one."""
    from autoprune.thresholds import Thresholds

    assert settings.thresholds is not None
    thresholds = Thresholds.load(settings.thresholds)
    return thresholds.plan(objective.graph, objective.ranker.scores, settings.method, settings.reconstruction)


def _within(settings: PruneSettings, objective: Objective) -> Plan:
    """The same sparsity for every group, as small as the budget allows."""
    from autoprune.costs import Budget
    from autoprune.space import SearchSpace

    space = SearchSpace.from_graph(
        objective.graph,
        methods=(settings.method,),
        include=settings.include,
        exclude=settings.exclude,
        max_sparsity=0.99,
        reconstruction=settings.reconstruction,
    )
    budget = Budget.parse(settings.budget)
    space.profile(objective, budget)
    return space.plan(space.fit(space.point({}), objective, budget))


def _chosen(plan: Plan, settings: PruneSettings, objective: Objective) -> Plan:
    """Only the groups that ``include`` and ``exclude`` leave, and only those that lose at least one unit."""
    from dataclasses import replace

    if settings.pattern == "weight":
        return plan
    names = {g.name for g in objective.graph.select(settings.include, settings.exclude)}
    kept = [d for d in plan.decisions if d.layer in names and objective.graph.groups[d.layer].removed(d.sparsity) > 0]
    if not kept and settings.sparsity:
        raise PlanError(f"sparsity {settings.sparsity:g} removes nothing from any group; raise it")
    return replace(plan, decisions=tuple(kept))


command(app, PruneSettings, run)
