"""The features of one decision about one group: what the predictor sees, in a fixed order and version.

Source: "Using Neural networks for Convolutional Neural network compression" asks for such a table of trials (its
section IV) and names batch size, pruning ratio and number of filters as columns that it should have had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import StudyError
from autoprune.search.threshold.facts import GroupFacts, NetworkFacts
from autoprune.thresholds import threshold_of

VERSION = 1
Rows = NDArray[np.float32]

#: (name, meaning, unit) of what never changes.
LAYER: tuple[tuple[str, str, str], ...] = (
    ("convolution", "whether a convolution makes the units, else a linear layer", "0 or 1"),
    ("layers", "layers that make the units together", "count"),
    ("units", "units (filters) of the group", "log2"),
    ("inputs", "input channels that one unit reads, summed over its layers", "log2"),
    ("kernel", "side of the kernel, the largest", "pixels"),
    ("stride", "stride, the largest", "pixels"),
    ("output", "side of the output", "log2 of pixels"),
    ("params", "parameters of the layers", "log10"),
    ("macs", "multiply-accumulates of the layers for one sample", "log10"),
    ("params_share", "share of the dense network's parameters", "share"),
    ("macs_share", "share of the dense network's multiply-accumulates", "share"),
    ("depth", "place of the first layer, 1 for the last of the network", "share"),
)
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
METHODS = ("l1_norm", "l2_norm", "fpgm")
FEATURES: tuple[tuple[str, str, str], ...] = (
    *LAYER,
    *((f"norm_{q}", f"quantile of the norms at {q} %", "mean norm") for q in QUANTILES),
    *((f"by_{m}", f"whether the norms are those of {m}", "0 or 1") for m in METHODS),
    ("threshold", "units with a norm below it go", "mean norm"),
    ("removed", "units that go", "share"),
    ("kept_before", "what stays of the groups that this one reads, mean", "share"),
    ("kept_after", "what stays of the groups that read this one, mean", "share"),
    ("accuracy", "validation accuracy of the dense network", "share"),
    ("steps", "steps of retraining", "log2(1 + steps)"),
    ("batch", "samples in a step, 0 without retraining", "log2(1 + samples)"),
    ("images", "validation samples that judge", "log10"),
    ("alone", "harm when this group alone is pruned so far, without retraining", "log10(0.003 + harm)"),
    ("alone_known", "whether that was measured on this network", "0 or 1"),
)
NAMES = tuple(name for name, *_ in FEATURES)
THRESHOLD, REMOVED, BEFORE, AFTER = (NAMES.index(n) for n in ("threshold", "removed", "kept_before", "kept_after"))
RETRAINING = tuple(NAMES.index(n) for n in ("accuracy", "steps", "batch"))
_STEPS, _BATCH, _IMAGES = (NAMES.index(n) for n in ("steps", "batch", "images"))
_FLOOR = 0.003


def definition() -> dict[str, object]:
    """What a stored predictor must agree with."""
    return {"version": VERSION, "names": list(NAMES)}


@dataclass(frozen=True)
class Judged:
    """How plans are judged: retraining steps, samples in a step, validation samples."""

    steps: int
    batch: int
    images: int


def static_row(group: GroupFacts, method: str, facts: NetworkFacts) -> Rows:
    """Features ``[F]`` of a group by one method, with nothing removed; how it is judged is filled in later.

    Raises:
        StudyError: the norms by this method are not known.
    """
    if method not in group.norms:
        raise StudyError(f"the norms of {group.name!r} by {method!r} are not known; search with this method again")
    norms = np.quantile(group.norms[method], np.array(QUANTILES) / 100)
    layer = [group.layer[name] for name, *_ in LAYER]
    chosen = [float(method == m) for m in METHODS]
    rest = [0.0, 0.0, 1.0, 1.0, facts.accuracy, 0.0, 0.0, 0.0, 0.0, 0.0]
    return np.array([*layer, *norms, *chosen, *rest], dtype=np.float32)


def decided_rows(group: GroupFacts, method: str, removed: Sequence[int], facts: NetworkFacts) -> Rows:
    """Features ``[K, F]`` of a group with each of ``removed`` units gone, its neighbours whole, not judged yet."""
    rows = np.repeat(static_row(group, method, facts)[None], len(removed), 0)
    shares = group.norms[method]
    for row, count in zip(rows, removed, strict=True):
        sparsity = count / group.size
        alone = group.harm_alone(sparsity)
        row[THRESHOLD], row[REMOVED] = threshold_of(shares, count), sparsity
        row[-2], row[-1] = math.log10(_FLOOR + max(alone or 0.0, 0.0)), float(alone is not None)
    return rows


def judged(rows: Rows, how: Judged) -> Rows:
    """``rows`` with how they are judged, in place."""
    rows[:, _STEPS] = math.log2(1 + how.steps)
    rows[:, _BATCH] = math.log2(1 + how.batch) if how.steps else 0.0
    rows[:, _IMAGES] = math.log10(max(how.images, 1))
    return rows


def kept_around(group: GroupFacts, kept: Mapping[str, float]) -> tuple[float, float]:
    """(before, after): mean share that stays of the neighbours of ``group``; 1 where it has none."""
    before = [kept.get(name, 1.0) for name in group.before]
    after = [kept.get(name, 1.0) for name in group.after]
    return (sum(before) / len(before) if before else 1.0, sum(after) / len(after) if after else 1.0)


def plan_rows(facts: NetworkFacts, decisions: Mapping[str, tuple[str, int]], how: Judged) -> Rows:
    """Features ``[G, F]`` of a plan, one row for each group that loses units.

    Args:
        facts: of the network.
        decisions: (method, units that go, at least one) by group.
        how: the plan is judged.

    Raises:
        StudyError: a group or a method of which nothing is known.
    """
    kept = {
        name: 1.0 - count / facts.groups[name].size for name, (_, count) in decisions.items() if name in facts.groups
    }
    rows = []
    for name, (method, count) in decisions.items():
        if name not in facts.groups:
            raise StudyError(f"the plan decides about {name!r}, of which the study does not know the layers")
        (row,) = decided_rows(facts.groups[name], method, (count,), facts)
        row[BEFORE], row[AFTER] = kept_around(facts.groups[name], kept)
        rows.append(row)
    stacked = np.stack(rows) if rows else np.zeros((0, len(NAMES)), np.float32)
    return judged(stacked, how)
