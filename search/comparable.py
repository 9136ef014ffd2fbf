"""Which studies may stand side by side, and what a reader must know where they are not about quite the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError
from autoprune.search.facts import NAMES, leaves

if TYPE_CHECKING:
    from autoprune.search.studies import StoredStudy

# Facts that may differ. Everything else, known or not, must be equal: network, data, budget, what is searched for,
# retraining, and how latency is measured.
FREE = ("objective.seed", "objective.race", "objective.stages")  # none changes what a finished trial is worth
LOOSE = (
    "space",
    "objective.precision",
    "objective.batch_size",
    "objective.combine",
    "objective.calibration_samples",
)
_SEED = "objective.seed"
_MOST = 6  # lines of a message

Leaf = tuple[str, Any, Any]


def check_comparable(studies: Sequence[StoredStudy], *, loose: bool = False) -> tuple[str, ...]:
    """Refuse to compare studies that are about different things; what differs otherwise, as sentences.

    Args:
        studies: at least one.
        loose: whether search spaces, and settings of evaluation that change little, may differ too.

    Raises:
        StudyError: naming the first study that does not belong to the others, and the difference.
    """
    allowed = (*FREE, *(LOOSE if loose else ()))
    first, found = studies[0], dict[tuple[str, str, str], list[str]]()
    for other in studies[1:]:
        apart = list(leaves(first.facts, other.facts))
        refused = [leaf for leaf in apart if not _within(leaf[0], allowed)]
        if refused:
            raise StudyError(_refusal(first, other, refused))
        for path, here, there in apart:
            found.setdefault((path, _told(here), _told(there)), []).append(repr(other.name))
    return _notes(first.name, found)


def _notes(first: str, found: Mapping[tuple[str, str, str], Sequence[str]]) -> tuple[str, ...]:
    """A sentence for each difference, and one for all seeds together."""
    lines = [
        f"Not the same in all: {path} is {here} in {first!r}, {there} in {', '.join(names)}."
        for (path, here, there), names in found.items()
        if path != _SEED
    ]
    if len(lines) > _MOST:
        lines = [*lines[:_MOST], f"And {len(lines) - _MOST} more such differences."]
    if any(path == _SEED for path, _, _ in found):
        lines.append("Retraining, and methods that draw, have each study's own seed.")
    return tuple(lines)


def _within(path: str, allowed: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in allowed)


def _refusal(first: StoredStudy, other: StoredStudy, refused: Sequence[Leaf]) -> str:
    keys = {path.partition(".")[0] for path, _, _ in refused}
    what = ", ".join([name for key, name in NAMES.items() if key in keys] or ["the release that wrote them"])
    lines = [f"  {path}: {_told(a)} in {first.name!r}, {_told(b)} in {other.name!r}" for path, a, b in refused[:_MOST]]
    if len(refused) > _MOST:
        lines.append(f"  and {len(refused) - _MOST} more")
    return "\n".join(
        (
            f"cannot compare the study {other.name!r} in {other.where} with {first.name!r} in {first.where}: "
            f"they differ in {what}",
            *lines,
            _next_step(keys, refused),
        )
    )


def _next_step(keys: set[str], refused: Sequence[Leaf]) -> str:
    if all(_within(path, LOOSE) for path, _, _ in refused):
        return "loose (--loose) compares them all the same, and says so"
    if "model" in keys:
        return "let every search start from the same trained network (--base FOLDER)"
    return "compare studies of the same network, data, budget and retraining"


def _told(value: Any) -> str:
    return "nothing" if value is None else str(value)
