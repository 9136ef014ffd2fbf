"""The ids that gymnasium knows once :mod:`autoprune.envs` is imported."""

from __future__ import annotations

from typing import Any

#: id -> what :func:`gymnasium.register` is told. Entry points are text, so that specs go to JSON and back.
IDS: dict[str, dict[str, Any]] = {
    "autoprune/Layerwise-v0": {
        "entry_point": "autoprune.envs.layerwise:LayerwiseEnv",
        "vector_entry_point": "autoprune.envs.vector:LayerwiseVectorEnv",
    },
    "autoprune/Refine-v0": {"entry_point": "autoprune.envs.refine:RefineEnv"},
    "autoprune/Runtime-v0": {
        "entry_point": "autoprune.envs.runtime:RuntimeEnv",
        "vector_entry_point": "autoprune.envs.runtime_vector:RuntimeVectorEnv",
    },
}


def register() -> None:
    """Make every id known to gymnasium; once is enough, more do no harm."""
    import gymnasium

    for name, options in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, **options)
