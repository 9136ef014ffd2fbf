"""A training between two turns, on disk: tensors (safetensors) and a description (JSON), no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import ArtifactError, StudyError
from autoprune.files import write_text
from autoprune.runtime import Chain
from autoprune.search.runtime.agents import Agent
from autoprune.search.runtime.backbone import Backbone
from autoprune.tensors import named_tensors, put_tensors, read_tensors, write_tensors

STATE, VERSION = "state.json", 6
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls")


def keep(folder: Path, facts: Mapping[str, Any], agent: Agent, backbone: Backbone) -> None:
    """Write everything that decides how the training goes on; older tensors go once the new ones are known.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    tensors = {f"chain.{name}": t for name, t in named_tensors(backbone.chain).items()}
    tensors |= {f"backbone.{name}": t for name, t in backbone.state.items()}
    tensors |= {f"agent.{name}": t for name, t in _agent_tensors(agent).items()}
    name = f"turn-{facts['turns']:04d}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / name, {key: t.detach().clone().contiguous() for key, t in tensors.items()})
    counters = {c: int(getattr(agent.model, c)) for c in _COUNTERS if hasattr(agent.model, c)}
    state = {"version": VERSION, "tensors": name, "counters": counters, **facts}
    write_text(folder / STATE, json.dumps(state, indent=1, allow_nan=False) + "\n")
    for old in folder.glob("turn-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description in ``folder``, ``None`` where there is none.

    Raises:
        StudyError: it is of a training with other settings or another network.
        ArtifactError: it cannot be read.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if state["version"] != VERSION:
            raise ArtifactError(f"{str(path)!r} has version {state['version']!r}, but this release reads {VERSION}")
        stored = state["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the checkpoint {str(path)!r} cannot be read: {error!r}; start in another folder"
        ) from None
    other = sorted(name for name in {*stored, *identity} if stored.get(name) != identity.get(name))
    if other:
        lines = "\n".join(f"  {name}: {stored.get(name)!r} there, {identity.get(name)!r} here" for name in other)
        raise StudyError(
            f"the training in {str(folder.parent)!r} cannot go on, as it was begun with other settings\n{lines}\n"
            "give the same, or another folder"
        )
    return state


def restore(folder: Path, state: Mapping[str, Any], agent: Agent, backbone: Backbone) -> None:
    """Make agent and backbone, newly built with the same settings, what :func:`keep` stored.

    Raises:
        ArtifactError: the tensors cannot be read, or do not fit.
    """
    tensors = read_tensors(folder / str(state["tensors"]))

    def own(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    put_tensors(backbone.chain, own("chain."))
    backbone.state = own("backbone.")
    _put_agent(agent, own("agent."))
    for name, count in state["counters"].items():
        setattr(agent.model, name, count)


def _agent_tensors(agent: Agent) -> dict[str, Tensor]:
    policy: Any = agent.model.policy
    found = {f"policy.{name}": t for name, t in policy.state_dict().items()}
    found |= {f"known.{name}": t for name, t in agent.known.state_dict().items()}
    found["trust"] = torch.tensor(agent.trust, dtype=torch.float64)
    for place, values in policy.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{place}.{key}": torch.as_tensor(value) for key, value in values.items()}
    return found


def _put_agent(agent: Agent, tensors: Mapping[str, Tensor]) -> None:
    policy: Any = agent.model.policy
    policy.load_state_dict({n.removeprefix("policy."): t for n, t in tensors.items() if n.startswith("policy.")})
    agent.known.load_state_dict({n.removeprefix("known."): t for n, t in tensors.items() if n.startswith("known.")})
    agent.trust = float(tensors["trust"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            state.setdefault(int(place), {})[key] = tensor
    policy.optimizer.load_state_dict({**policy.optimizer.state_dict(), "state": state})


def chain_digest(chain: Chain) -> str:
    """Of the network as it is given."""
    from autoprune.tensors import tensors_digest

    return tensors_digest(named_tensors(chain))
