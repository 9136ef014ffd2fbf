"""How far a predictor is off on a network that it has not seen: what an ensemble of one mind cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoprune.search.threshold.ensemble import FitSettings
from autoprune.search.threshold.examples import Examples
from autoprune.search.threshold.surrogate import Surrogate

if TYPE_CHECKING:
    from autoprune.search.threshold.training import Lesson

PRIOR = 1.0  # of the harm: on a network of which nothing is known, a prediction may be off by as much as it says


def between_networks(lessons: Sequence[Lesson], settings: FitSettings, seed: int) -> float:
    """Standard deviation between networks, as a share of the predicted harm.

    Each network in turn is foretold by a predictor that learned from the others alone. What its trials are off by
    beyond what that predictor expected is one observation of the spread, and :data:`PRIOR` counts as one more: with a
    single network nothing was observed.
    """
    by_network: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        by_network.setdefault(str(lesson.study.facts["model"]), []).append(lesson)
    if len(by_network) < 2:
        return PRIOR
    squares = [PRIOR**2]
    for network, own in by_network.items():
        others = [lesson for name, group in by_network.items() if name != network for lesson in group]
        squares.append(_square(fitted(others, settings, seed), own))
    return float(np.sqrt(np.mean(squares)))


def fitted(lessons: Sequence[Lesson], settings: FitSettings, seed: int) -> Surrogate:
    """A predictor that has learned from these lessons."""
    return Surrogate.fitted(Examples.joined(p for one in lessons for p in (one.trials, one.curves)), settings, seed)


def _square(surrogate: Surrogate, lessons: Sequence[Lesson]) -> float:
    """Square of the relative error that is left on these trials; never below 0."""
    examples = Examples.joined(lesson.trials for lesson in lessons)
    found = surrogate.plans(examples)
    beyond = (found.mean - examples.harm) ** 2 - found.spread(examples.noise.astype(np.float64)) ** 2
    return float(max(0.0, beyond.sum()) / max((found.mean**2).sum(), 1e-12))
