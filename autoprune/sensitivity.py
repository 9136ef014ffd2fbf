"""Sensitivity: accuracy and loss when one group alone is pruned, without retraining.

The curves show which groups can spare units and how quickly the others break (H. Li, A. Kadav, I. Durdanovic, H. Samet,
H. P. Graf, "Pruning Filters for Efficient ConvNets", 2017).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autoprune.checks import whole
from autoprune.errors import ArtifactError, SettingsError, StudyError, unknown_name
from autoprune.files import write_text
from autoprune.plan import LayerDecision, Plan

if TYPE_CHECKING:
    from autoprune.outcome import Outcome
    from autoprune.space import GroupSpace, SearchSpace

LEVELS = (0.25, 0.5, 0.75, 0.9)
_VERSION = 1


class Judge(Protocol):
    """What evaluates single plans: an objective."""

    @property
    def identity(self) -> dict[str, Any]:
        """What outcomes depend on."""

    @property
    def dense(self) -> Outcome:
        """Outcome of the dense network."""

    def __call__(self, plan: Plan) -> Outcome:
        """Evaluate a plan."""


@dataclass(frozen=True)
class Curve:
    """One group alone.

    Attributes:
        group, size: which.
        removed: units gone, ascending.
        accuracy, loss: with so many gone, ``None`` where the evaluation failed.
    """

    group: str
    size: int
    removed: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    loss: tuple[float | None, ...]

    @property
    def sparsity(self) -> tuple[float, ...]:
        """Achieved sparsities."""
        return tuple(count / self.size for count in self.removed)


@dataclass(frozen=True)
class Sensitivity:
    """Curves of every group, without retraining.

    Attributes:
        method: that chose the units.
        accuracy, loss: of the dense network.
        curves: in the order of the network.
    """

    method: str
    accuracy: float | None
    loss: float | None
    curves: tuple[Curve, ...]

    def curve(self, group: str) -> Curve:
        """The curve of ``group``.

        Raises:
            UnknownNameError: no such group, with near misses.
        """
        for curve in self.curves:
            if curve.group == group:
                return curve
        raise unknown_name("group", group, [c.group for c in self.curves])

    def harm(self, group: str, sparsities: Sequence[float], *, convex: bool = False) -> list[float]:
        """Rise of the loss (of the error where there is no loss) at each sparsity: 0 at 0, never falling.

        Between the points that were evaluated it is read off a straight line, and beyond the last one off the line
        through the last two. A failed evaluation counts as twice the worst harm of the curve.

        Args:
            group: which.
            sparsities: in [0, 1).
            convex: read off the largest convex curve below.
        """
        curve = self.curve(group)
        base, values = (self.loss, curve.loss) if self.loss is not None else (self.accuracy, curve.accuracy)
        sign = 1.0 if self.loss is not None else -1.0
        rise = [None if v is None or base is None else max(sign * (v - base), 0.0) for v in values]
        worst = max((r for r in rise if r is not None), default=1.0)
        x = np.array([0.0, *curve.sparsity])
        y = np.maximum.accumulate([0.0, *(2 * worst if r is None else r for r in rise)])
        if convex:
            x, y = _hull(x, y)
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2]) if len(x) > 1 else 0.0
        return [float(np.interp(s, x, y) + max(s - x[-1], 0.0) * slope) for s in sparsities]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, versioned."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Read what :meth:`to_dict` wrote.

        Raises:
            StudyError: another version, or a form that cannot be read.
        """
        try:
            if data["version"] != _VERSION:
                raise StudyError(f"these sensitivities have version {data['version']!r}, this release reads {_VERSION}")
            curves = tuple(
                Curve(c["group"], c["size"], tuple(c["removed"]), tuple(c["accuracy"]), tuple(c["loss"]))
                for c in data["curves"]
            )
            return cls(data["method"], data["accuracy"], data["loss"], curves)
        except (KeyError, TypeError) as error:
            raise StudyError(f"stored sensitivities cannot be read: {error!r}") from None


