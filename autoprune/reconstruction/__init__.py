"""How the layers that lose inputs are repaired, in closed form, from moments of the dense network's inputs."""

from __future__ import annotations

from autoprune.reconstruction.network import DEFAULT_RIDGE, RepairReport, repair_module, repairable
from autoprune.reconstruction.repairs import (
    RECONSTRUCTIONS,
    Reconstruction,
    Repair,
    get_reconstruction,
    output_error,
)

__all__ = [
    "DEFAULT_RIDGE",
    "RECONSTRUCTIONS",
    "Reconstruction",
    "Repair",
    "RepairReport",
    "get_reconstruction",
    "output_error",
    "repair_module",
    "repairable",
]
