"""Optuna's samplers as controllers: TPE, CMA-ES, a Gaussian process, NSGA-II and III, random and grid.

Every trial gets a sampler of its own, seeded from the study's seed and the trial's number. What a sampler knows stands
in the mirrored study, so proposals depend on finished trials alone: a search that was killed goes on as if it had not
been. CMA-ES, the genetic samplers and the grid keep marks on the trials they proposed; these are not stored (CMA-ES
would pickle its state into the database) but made again on resume by letting the sampler propose every earlier trial
anew.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import SettingsError
from autoprune.search.base import Context, Controller, Point
from autoprune.search.mirror import Lessons
from autoprune.search.records import TrialRecord
from autoprune.seeding import derive

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

GRID_LIMIT = 20_000
NEAR, STEP, REDRAW = 0.5, 0.05, 0.1  # share of steps from the best trial, their size, chance of another method
SIGMA = 0.05  # first step of CMA-ES as a share of each range: it starts from the best baseline, not from nowhere
POPULATION = 20  # Optuna's default of 50 would leave a search of 50 trials in its first, random generation

Make = Callable[[int, Context], "BaseSampler"]


@contextmanager
def _no_notes() -> Iterator[None]:
    """Samplers warn of what is experimental or on its way out; what is used here is tested against this Optuna."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


class OptunaProposer:
    """One of Optuna's samplers at work."""

    def __init__(self, context: Context, make: Make, lessons: Lessons, *, replay: bool) -> None:
        self._context, self._make, self.replay = context, make, replay
        if context.shifted:
            lessons = replace(lessons, constraints=False)  # they all hold, and would cost a model each
        context.mirror.lessons = lessons

    def propose(self, number: int) -> Point | None:
        """Let the sampler open the next trial of the mirrored study."""
        if self._context.mirror.next_number != number:
            raise AssertionError(f"the mirror expects trial {self._context.mirror.next_number}, not {number}")
        with _no_notes():
            return self._context.mirror.ask(self._sampler(number))

    def tell(self, record: TrialRecord) -> None:
        """The mirror has it already."""

    def adopt(self, number: int) -> None:
        """Take a baseline in as if the sampler had proposed it: genetic samplers breed from what is in a generation."""
        generation = getattr(self._sampler(number), "get_trial_generation", None)
        if generation is not None:
            generation(self._context.mirror.study, self._context.mirror.trial(number))

    def _sampler(self, number: int) -> BaseSampler:
        with _no_notes():
            return self._make(derive(self._context.seed, "sampler", number) % 2**32, self._context)


class NearProposer(OptunaProposer):
    """As above, but a share of the proposals are small steps from the best trial so far.

    With 20 groups or more, a density over all of them stays wide for hundreds of trials. Steps find the next better
    point, the density finds where to step from; together they beat either (``benchmarks/controllers.py``). A Pareto
    search has no best trial and takes no steps.
    """

    def propose(self, number: int) -> Point | None:
        """A step, or what the sampler says."""
        draw = np.random.default_rng(derive(self._context.seed, "near", number))
        best = None if self._context.metrics else self._context.mirror.best()
        if best is None or draw.random() >= float(self._context.options.get("near", NEAR)):
            return super().propose(number)
        point: Point = {}
        for name, parameter in self._context.space.parameters.items():
            value = best.params[name]
            if parameter.choices:
                point[name] = str(draw.choice(parameter.choices)) if draw.random() < REDRAW else str(value)
            else:
                step = STEP * (parameter.high - parameter.low) * draw.standard_normal()
                point[name] = float(np.clip(value + step, parameter.low, parameter.high))
        return point


class GridProposer(OptunaProposer):
    """As above, with an end."""

    def propose(self, number: int) -> Point | None:
        """The next point of the grid, ``None`` once all have been tried."""
        if self._sampler(number).is_exhausted(self._context.mirror.study):  # type: ignore[attr-defined]
            return None
        return super().propose(number)


class GaussianProposer(OptunaProposer):
    """As above, on one thread: its matrices are small, and sums of several threads are not the same every time."""

    def propose(self, number: int) -> Point | None:
        """The point that promises most."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().propose(number)
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Sampler:
    """How one of Optuna's samplers is made and what it is shown."""

    make: Make
    lessons: Lessons = field(default_factory=Lessons)
    replay: bool = False
    proposer: type[OptunaProposer] = OptunaProposer

    def start(self, context: Context) -> OptunaProposer:
        """At work in one search."""
        return self.proposer(context, self.make, self.lessons, replay=self.replay)


def _static(kind: type[Any], context: Context, *, numbers_only: bool = False) -> type[Any]:
    """``kind`` told the search space, which it would else work out from all trials at every proposal."""
    space = {
        name: distribution
        for name, distribution in context.mirror.distributions.items()
        if not (numbers_only and context.space.parameters[name].choices)
    }

    def infer_relative_search_space(self: Any, study: Any, trial: Any) -> dict[str, Any]:
        del self, study, trial
        return dict(space)

    return type(kind.__name__, (kind,), {"infer_relative_search_space": infer_relative_search_space})


