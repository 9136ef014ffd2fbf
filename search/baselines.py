"""What a search must beat: the same sparsity everywhere, one global ranking, greedy by sensitivity.

Each finds a point that just meets the budget. All three are evaluated in every search, with the first method of the
space; as controllers they propose their point once for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from autoprune.search.base import Context, Controller, Point
from autoprune.search.records import TrialRecord
from autoprune.sensitivity import Sensitivity, sensitivity

IMAGES = 1000  # that judge sensitivity curves
CURVES = "sensitivity"  # note of a study


def uniform(context: Context, method: str) -> Point:
    """The same sparsity in every group, the smallest that meets the budget."""
    space = context.space
    return space.shift(space.point({}, method), context.target.fits)


def global_ranking(context: Context, method: str) -> Point:
    """The units with the lowest scores of the whole network go, as few as meet the budget.

    Scores are divided by their group's mean first. Groups stop at what the space allows them.
    """
    space, sizes = context.space, {g.name: g.size for g in context.space.groups}

    def point(removed: Mapping[str, int]) -> Point:
        return space.point({name: removed[name] / size for name, size in sizes.items()}, method)

    def fits(removed: dict[str, int]) -> bool:
        return context.target.fits(space.plan(point(removed)))

    return point(context.objective.ranker.global_removed(list(sizes), method, fits))


def greedy(context: Context, method: str) -> Point:
    """Step by step, units go where the next ones do the least harm for the cost they save.

    Harm is read off sensitivity curves: the rise of the loss when one group alone is pruned, without retraining, made
    convex so that a step that looks past a bump is seen. What is found is shifted until it just meets the budget.
    :data:`IMAGES` validation images judge the curves, for only their relation to each other counts; what is found is
    judged on all of them, as every trial.
    """
    path = list(greedy_path(context, curves_of(context, method), method))
    low, high = 0, len(path) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if context.target.fits(context.space.plan(path[middle])) else (middle + 1, high)
    return context.space.shift(path[high], context.target.fits)


def curves_of(context: Context, method: str) -> Sensitivity:
    """What each group does alone, evaluated once in a search; those of the first method are kept with the study."""
    key = f"{CURVES}/{method}"
    if key not in context.known:
        context.known[key] = sensitivity(
            context.objective,
            context.space,
            method=method,
            images=IMAGES,
            cache_dir=context.cache_dir,
            progress=lambda done, total: context.notice("sensitivity", done, total),
        )
        if method == context.space.methods[0]:
            context.keep(CURVES, context.known[key].to_dict())
    return context.known[key]  # type: ignore[no-any-return]


def greedy_path(context: Context, curves: Sensitivity, method: str, *, steps: int = 20) -> Iterator[Point]:
    """Points from the dense network to the smallest of the space, each with one step of one group more.

    Args:
        context: the search.
        curves: harm by group and sparsity.
        method: of every group.
        steps: into which each group's range is cut.
    """
    space, saved = context.space, _Saving(context)
    ladders = {g.name: _ladder(g.removals, steps) for g in space.groups}
    harm = {
        g.name: curves.harm(g.name, [count / g.size for count in ladders[g.name]], convex=True) for g in space.groups
    }
    at = dict.fromkeys(ladders, 0)

    def point() -> Point:
        return space.point({g.name: ladders[g.name][at[g.name]] / g.size for g in space.groups}, method)

    def price(name: str) -> float:
        """Harm of the next step of a group over what it saves."""
        before = saved(point())
        at[name] += 1
        gain = before - saved(point())
        at[name] -= 1
        rise = harm[name][at[name] + 1] - harm[name][at[name]]
        return rise / gain if gain > 0 else float("inf")

    yield point()
    prices = {name: price(name) for name, ladder in ladders.items() if len(ladder) > 1}
    while prices:
        name = _cheapest(prices, price)
        at[name] += 1
        yield point()
        prices.pop(name)
        if at[name] + 1 < len(ladders[name]):
            prices[name] = price(name)


def _cheapest(prices: dict[str, float], price: Callable[[str], float]) -> str:
    """The group with the lowest price; prices that others have put out of date are renewed when their turn comes."""
    fresh: set[str] = set()
    while True:
        name = min(prices, key=lambda n: prices[n])
        if name in fresh:
            return name
        prices[name] = price(name)
        fresh.add(name)


class _Saving:
    """Cost of a point in units of the budget: the sum over its metrics of value over limit; latency counted by MACs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        limits = context.target.limits
        dense = context.objective.dense_cost
        self._limits = {m: v for m, v in limits.items() if m != "latency_ms"}
        if "latency_ms" in limits or not limits:
            self._limits.setdefault("macs", dense.value("macs") * 0.5)

    def __call__(self, point: Point) -> float:
        cost = self._context.objective.cost(self._context.space.plan(point))
        return sum(cost.value(m) / limit for m, limit in self._limits.items())


def _ladder(removals: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """At most ``steps`` evenly spaced counts after the first, which is 0."""
    last = len(removals) - 1
    places = sorted({round(last * step / steps) for step in range(steps + 1)})
    return tuple(removals[place] for place in places)


BASELINES: dict[str, Callable[[Context, str], Point]] = {
    "uniform": uniform,
    "global": global_ranking,
    "greedy": greedy,
}


class BaselineProposer:
    """A baseline at work as a controller: its point for every method but the first, which every search has anyway."""

    def __init__(self, context: Context, find: Callable[[Context, str], Point]) -> None:
        self._context, self._find = context, find
        self._left = list(context.space.methods[1:])

    def propose(self, number: int) -> Point | None:
        """The point for the next method."""
        del number
        return self._find(self._context, self._left.pop(0)) if self._left else None

    def tell(self, record: TrialRecord) -> None:
        """A method that an earlier run has tried is not tried again."""
        if not record.baseline and record.plan is not None:
            used = {d.method for d in record.plan.decisions}
            self._left = [method for method in self._left if method not in used]


def _baseline(name: str, description: str) -> Controller:
    return Controller(
        name, description, "baseline", lambda context: BaselineProposer(context, BASELINES[name]), pareto=False
    )


UNIFORM = _baseline("uniform", "Baseline: the same sparsity in every group.")
GLOBAL = _baseline("global", "Baseline: one ranking of all units of the network.")
GREEDY = _baseline("greedy", "Baseline: step by step where it hurts least, by sensitivity curves.")
