"""What a search may decide: per group a method and how many units go, with the counts that rounding allows.

A point of the space is a mapping from parameter names to values (``sparsity/<group>``, ``method/<group>``,
``reconstruction``); :meth:`SearchSpace.plan` turns it into a :class:`~autoprune.plan.Plan` with exact counts.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.costs import Budget
from autoprune.errors import MethodError, PlanError, SettingsError, StudyError, unknown_name
from autoprune.fitting import Costed, Profile, Target, smallest_shift
from autoprune.graph import Group, LayerGraph
from autoprune.plan import LayerDecision, Pattern, Plan

if TYPE_CHECKING:
    from autoprune.costs import Cost

SPACE_VERSION = 1
Values = Mapping[str, float | str]
_PATTERNS = (Pattern.CHANNEL, Pattern.UNIT)


@dataclass(frozen=True)
class Parameter:
    """One decision: a number in ``[low, high]``, or one of ``choices``."""

    name: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupSpace:
    """What may happen to one group.

    Attributes:
        name, pattern, size: of the group.
        removals: how many units may go, ascending from 0; what rounding and levels leave.
    """

    name: str
    pattern: Pattern
    size: int
    removals: tuple[int, ...]

    @property
    def max_sparsity(self) -> float:
        """The largest fraction that may go."""
        return self.removals[-1] / self.size

    def place(self, sparsity: float) -> int:
        """Index in :attr:`removals` that is nearest to ``sparsity``; the smaller one at a tie."""
        wanted = sparsity * self.size
        right = bisect_left(self.removals, wanted)
        if right == 0:
            return 0
        if right == len(self.removals):
            return right - 1
        low, high = self.removals[right - 1], self.removals[right]
        return right - 1 if wanted - low <= high - wanted else right


@dataclass(frozen=True)
class SearchSpace:
    """Groups that may be pruned and how.

    Attributes:
        groups: in the order of the network.
        methods: criteria a group may choose from; with one there is no such decision.
        reconstructions: repairs the whole plan may choose from; with one there is no such decision.
        fixed: groups left whole because rounding allows them nothing.
        rules: what made the space (``max_sparsity``, ``round_to``, ``levels``), for messages.
    """

    groups: tuple[GroupSpace, ...]
    methods: tuple[str, ...] = ("l1_norm",)
    reconstructions: tuple[str, ...] = ("none",)
    fixed: tuple[str, ...] = ()
    rules: tuple[tuple[str, float | int | None], ...] = ()

    @classmethod
    def from_graph(
        cls,
        graph: LayerGraph,
        *,
        methods: Sequence[str] = ("l1_norm",),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_sparsity: float = 0.9,
        round_to: int = 1,
        reconstruction: str | Sequence[str] = "none",
        levels: int | None = None,
    ) -> SearchSpace:
        """The space of a network.

        Args:
            graph: of the network.
            methods: names in :data:`autoprune.methods.METHODS`.
            include, exclude: globs over groups and layers. Input features take part only when ``include`` names them.
            max_sparsity: largest fraction of a group that may go; at least one unit stays in any case.
            round_to: counts that stay are multiples of this, or the whole group.
            reconstruction: one name, or several to choose from for the whole plan.
            levels: allow only this many evenly spaced sparsities for each group (2 or more); ``None`` allows all.

        Raises:
            SettingsError: a value that cannot be.
            UnknownNameError: a name or a glob that nothing matches.
            MethodError: a method that cannot rank a group's units.
        """
        from autoprune.reconstruction import get_reconstruction

        _check(max_sparsity, round_to, levels)
        chosen = [g for g in graph.select(include, exclude) if include or g.pattern in _PATTERNS]
        names = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
        repairs = tuple(dict.fromkeys([reconstruction] if isinstance(reconstruction, str) else reconstruction))
        if not names or not repairs:
            raise SettingsError("a search space needs at least one method and one reconstruction, but got none")
        _check_methods(names, chosen)
        for repair in repairs:
            get_reconstruction(repair)
        spaces = [
            GroupSpace(g.name, g.pattern, g.size, _removals(g.size, max_sparsity, round_to, levels)) for g in chosen
        ]
        free = tuple(s for s in spaces if len(s.removals) > 1)
        if not spaces:
            raise SettingsError(
                "the network has no channels or hidden units that can be removed; 'autoprune inspect' says why"
            )
        if not free:
            raise SettingsError(
                f"nothing can be removed with round_to={round_to} and max_sparsity={max_sparsity:g}: "
                f"the largest group has {max((s.size for s in spaces), default=0)} units; lower round_to"
            )
        fixed = tuple(s.name for s in spaces if len(s.removals) == 1)
        rules = (("max_sparsity", float(max_sparsity)), ("round_to", round_to), ("levels", levels))
        return cls(free, names, repairs, fixed, rules)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every decision by name, in a fixed order."""
        made = [Parameter(f"sparsity/{g.name}", 0.0, g.max_sparsity) for g in self.groups]
        if len(self.methods) > 1:
            made += [Parameter(f"method/{g.name}", choices=self.methods) for g in self.groups]
        if len(self.reconstructions) > 1:
            made.append(Parameter("reconstruction", choices=self.reconstructions))
        return {parameter.name: parameter for parameter in made}

    def removed(self, values: Values) -> dict[str, int]:
        """Units that go, by group."""
        return {g.name: g.removals[g.place(_number(values, f"sparsity/{g.name}"))] for g in self.groups}

    def snap(self, values: Values) -> dict[str, float | str]:
        """``values`` with every sparsity at the allowed count nearest to it."""
        counts = self.removed(values)
        return {**values, **{f"sparsity/{g.name}": counts[g.name] / g.size for g in self.groups}}

    def plan(self, values: Values) -> Plan:
        """The plan at ``values``: exact counts, and no decision for a group that loses nothing."""
        removed = self.removed(values)
        decisions = [
            LayerDecision(g.name, self._choice(values, f"method/{g.name}", self.methods), g.pattern, k / g.size)
            for g, k in ((g, removed[g.name]) for g in self.groups)
            if k
        ]
        return Plan(tuple(decisions), self._choice(values, "reconstruction", self.reconstructions))

    def values(self, plan: Plan) -> dict[str, float | str]:
        """The point of ``plan``; groups it does not name keep everything.

        Raises:
            PlanError: the plan cannot be said in this space.
        """
        known = {g.name: g for g in self.groups}
        named = {d.layer: d for d in plan.decisions}
        for decision in plan.decisions:
            group = known.get(decision.layer)
            if group is None or decision.pattern is not group.pattern or decision.method not in self.methods:
                raise PlanError(
                    f"the decision for {decision.layer!r} ({decision.method}, {decision.pattern}) is not in the space"
                )
        counts = {name: named[name].sparsity if name in named else 0.0 for name in known}
        methods = {name: named[name].method if name in named else self.methods[0] for name in known}
        return self.point(counts, methods, plan.reconstruction)

    def point(
        self,
        sparsities: Mapping[str, float],
        methods: Mapping[str, str] | str | None = None,
        reconstruction: str | None = None,
    ) -> dict[str, float | str]:
        """Values with each group at the allowed count nearest to its sparsity; the first method where none is given."""
        values: dict[str, float | str] = {}
        for g in self.groups:
            values[f"sparsity/{g.name}"] = g.removals[g.place(sparsities.get(g.name, 0.0))] / g.size
        if len(self.methods) > 1:
            for g in self.groups:
                named = methods if isinstance(methods, str) else (methods or {}).get(g.name)
                values[f"method/{g.name}"] = named or self.methods[0]
        if len(self.reconstructions) > 1:
            values["reconstruction"] = reconstruction or self.reconstructions[0]
        return values

    def fit(
        self, values: Values, objective: Costed, budget: Budget, *, dense: Cost | None = None
    ) -> dict[str, float | str]:
        """The point that just meets ``budget`` and is ``values`` shifted by one amount in every group.

        All sparsities move up or down together, each within its bounds (the idea of AMC's clipped actions: Y. He et
        al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", 2018), so that differences between
        groups are kept and no shift that removes less would do. Methods stay. Works both ways: a point that is smaller
        than it must be gets units back. ``dense`` is what fractions refer to, the objective's own by default.

        Raises:
            BudgetError: not even the smallest point of the space meets the budget.
        """
        return self.shift(values, Target(objective, budget, dense).fits)

    def shift(self, values: Values, within: Callable[[Plan], bool]) -> dict[str, float | str]:
        """:meth:`fit` for any test of a plan that holds for smaller networks once it holds."""
        start = [_number(values, f"sparsity/{g.name}") for g in self.groups]

        def moved(by: float) -> tuple[int, ...]:
            return tuple(g.place(min(max(s + by, 0.0), 1.0)) for g, s in zip(self.groups, start, strict=True))

        def at(places: Sequence[int]) -> dict[str, float | str]:
            counts = {f"sparsity/{g.name}": g.removals[p] / g.size for g, p in zip(self.groups, places, strict=True)}
            return {**values, **counts}

        return at(smallest_shift(moved, lambda places: within(self.plan(at(places)))))

    def profile(self, objective: Costed, budget: Budget | None = None, *, dense: Cost | None = None) -> Profile:
        """Costs of the smallest, middle and largest sub-network; ``dense`` is what fractions refer to.

        Raises:
            BudgetError: the smallest does not meet the budget.
        """
        target = Target(objective, budget or Budget(), dense)
        shares = [self.point({g.name: share * g.max_sparsity for g in self.groups}) for share in (1.0, 0.5, 0.0)]
        smallest, middle, largest = (target.cost(self.plan(values)) for values in shares)
        profile = Profile(smallest, middle, largest, target.limits, target.dense)
        profile.check(", ".join(f"{name}={rule}" for name, rule in self.rules if rule is not None))
        return profile

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, versioned."""
        return {
            "version": SPACE_VERSION,
            "methods": list(self.methods),
            "reconstructions": list(self.reconstructions),
            "rules": dict(self.rules),
            "fixed": list(self.fixed),
            "groups": {
                g.name: {"pattern": g.pattern.value, "size": g.size, "removals": list(g.removals)} for g in self.groups
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Read what :meth:`to_dict` wrote.

        Raises:
            StudyError: another version, or a form that cannot be read.
        """
        if data.get("version") != SPACE_VERSION:
            raise StudyError(
                f"the search space has version {data.get('version')!r}, but this release reads {SPACE_VERSION}"
            )
        try:
            groups = tuple(
                GroupSpace(name, Pattern(g["pattern"]), int(g["size"]), tuple(map(int, g["removals"])))
                for name, g in data["groups"].items()
            )
            rules = tuple(data["rules"].items())
            return cls(groups, tuple(data["methods"]), tuple(data["reconstructions"]), tuple(data["fixed"]), rules)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(f"the stored search space cannot be read: {error!r}") from None

    @property
    def digest(self) -> str:
        """A short SHA-256: equal spaces have equal digests."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:16]

    @staticmethod
    def _choice(values: Values, name: str, known: tuple[str, ...]) -> str:
        chosen = str(values[name]) if len(known) > 1 else known[0]
        if chosen not in known:
            raise unknown_name(name.partition("/")[0], chosen, known)
        return chosen


def _number(values: Values, name: str) -> float:
    try:
        return float(values[name])
    except KeyError:
        raise unknown_name("parameter", name, values) from None


def _removals(size: int, max_sparsity: float, round_to: int, levels: int | None) -> tuple[int, ...]:
    """Counts that may go: the rest is a multiple of ``round_to`` (at least one such), or everything stays."""
    most = int(max_sparsity * size + 1e-9)
    kept = range(max(round_to, 1), size, max(round_to, 1))
    counts = sorted({0, *(size - k for k in kept if size - k <= most)})
    if levels is None or levels >= len(counts):
        return tuple(counts)
    steps = [counts[-1] * step / (levels - 1) for step in range(levels)]
    return tuple(sorted({min(counts, key=lambda c: (abs(c - step), c)) for step in steps}))


def _check(max_sparsity: float, round_to: int, levels: int | None) -> None:
    if isinstance(max_sparsity, bool) or not isinstance(max_sparsity, (int, float)) or not 0 < max_sparsity < 1:
        raise SettingsError(f"max_sparsity must be in (0, 1), but got {max_sparsity!r}")
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise SettingsError(f"round_to must be a whole number from 1 on, but got {round_to!r}")
    if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or levels < 2):
        raise SettingsError(f"levels must be a whole number from 2 on or None, but got {levels!r}")


def _check_methods(names: Sequence[str], groups: Sequence[Group]) -> None:
    from autoprune.methods import get_method

    for name in names:
        method = get_method(name)
        for group in groups:
            if group.pattern not in method.patterns:
                raise MethodError(
                    f"method {name!r} cannot rank the units of {group.name!r} (pattern {group.pattern}; "
                    f"it ranks {', '.join(sorted(method.patterns))}); exclude the group or choose another method"
                )