def _tpe(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import TPESampler

    joint = bool(context.options.get("joint", True))
    kind = _static(TPESampler, context) if joint else TPESampler
    sampler: BaseSampler = kind(
        seed=seed,
        multivariate=joint,
        constant_liar=True,
        n_startup_trials=int(context.options.get("startup", 10)),
        n_ei_candidates=int(context.options.get("candidates", 24)),
    )
    return sampler


def _cmaes(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    start = _best_point(context)
    named = {} if start is None else {"x0": start, "sigma0": float(context.options.get("sigma", SIGMA))}
    kind = _static(CmaEsSampler, context, numbers_only=True)
    return kind(seed=seed, warn_independent_sampling=False, **named)  # type: ignore[no-any-return]


def _best_point(context: Context) -> dict[str, float] | None:
    """Sparsities of the best baseline, from which CMA-ES starts; ``None`` where none was evaluated."""
    names = [f"sparsity/{g.name}" for g in context.space.groups]
    found = [t for t in context.mirror.baselines() if t.value is not None]
    best = max(found, key=lambda t: float(t.value or 0.0), default=None)
    return None if best is None else {name: float(best.params[name]) for name in names}


def _gp(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import GPSampler

    return _static(GPSampler, context)(seed=seed, warn_independent_sampling=False)  # type: ignore[no-any-return]


def _population(context: Context) -> int:
    return int(context.options.get("population", POPULATION))


def _nsga2(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return _static(NSGAIISampler, context)(seed=seed, population_size=_population(context))  # type: ignore[no-any-return]


def _nsga3(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import NSGAIIISampler

    return _static(NSGAIIISampler, context)(seed=seed, population_size=_population(context))  # type: ignore[no-any-return]


def _random(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import RandomSampler

    del context
    return RandomSampler(seed=seed)


def _grid(seed: int, context: Context) -> BaseSampler:
    from optuna.samplers import GridSampler

    del seed  # the order of the grid is the study's, not the trial's
    axes = grid_axes(context)

    class Grid(GridSampler):
        def after_trial(self, *args: Any, **named: Any) -> None:
            """Optuna would stop a loop that is not there."""

    return Grid(axes, seed=derive(context.seed, "grid") % 2**32)


def grid_axes(context: Context) -> Mapping[str, list[float | str]]:
    """Values of every parameter: the counts that the space allows.

    Raises:
        SettingsError: more points than anyone would want to evaluate.
    """
    space = context.space
    axes: dict[str, list[float | str]] = {
        f"sparsity/{g.name}": [count / g.size for count in g.removals] for g in space.groups
    }
    axes |= {name: list(p.choices) for name, p in space.parameters.items() if p.choices}
    size = math.prod(len(values) for values in axes.values())
    if size > GRID_LIMIT:
        shown = f"{size:,}" if size < 10**12 else f"10^{int(math.log10(size))}"
        raise SettingsError(
            f"the grid over {len(axes)} decisions has {shown} points, more than {GRID_LIMIT:,}; give fewer levels "
            f"(for example levels=3), include fewer groups, or choose another controller"
        )
    return axes


def _controller(name: str, description: str, source: str, sampler: Sampler, **facts: Any) -> Controller:
    return Controller(name, description, source, sampler.start, **facts)


TPE = _controller(
    "tpe",
    "Tree-structured Parzen estimator over all groups jointly, and steps from the best trial; the default.",
    "J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, Algorithms for Hyper-Parameter Optimization, 2011; "
    "S. Falkner, A. Klein, F. Hutter, BOHB, 2018 (joint form)",
    Sampler(_tpe, Lessons(constraints=True, stopped=False), proposer=NearProposer),
    options={
        "joint": "sample all groups together (default) or each alone",
        "near": f"share of proposals that are small steps from the best trial (default {NEAR}); 0 is TPE alone",
        "startup": "random trials before the model is used, baselines counted (default 10)",
        "candidates": "points compared at each proposal (default 24)",
    },
)
CMAES = _controller(
    "cmaes",
    "Covariance matrix adaptation evolution strategy; methods are drawn at random.",
    "N. Hansen, A. Ostermeier, Completely Derandomized Self-Adaptation in Evolution Strategies, 2001",
    Sampler(_cmaes, replay=True),
    pareto=False,
    options={"sigma": f"first step as a share of each range (default {SIGMA})"},
)
GP = _controller(
    "gp",
    "Bayesian optimisation with a Gaussian process; seconds a proposal with many groups.",
    "J. Mockus, V. Tiesis, A. Zilinskas, The Application of Bayesian Methods for Seeking the Extremum, 1978",
    Sampler(_gp, Lessons(constraints=True), proposer=GaussianProposer),
)
NSGA2 = _controller(
    "nsga2",
    "Genetic search with non-dominated sorting.",
    "K. Deb, A. Pratap, S. Agarwal, T. Meyarivan, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002",
    Sampler(_nsga2, Lessons(constraints=True), replay=True),
    options={"population": f"trials in a generation (default {POPULATION})"},
)
NSGA3 = _controller(
    "nsga3",
    "Genetic search towards reference points.",
    "K. Deb, H. Jain, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated "
    "Sorting Approach, Part I, 2014",
    Sampler(_nsga3, Lessons(constraints=True), replay=True),
    options={"population": f"trials in a generation (default {POPULATION})"},
)
RANDOM = _controller(
    "random",
    "Random search over the space.",
    "J. Bergstra, Y. Bengio, Random Search for Hyper-Parameter Optimization, 2012",
    Sampler(_random),
)
GRID = _controller(
    "grid",
    "Every point of a small space in random order.",
    "exhaustive search",
    Sampler(_grid, replay=True, proposer=GridProposer),
)

__all__ = ["CMAES", "GP", "GRID", "NSGA2", "NSGA3", "RANDOM", "TPE", "grid_axes"]
