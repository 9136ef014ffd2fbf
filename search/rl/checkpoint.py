"""A learner between two episodes, on disk: networks, optimizers, replay buffer, counters, random numbers.

Between episodes nothing is in flight, so this is all there is to it. Files hold tensors and plain values and are read
without unpickling objects.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from autoprune.files import write_bytes
from autoprune.search.rl.replay import EpisodeReplay

VERSION = 1
_COUNTERS = ("num_timesteps", "_episode_num", "_n_updates")
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones")
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def releases() -> dict[str, str]:
    """Of the libraries that decide what a learner does."""
    return {name: version(name) for name in ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")}


def learner_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Everything that decides what ``model`` does next; the generators of the process are taken for its own."""
    _, variables = model._get_torch_save_params()
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name).detach().clone() for name in variables},
        "counters": {name: int(getattr(model, name)) for name in _COUNTERS},
        "torch": torch.get_rng_state(),
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "rest": [int(place), int(has_gauss), float(gauss)],
        },
        "actions": json.dumps(model.action_space.np_random.bit_generator.state),
    }
    if isinstance(model, OffPolicyAlgorithm):
        state["replay"] = _replay_state(model.replay_buffer)
    return state


def restore(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Make ``model``, newly built with the same settings, what :func:`learner_state` was taken of."""
    model.set_parameters(state["parameters"], exact_match=True, device="cpu")
    with torch.no_grad():
        for name, value in state["variables"].items():
            recursive_getattr(model, name).copy_(value)
    for name, count in state["counters"].items():
        setattr(model, name, count)
    if isinstance(model, OffPolicyAlgorithm):
        _restore_replay(model.replay_buffer, state["replay"])
    model.action_space.np_random.bit_generator.state = json.loads(state["actions"])
    torch.set_rng_state(state["torch"])
    numpy = state["numpy"]
    np.random.set_state((numpy["kind"], numpy["keys"].numpy().astype(np.uint32), *numpy["rest"]))


def _replay_state(buffer: Any) -> dict[str, Any]:
    assert isinstance(buffer, EpisodeReplay)
    arrays = {name: torch.from_numpy(getattr(buffer, name)[: buffer.size()].copy()) for name in _ARRAYS}
    return {**arrays, "place": buffer.pos, "full": buffer.full, "mean": buffer.mean}


def _restore_replay(buffer: Any, state: dict[str, Any]) -> None:
    assert isinstance(buffer, EpisodeReplay)
    for name in _ARRAYS:
        getattr(buffer, name)[: len(state[name])] = state[name].numpy()
    buffer.pos, buffer.full, buffer.mean = state["place"], state["full"], state["mean"]


def write_checkpoint(path: Path, facts: dict[str, Any], model: BaseAlgorithm) -> None:
    """Write ``model`` with ``facts`` about it (plain values), whole or not at all.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    data = io.BytesIO()
    torch.save({"version": VERSION, "releases": releases(), "facts": facts, "learner": learner_state(model)}, data)
    write_bytes(path, data.getvalue())


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(facts, state of the learner); ``None`` where there is no file, or one that is damaged or of other releases."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["version"] != VERSION or stored["releases"] != releases():
            return None
        return dict(stored["facts"]), dict(stored["learner"])
    except _UNREADABLE:
        return None
