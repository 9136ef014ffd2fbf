"""Errors a user can cause. Each says what must hold, what came, where, and the next step.

The command line turns every :class:`AutopruneError` into one line and exit code 2; anything else is a fault of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutopruneError(Exception):
    """Base of every error that bad input, a bad file or a bad environment causes."""


class UnknownNameError(AutopruneError):
    """A name that no registry, graph or folder knows."""


class SettingsError(AutopruneError):
    """A setting outside what it may be."""


class PlanError(AutopruneError):
    """A plan that does not fit its network."""


class GraphError(AutopruneError):
    """A network that could not be traced."""


class ChainError(AutopruneError):
    """A network that cannot be cut into stages, or a decision that does not fit its stages."""


class DataError(AutopruneError):
    """A dataset that is missing, corrupt or not what it says."""


class ModelError(AutopruneError):
    """A network that could not be built, loaded or called."""


class TrainingDiverged(AutopruneError):  # noqa: N818 - it names what happened
    """A training loss, or a weight, that is no longer a finite number."""

    def __init__(self, step: int, what: str) -> None:
        self.step = step
        super().__init__(f"training diverged at step {step}: {what}; lower the learning rate")


class MethodError(AutopruneError):
    """A method that was asked for something it cannot do."""


class BudgetError(AutopruneError):
    """A budget that cannot be read or cannot be met."""


class EnvError(AutopruneError):
    """An action, an option or a call that an environment cannot take."""


class StudyError(AutopruneError):
    """A study or run folder that cannot be opened, continued or read."""


class ArtifactError(AutopruneError):
    """A stored network that cannot be written or read."""


class MissingExtraError(AutopruneError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        what = package if extra is None else f"'autoprune[{extra}]'"
        super().__init__(f"{purpose} needs the package '{package}'; install it with: pip install {what}")


def unknown_name(kind: str, name: str, known: Iterable[str], *, limit: int = 12) -> UnknownNameError:
    """An error for ``name``, with near misses and what is known: ``unknown method 'magnitud'; did you mean ...``."""
    names = sorted(str(k) for k in known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    shown = ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (known: {shown or 'none'})")
