"""What a run was made with."""

from __future__ import annotations

import platform
import sys
from typing import Any


def made_with() -> dict[str, Any]:
    """Versions and machine, for the record."""
    import optuna
    import torch

    from autoprune._version import __version__

    return {
        "autoprune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "arguments": sys.argv[1:],
    }
