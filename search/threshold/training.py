"""Memory across runs: what stored studies teach, and how well a predictor foretells what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import StudyError
from autoprune.search.baselines import CURVES
from autoprune.search.threshold.ensemble import FitSettings
from autoprune.search.threshold.examples import Examples, study_examples
from autoprune.search.threshold.facts import LAYERS, NetworkFacts, drop_of
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.search.threshold.transfer import between_networks, fitted
from autoprune.sensitivity import Sensitivity

if TYPE_CHECKING:
    from autoprune.search.studies import StoredStudy

FEWEST = 10  # trials that a predictor is made from
TRAINING = FitSettings(steps=1000, lr=0.01)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one study teaches: its network, and its examples; ``curves`` are those of groups pruned alone."""

    study: StoredStudy
    facts: NetworkFacts
    trials: Examples
    curves: Examples


def facts_of_study(study: StoredStudy) -> NetworkFacts:
    """What a study knows of its network.

    Raises:
        StudyError: it was made before studies described their layers, or by another release.
    """
    where = f"the study {study.name!r} in {study.where}"
    if LAYERS not in study.notes:
        raise StudyError(
            f"{where} does not describe its layers, which a predictor learns from: it was made by an earlier release; "
            "run the same search once more (no trial is repeated) and the description is added"
        )
    try:
        facts = NetworkFacts.from_dict(study.notes[LAYERS])
        return facts.knowing(Sensitivity.from_dict(study.notes[CURVES])) if CURVES in study.notes else facts
    except StudyError as error:
        raise StudyError(f"{where}: {error}") from None


def lesson_of(study: StoredStudy) -> Lesson:
    """What ``study`` teaches.

    Raises:
        StudyError: it does not describe its layers.
    """
    facts = facts_of_study(study)
    trials = study_examples(facts, study.trials, curves=False)
    return Lesson(study, facts, trials, study_examples(facts, ()))


def train(studies: Sequence[StoredStudy], *, settings: FitSettings = TRAINING, seed: int = 0) -> Surrogate:
    """A predictor that has learned from every trial of ``studies``.

    Raises:
        StudyError: a study that does not describe its layers, or fewer than :data:`FEWEST` trials in all.
    """
    lessons = [lesson_of(study) for study in studies]
    count = sum(len(lesson.trials) for lesson in lessons)
    if count < FEWEST:
        names = ", ".join(study.name for study in studies) or "none"
        raise StudyError(
            f"a predictor needs at least {FEWEST} evaluated trials, but these studies ({names}) have {count}; "
            "search on, or name more studies"
        )
    return fitted(lessons, settings, seed)


def described(studies: Sequence[StoredStudy], seed: int, settings: FitSettings = TRAINING) -> dict[str, Any]:
    """What is stored with a predictor about its training."""
    lessons = [lesson_of(study) for study in studies]
    return {
        "seed": seed,
        "between_networks": between_networks(lessons, settings, seed),
        "trials": sum(len(lesson.trials) for lesson in lessons),
        "studies": [
            {
                "name": one.study.name,
                "model": one.study.facts["model"],
                "data": one.study.facts["data"],
                "trials": len(one.trials),
                "pruned": pruned_in(one.study),
            }
            for one in lessons
        ],
    }


def pruned_in(study: StoredStudy) -> list[str]:
    """Layers that a trial of ``study`` took something from: of the others nothing can be learned."""
    plans = [trial.plan for trial in study.trials if trial.usable and trial.plan is not None]
    return sorted({decision.layer for plan in plans for decision in plan.decisions})


@dataclass(frozen=True)
class Calibration:
    """A predictor against the trials of one study.

    Attributes:
        study: its name; ``seen``: whether the predictor was trained on this network and all layers that were pruned.
        trials: compared.
        rank_correlation: Spearman's, of predicted and measured drop; ``None`` for fewer than 3 trials.
        error: mean absolute difference of the two, in accuracy; ``bias``: predicted minus measured, mean.
        coverage: share of the trials inside the interval that should hold 68 % and 95 % of them.
        predicted, spread, measured: drops in accuracy of each trial, and a standard deviation.
    """

    study: str
    seen: bool
    trials: int
    rank_correlation: float | None
    error: float
    bias: float
    coverage: dict[str, float]
    predicted: tuple[float, ...]
    spread: tuple[float, ...]
    measured: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


INTERVALS = {"68%": 1.0, "95%": 1.96}


def calibration(surrogate: Surrogate, study: StoredStudy, *, between: float | None = None) -> Calibration:
    """How well ``surrogate`` foretells the trials of ``study``.

    Args:
        surrogate: the predictor.
        study: what was measured.
        between: for a network or layers that it has not seen,
            :func:`~autoprune.search.threshold.transfer.between_networks`.

    Raises:
        StudyError: it does not describe its layers, or has no evaluated trial.
    """
    from scipy.stats import spearmanr

    lesson = lesson_of(study)
    examples, dense = lesson.trials, lesson.facts.accuracy
    if not len(examples):
        raise StudyError(f"the study {study.name!r} in {study.where} has no evaluated trial to compare with")
    found = surrogate.plans(examples)
    spread = np.hypot(found.spread(examples.noise.astype(np.float64)), (between or 0.0) * found.mean)
    away = np.abs(found.mean - examples.harm)
    predicted = np.array([drop_of(float(h), dense) for h in found.mean])
    measured = np.array([drop_of(float(h), dense) for h in examples.harm])
    known = len(examples) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return Calibration(
        study=study.name,
        seen=between is None,
        trials=len(examples),
        rank_correlation=float(spearmanr(predicted, measured).statistic) if known else None,
        error=float(np.abs(predicted - measured).mean()),
        bias=float((predicted - measured).mean()),
        coverage={name: float((away <= z * spread).mean()) for name, z in INTERVALS.items()},
        predicted=tuple(predicted.tolist()),
        spread=tuple((spread * dense * np.exp(-found.mean)).tolist()),
        measured=tuple(measured.tolist()),
    )
