"""What a controller is: something that proposes points of a search space and learns from what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.errors import MissingExtraError, SettingsError, unknown_name
from autoprune.search.driving import Driver
from autoprune.search.records import TrialRecord

if TYPE_CHECKING:
    from autoprune.costs import Cost, CostModel
    from autoprune.fitting import Target
    from autoprune.graph import LayerGraph
    from autoprune.outcome import Outcome
    from autoprune.plan import Plan
    from autoprune.search.mirror import Mirror
    from autoprune.space import SearchSpace

Point = dict[str, float | str]
Report = Callable[[int, float], bool]


class Ranking(Protocol):
    """What the global baseline asks of an objective's ranker."""

    def global_removed(
        self, names: Any, method: Any, fits: Callable[[dict[str, int]], bool], **options: Any
    ) -> dict[str, int]:
        """Units to remove of each group by one ranking over all of them: the shortest prefix that ``fits``."""

    def scores(self, group: str, method: Any) -> Any:
        """Scores ``[U]`` of the units of a group; low ones go first."""


class SearchObjective(Protocol):
    """What a search asks of an objective: :class:`autoprune.objective.Objective`, or a problem with a known answer."""

    @property
    def graph(self) -> LayerGraph:
        """The network's graph."""

    @property
    def dense(self) -> Outcome:
        """Outcome of the dense network."""

    @property
    def dense_cost(self) -> Cost:
        """Cost of the dense network."""

    @property
    def ranker(self) -> Ranking:
        """Ranks units over all groups."""

    @property
    def costs(self) -> CostModel:
        """Counts what is left after so many units of each group are gone."""

    @property
    def identity(self) -> dict[str, Any]:
        """What outcomes depend on, as JSON: digests of ``model``, ``graph``, ``data``, and ``objective`` settings."""

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan; nothing is evaluated."""

    def latency(self, plan: Plan) -> float:
        """Measured milliseconds of one forward pass."""

    def __call__(self, plan: Plan, *, report: Report | None = None, race: Any = None) -> Outcome:
        """Evaluate a plan."""


def _unheard(what: str, done: int, total: int) -> None:
    """Nobody listens."""


def _unkept(name: str, value: Any) -> None:
    """Nobody keeps it."""


@dataclass(frozen=True)
class Context:
    """What a controller has to work with.

    Attributes:
        objective: for controllers that need more than proposing and learning (rankings, sensitivities).
        space: what may be decided.
        target: the budget; in a Pareto search without one, a reference budget for the baselines.
        mirror: the study in memory, with every trial so far.
        metrics: costs that are objectives beside accuracy; empty for a single objective.
        seed: of the search.
        trials: how many the controller may propose in all.
        shifted: whether proposals are shifted onto the budget, so that next to none misses it.
        cache_dir: folder for what is worth keeping, ``None`` for none.
        run_dir: folder of the run, ``None`` for none.
        options: of the controller, checked by it.
        notice: says what is being done, to a user who waits: (what, done, of how many).
        known: what was found out about the network on the way, for everything that decides in this search.
        keep: attaches something (JSON) to the study, for those who learn from studies: (name, value).
    """

    objective: SearchObjective
    space: SearchSpace
    target: Target
    mirror: Mirror
    metrics: tuple[str, ...] = ()
    seed: int = 0
    trials: int = 50
    shifted: bool = True
    cache_dir: Path | None = None
    run_dir: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notice: Callable[[str, int, int], None] = _unheard
    known: dict[str, Any] = field(default_factory=dict)
    keep: Callable[[str, Any], None] = _unkept


class Proposer(Protocol):
    """A controller at work in one search."""

    def propose(self, number: int) -> Point | None:
        """The point to try as trial ``number``; ``None`` when there is nothing left to propose.

        It must depend on nothing but the context, ``number`` and the finished trials, so that a search that was killed
        goes on as if it had not been.
        """

    def tell(self, record: TrialRecord) -> None:
        """Learn from a finished trial, whoever proposed it; on resume, from every earlier one in order."""


@dataclass(frozen=True)
class Controller:
    """An entry of the registry.

    Attributes:
        name: its key.
        description: one sentence for a reader.
        source: authors, title, year.
        start: makes its :class:`Proposer`, or its :class:`~autoprune.search.driving.Driver`, for one search.
        pareto: whether it can search with several objectives.
        options: names of the options it takes, with what they are.
        drives: whether it owns its loop: one evaluation after the other, and budgets met by its own decisions.
        extra: the extra whose ``packages`` it needs; empty for none.
        packages: what must be importable.
        verify: refuses values of options, and search spaces, that cannot be.
    """

    name: str
    description: str
    source: str
    start: Callable[[Context], Proposer | Driver]
    pareto: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    drives: bool = False
    extra: str = ""
    packages: tuple[str, ...] = ()
    verify: Callable[[Mapping[str, Any], SearchSpace], None] | None = None

    def check(self, metrics: tuple[str, ...], options: Mapping[str, Any], space: SearchSpace) -> None:
        """Refuse what this controller cannot do, before any work.

        Raises:
            SettingsError: several objectives where it takes one, or an option or a space it cannot work with.
            UnknownNameError: an option it does not have.
            MissingExtraError: it needs packages that are not installed.
        """
        if metrics and not self.pareto:
            raise SettingsError(
                f"controller {self.name!r} searches one objective, but got accuracy against {' and '.join(metrics)}; "
                "use nsga2, nsga3, tpe, gp or random for a Pareto front"
            )
        for option in options:
            if option not in self.options:
                raise unknown_name(f"option of controller {self.name!r}", option, self.options)
        for package in self.packages:
            if find_spec(package) is None:
                raise MissingExtraError(package, self.extra or None, f"controller {self.name!r}")
        if self.verify is not None:
            self.verify(options, space)
