"""Policies that were learned, as they are stored: a description (JSON) and tensors (safetensors), no pickle.

A policy sees the features of a group and says what happens to it, so it can decide about networks it was not trained
on, as long as the features and the kind of action are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import ArtifactError, SettingsError
from autoprune.files import atomic_folder
from autoprune.search.rl.settings import AgentSettings

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy

    from autoprune.search.rl.learner import Learner
    from autoprune.space import SearchSpace

POLICY = "policy"  # folder in a run folder
POLICY_JSON, POLICY_TENSORS = "policy.json", "policy.safetensors"
FORMAT, VERSION = "autoprune.policy", 1


@dataclass(frozen=True)
class PolicyFacts:
    """What ``policy.json`` says.

    Attributes:
        folder: where it is.
        algorithm, settings: of the learner.
        environment: ``features``, kind of ``actions``, number of ``levels`` and names of ``methods``.
        trained: ``episodes``, ``updates``, and ``model``, ``data``, ``groups`` and ``budget`` that it was trained on.
    """

    folder: Path
    algorithm: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    trained: Mapping[str, Any]

    def check(self, space: SearchSpace) -> None:
        """Refuse a search space that the policy cannot decide about.

        Raises:
            SettingsError: other features, or other actions.
        """
        here = environment_of(str(self.environment["actions"]), space)
        for name, what in _MUST_AGREE.items():
            if self.environment.get(name) != here[name]:
                raise SettingsError(
                    f"the policy in {str(self.folder)!r} was trained with {what} {_shown(self.environment.get(name))}, "
                    f"but this search has {_shown(here[name])}; search with the same, or train another policy"
                )


_MUST_AGREE = {"features": "the features", "levels": "this many levels:", "methods": "the methods"}


def environment_of(actions: str, space: SearchSpace) -> dict[str, Any]:
    """What a policy for ``space`` must agree with.

    ``levels`` matter to discrete actions only, ``methods`` to kinds of action that choose one.
    """
    from autoprune.envs import FEATURES
    from autoprune.envs.actions import get_coding

    discrete = actions in ("discrete", "multidiscrete")
    return {
        "actions": actions,
        "features": [name for name, *_ in FEATURES],
        "levels": get_coding(actions, space).levels if discrete else None,
        "methods": None if actions == "sparsity" else list(space.methods),
    }


def store_policy(folder: Path, learner: Learner, model: BaseAlgorithm) -> None:
    """Write the policy of a learner, whole or not at all.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    from autoprune.search.rl.checkpoint import releases
    from autoprune.search.rl.learner import kind_of_actions

    context = learner.context
    identity = context.objective.identity
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "algorithm": learner.name,
        "settings": learner.settings.learning(),
        "environment": environment_of(kind_of_actions(learner.settings, context.space), context.space),
        "trained": {
            "episodes": learner.course.episodes,
            "updates": int(model._n_updates),
            "seed": context.seed,
            "model": identity["model"],
            "data": identity["data"],
            "groups": len(context.space.groups),
            "budget": context.target.budget.to_dict(),
            "handling": "project" if context.shifted else "reject",
        },
        "made_with": releases(),
    }
    with atomic_folder(folder) as temporary:
        save_file({k: v.contiguous() for k, v in model.policy.state_dict().items()}, temporary / POLICY_TENSORS)
        (temporary / POLICY_JSON).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_policy(folder: str | Path) -> PolicyFacts:
    """The description of the policy in ``folder``, or in ``folder/policy`` of a run folder.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    folder = Path(folder)
    if not (folder / POLICY_JSON).is_file() and (folder / POLICY / POLICY_JSON).is_file():
        folder = folder / POLICY
    try:
        data = json.loads((folder / POLICY_JSON).read_text(encoding="utf-8"))
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ArtifactError(
                f"{str(folder / POLICY_JSON)!r} is {data['format']!r} of version {data['version']!r}, but this release "
                f"reads {FORMAT!r} of version {VERSION}; train the policy again"
            )
        return PolicyFacts(folder, data["algorithm"], data["settings"], data["environment"], data["trained"])
    except OSError as error:
        raise ArtifactError(
            f"there is no policy in {str(folder)!r} ({error.strerror or error}); "
            "a search with a learner, such as ddpg, stores one in the folder 'policy' of its run folder"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{str(folder / POLICY_JSON)!r} cannot be read: {error!r}") from None


class Policy:
    """A stored policy, ready to decide about the groups of ``space``.

    Args:
        facts: of :func:`read_policy`.
        space: what may be decided.

    Raises:
        SettingsError: the space is not of the kind that the policy knows.
        ArtifactError: its tensors cannot be read.
    """

    def __init__(self, facts: PolicyFacts, space: SearchSpace) -> None:
        from autoprune.search.rl import AGENTS

        facts.check(space)
        self.facts = facts
        if facts.algorithm not in AGENTS:
            raise ArtifactError(
                f"the policy in {str(facts.folder)!r} is of {facts.algorithm!r}, which is no learner here"
            )
        self.settings = AGENTS[facts.algorithm].settings.make(facts.settings)
        self.network = _network(facts, self.settings, space)

    def act(
        self, seen: NDArray[np.float32], masks: NDArray[np.bool_] | None = None, *, noise: float | None = None
    ) -> Any:
        """What happens to the group whose features are ``seen``.

        Args:
            seen: ``[F]`` features.
            masks: of a learner that takes them: what is allowed.
            noise: ``None`` for the best action, else a draw: from the policy's own distribution, or around the action
                of a deterministic one, with this standard deviation as a share of the range. It comes from the
                generators of the process.
        """
        from autoprune.search.rl.exploration import RANGE, truncated_normal
        from autoprune.search.rl.settings import DeterministicSettings

        named: dict[str, Any] = {} if masks is None else {"action_masks": masks}
        action, _ = self.network.predict(seen, deterministic=noise is None, **named)
        if noise is not None and isinstance(self.settings, DeterministicSettings):
            return truncated_normal(action, RANGE * noise, np.random.random(action.shape))
        return action


def load_policy(folder: str | Path, space: SearchSpace) -> Policy:
    """The policy that a search stored in ``folder`` (or in its ``policy``), for the groups of ``space``.

    Raises:
        ArtifactError: there is none, or it cannot be read.
        SettingsError: the space is not of the kind that the policy knows.
    """
    return Policy(read_policy(folder), space)


def _network(facts: PolicyFacts, settings: AgentSettings, space: SearchSpace) -> BasePolicy:
    from gymnasium import spaces
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from autoprune.envs.actions import get_coding
    from autoprune.search.rl.agents import build_policy

    observed = spaces.Box(0.0, 1.0, (len(facts.environment["features"]),), np.float32)
    coding = get_coding(str(facts.environment["actions"]), space)
    network = build_policy(facts.algorithm, settings, observed, coding.space)
    path = facts.folder / POLICY_TENSORS
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        raise ArtifactError(f"the tensors of the policy in {str(path)!r} cannot be read: {text}") from None
    return network


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