def sensitivity(
    objective: Judge,
    space: SearchSpace,
    *,
    method: str | None = None,
    levels: Sequence[float] = LEVELS,
    images: int | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Evaluate every group of ``space`` alone at ``levels``, without retraining.

    Args:
        objective: judges each plan; retraining is left out.
        space: groups, and the counts that rounding allows them.
        method: chooses the units; the space's first one by default.
        levels: sparsities in (0, 1); each group takes the allowed count next to each, and none twice.
        images: of the validation split that judge (:func:`narrowed`); all of them by default.
        cache_dir: results are kept here group by group, so that a killed run goes on where it was.
        progress: called with (evaluations done, of how many).

    Raises:
        SettingsError: a level out of range, or fewer than one image.
        StudyError: not one evaluation worked.
    """
    if not levels or any(not 0 < level < 1 for level in levels):
        raise SettingsError(f"levels of a sensitivity analysis must be in (0, 1), but got {list(levels)!r}")
    if images is not None:
        whole("images of a sensitivity analysis", images, least=1)
        objective = narrowed(objective, images)
    method = method or space.methods[0]
    counts = {g.name: _counts(g, levels) for g in space.groups}
    cache = _Cache(cache_dir, objective, method, space.reconstructions[0])
    faults: list[str] = []
    total, done = sum(map(len, counts.values())), 0
    curves = []
    for group in space.groups:
        found = []
        for removed in counts[group.name]:
            found.append(cache.get(group, removed) or cache.put(group, removed, objective, faults))
            done += 1
            if progress is not None:
                progress(done, total)
        cache.write()
        accuracy, loss = zip(*found, strict=True) if found else ((), ())
        curves.append(Curve(group.name, group.size, counts[group.name], accuracy, loss))
    if faults and len(faults) == total:
        raise StudyError(f"all {total} evaluations of the sensitivity analysis failed; the last one with {faults[-1]}")
    dense = objective.dense
    return Sensitivity(method, dense.accuracy, dense.loss, tuple(curves))


def narrowed(objective: Judge, images: int) -> Judge:
    """``objective`` on ``images`` validation samples, without retraining, races and latencies.

    That is enough to tell which group suffers most; no more samples than that calibrate, either. Those that judge are
    drawn without replacement by the objective's seed, so that equal objectives are narrowed alike. An objective with no
    more of them, or with no samples at all (:mod:`autoprune.problems`), comes back as it is.
    """
    import torch

    from autoprune.finetune import FinetuneSettings
    from autoprune.objective import Objective
    from autoprune.seeding import generator

    if not isinstance(objective, Objective) or len(objective.data.validation) <= images:
        return objective
    settings, data = objective.settings, objective.data
    drawn = torch.randperm(len(data.validation), generator=generator(settings.seed, "sensitivity"))[:images]
    return Objective(
        objective.model,
        replace(data, validation=data.validation.subset(drawn)),
        settings=replace(
            settings,
            finetune=FinetuneSettings(),
            stages=None,
            race=None,
            latency=None,
            precision=objective.precision.name,
            batch_size=objective.batch,
            calibration_samples=min(images, settings.calibration_samples or images),
        ),
        graph=objective.graph,
    )


def _counts(group: GroupSpace, levels: Sequence[float]) -> tuple[int, ...]:
    capped = (min(level, group.max_sparsity) for level in levels)
    return tuple(sorted({group.removals[group.place(level)] for level in capped} - {0}))


class _Cache:
    """Accuracies and losses by group and count, in one file for each network, data, method and repair."""

    def __init__(self, folder: Path | None, objective: Judge, method: str, reconstruction: str) -> None:
        self._method, self._reconstruction = method, reconstruction
        key = json.dumps([objective.identity, method, reconstruction], sort_keys=True)
        name = f"sensitivity-{method}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        self._path = None if folder is None else Path(folder) / name
        self._found: dict[str, list[float | None]] = {}
        self._dirty = False
        if self._path is not None and self._path.is_file():
            try:
                stored = json.loads(self._path.read_text(encoding="utf-8"))
                self._found = {str(k): [v[0], v[1]] for k, v in stored.items()}
            except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError):
                self._found = {}  # what cannot be read is evaluated again

    def get(self, group: GroupSpace, removed: int) -> tuple[float | None, float | None] | None:
        found = self._found.get(f"{group.name}/{removed}")
        return None if found is None else (found[0], found[1])

    def put(
        self, group: GroupSpace, removed: int, objective: Judge, faults: list[str]
    ) -> tuple[float | None, float | None]:
        decision = LayerDecision(group.name, self._method, group.pattern, removed / group.size)
        try:
            outcome = objective(Plan((decision,), self._reconstruction, steps=0))
        except Exception as error:  # noqa: BLE001 - one plan that cannot be evaluated says nothing of the others
            faults.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            return None, None
        self._found[f"{group.name}/{removed}"] = [outcome.accuracy, outcome.loss]
        self._dirty = True
        return outcome.accuracy, outcome.loss

    def write(self) -> None:
        if self._path is None or not self._dirty:
            return
        self._dirty = False
        try:
            write_text(self._path, json.dumps(self._found, indent=1))
        except ArtifactError:
            self._path = None  # a cache that cannot be written is no reason to stop


def _hull(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the largest convex function below the points ``(x, y)``; ``x`` ascending."""
    corners: list[int] = []
    for place in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (y[b] - y[a]) * (x[place] - x[a]) < (y[place] - y[a]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(place)
    return x[corners], y[corners]
