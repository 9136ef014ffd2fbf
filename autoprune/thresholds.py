"""Thresholds on the norms of filters, in units of their layer's mean norm, and the counts that they stand for.

A threshold removes the units whose score lies below it. ``U`` units of a group; ``shares`` are their scores, ascending,
divided by the mean score, so that layers of every size and scale compare.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import MethodError, PlanError
from autoprune.files import write_text
from autoprune.plan import LayerDecision, Plan

if TYPE_CHECKING:
    from autoprune.graph import LayerGraph

Floats = NDArray[np.float64]


def sorted_shares(scores: Any) -> Floats:
    """Scores ``[U]`` (a tensor or numbers) ascending, in units of their mean; as they are where the mean is 0.

    >>> sorted_shares([3.0, 1.0, 2.0]).tolist()
    [0.5, 1.0, 1.5]
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    mean = float(np.abs(values).mean()) if len(values) else 0.0
    return values / mean if mean > 0 else values


def units_below(shares: Floats, threshold: float) -> int:
    """Units that ``threshold`` removes: those below it, but at least one stays.

    >>> [units_below(np.array([0.5, 1.0, 1.5]), t) for t in (0.0, 0.5, 0.8, 9.0)]
    [0, 0, 1, 2]
    """
    return min(int(np.searchsorted(shares, threshold, side="left")), max(len(shares) - 1, 0))


def threshold_of(shares: Floats, removed: int) -> float:
    """The threshold half way between the last of ``removed`` units and the first that stays; 0 for none.

    >>> threshold_of(np.array([0.5, 1.0, 1.5]), 2)
    1.25
    """
    return 0.0 if removed <= 0 else float(shares[removed - 1] + shares[removed]) / 2


def knee(shares: Floats) -> int:
    """Units to remove by the knee of the sorted norms: the rule that stands for a person who looks at the plot.

    The knee is the point farthest from the chord between the first and the last one (V. Satopaa, J. Albrecht, D. Irwin,
    B. Raghavan, "Finding a Kneedle in a Haystack", 2011). Below the chord it ends a flat part of small norms, which
    goes with it; above the chord it begins a flat part of large norms, which stays. Nothing goes where all are equal.

    >>> knee(np.array([0.5, 0.5, 0.5, 0.5, 3.0])), knee(np.array([0.1, 0.2, 1.2, 1.2, 1.2]))
    (4, 2)
    """
    if len(shares) < 3 or shares[-1] <= shares[0]:
        return 0
    line = np.linspace(0.0, 1.0, len(shares))
    above = (shares - shares[0]) / (shares[-1] - shares[0]) - line
    distances = np.abs(above).round(12)
    place = int(distances.argmax())
    if distances[place] == 0:
        return 0
    return place if above[place] > 0 else place + 1


@dataclass(frozen=True)
class Thresholds:
    """Thresholds chosen by hand, by the knee, or by a predictor.

    Attributes:
        values: by layer or group, in units of the layer's mean norm.
        method: that gives the norms, ``None`` where whoever prunes says so.
    """

    values: Mapping[str, float]
    method: str | None = None

    def plan(self, graph: LayerGraph, scores: Any, method: str, reconstruction: str = "none") -> Plan:
        """The plan that removes what lies below; layers that are not named stay whole.

        Args:
            graph: of the network.
            scores: gives the scores ``[U]`` of a group: ``scores(group, method)``.
            method: used where the thresholds name none.
            reconstruction: of the plan.

        Raises:
            UnknownNameError: a layer that does not exist, with near misses.
            PlanError: two layers of one group, a group that must stay whole, or thresholds that remove nothing.
            MethodError: a method that gives negative scores.
        """
        method = self.method or method
        decisions: dict[str, LayerDecision] = {}
        for name, threshold in self.values.items():
            group = graph.group(name)
            if group.name in decisions:
                raise PlanError(f"two thresholds for the group {group.name!r}, whose layers go together; keep one")
            if group.protected is not None and threshold > 0:
                raise PlanError(f"group {group.name!r} must stay whole: {group.protected}; leave out its threshold")
            shares = sorted_shares(scores(group.name, method))
            if len(shares) and shares[0] < 0:
                raise MethodError(f"method {method!r} gives negative scores, which thresholds cannot divide")
            sparsity = units_below(shares, threshold) / group.size
            decisions[group.name] = LayerDecision(group.name, method, group.pattern, sparsity)
        kept = tuple(decisions[name] for name in graph.groups if name in decisions and decisions[name].sparsity > 0)
        if not kept:
            raise PlanError("the thresholds remove nothing: every norm lies above its layer's; raise them")
        return Plan(kept, reconstruction)

    def save(self, path: Path) -> None:
        """Write a JSON file that :meth:`load` reads.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        data = {"method": self.method, "thresholds": {name: round(value, 6) for name, value in self.values.items()}}
        write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Thresholds:
        """Read a JSON or TOML file: ``{"method": "l1_norm", "thresholds": {layer: number}}``, or the inner table alone.

        Raises:
            PlanError: it cannot be read, or holds something else.
        """
        data = _read(path)
        inner = data.get("thresholds", data)
        method = data.get("method") if "thresholds" in data else None
        if not isinstance(inner, dict) or not inner or not isinstance(method, str | None):
            raise PlanError(f'{str(path)!r} must hold thresholds by layer, such as {{"conv1": 0.8}}')
        for name, value in inner.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise PlanError(
                    f"the threshold of layer {name!r} in {str(path)!r} must be a finite number from 0 on (in units of "
                    f"the layer's mean norm), but got {value!r}"
                )
        return cls({name: float(value) for name, value in inner.items()}, method)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise PlanError(f"cannot read the thresholds {str(path)!r}: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8, not JSON, not TOML
        raise PlanError(f"the thresholds {str(path)!r} are not JSON or TOML: {error}") from None
    if not isinstance(data, dict):
        raise PlanError(f"{str(path)!r} must hold thresholds by layer, but holds a {type(data).__name__}")
    return data
