"""What a command is told: frozen settings, the same names as flags, as TOML and in Python."""

from __future__ import annotations

from autoprune.settings.base import NOTES, Settings, read_file
from autoprune.settings.commands import (
    COMMANDS,
    EvaluateSettings,
    ExportSettings,
    InspectSettings,
    PruneSettings,
    SearchSettings,
    StudyExportSettings,
    TrainSettings,
)
from autoprune.settings.runtime import RuntimeEvaluateSettings, RuntimeExportSettings, RuntimeTrainSettings
from autoprune.settings.thresholds import (
    PredictorReportSettings,
    PredictorTrainSettings,
    ReproducePredictorSettings,
)

__all__ = [
    "COMMANDS",
    "NOTES",
    "EvaluateSettings",
    "ExportSettings",
    "InspectSettings",
    "PredictorReportSettings",
    "PredictorTrainSettings",
    "PruneSettings",
    "ReproducePredictorSettings",
    "RuntimeEvaluateSettings",
    "RuntimeExportSettings",
    "RuntimeTrainSettings",
    "SearchSettings",
    "Settings",
    "StudyExportSettings",
    "TrainSettings",
    "read_file",
]
