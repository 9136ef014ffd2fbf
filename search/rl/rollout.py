"""A stored policy as a controller: its best plan for this network first, then plans drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import SettingsError
from autoprune.search.base import Context, Controller
from autoprune.search.driving import Driver, Judge
from autoprune.search.result import best_of
from autoprune.search.rl.policy import Policy, read_policy
from autoprune.seeding import derive

if TYPE_CHECKING:
    from autoprune.search.base import Point
    from autoprune.search.records import TrialRecord
    from autoprune.space import SearchSpace

NOISE = 0.1  # around deterministic policies, once their best plan is known
OPTIONS = {
    "folder": "of the policy: the 'policy' of a run folder, or that run folder; must be given",
    "noise": f"standard deviation around a policy that is deterministic, as a share of the range (default {NOISE})",
}


class RollOut(Driver):
    """Episodes of a stored policy; it learns nothing."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.noise = float(context.options.get("noise", NOISE))
        self.facts = read_policy(str(context.options["folder"]))

    def notes(self, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
        """How well the policy serves this network."""
        mine = [t for t in trials if t.controller == ROLL_OUT.name and not t.baseline]
        if not mine:
            return ()
        same = self.facts.trained.get("model") == self.context.objective.identity["model"]
        where = "this network" if same else "another network"
        text = (
            f"Policy of {self.facts.algorithm}, {self.facts.trained['episodes']} episodes on {where}: its best plan is "
        )
        text += _told(mine[0])
        drawn = best_of(mine[1:])
        return (f"{text}; the best of {len(mine) - 1} draws is {_told(drawn)}." if drawn is not None else f"{text}.",)

    def drive(self, judge: Judge) -> None:
        """The greedy plan, then draws; each depends on the seed and its place alone."""
        import numpy as np
        import torch

        from autoprune.search.rl.episodes import TrialEnv
        from autoprune.search.rl.isolation import Apart

        apart = Apart()

        def ask(values: Point) -> TrialRecord:
            with apart.waiting():
                return judge(values)

        with apart.learning():
            policy = Policy(self.facts, self.context.space)
            env = TrialEnv(self.context, str(self.facts.environment["actions"]), policy.settings.reward, ask)
            episode = 0
            while not judge.over:
                seed = derive(self.context.seed, "policy", episode)
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                self._episode(policy, env, None if episode == 0 else self.noise)
                episode += 1

    def _episode(self, policy: Policy, env: Any, noise: float | None) -> None:
        masked = self.facts.algorithm == "maskable_ppo"
        seen, _ = env.reset()
        done = False
        while not done:
            action = policy.act(seen, env.action_masks() if masked else None, noise=noise)
            seen, _, done, _, _ = env.step(action)


def _told(record: TrialRecord) -> str:
    return (
        f"trial {record.number} ({record.status if record.accuracy is None else f'validation {record.accuracy:.2%}'})"
    )


def verify(options: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse options that cannot be.

    Raises:
        SettingsError: no folder, noise that is no share, or a policy for another kind of space.
        ArtifactError: no policy in the folder.
    """
    if not options.get("folder"):
        raise SettingsError(
            "controller 'policy' needs the option 'folder': where a search with a learner stored its policy"
        )
    noise = options.get("noise", NOISE)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise <= 1:
        raise SettingsError(f"option 'noise' must be a number from 0 to 1, but got {noise!r}")
    read_policy(str(options["folder"])).check(space)


ROLL_OUT = Controller(
    "policy",
    "A policy that a learner stored, rolled out on this network: its best plan, then draws from it; learns nothing.",
    "transfer of a learned policy, as in: Y. He et al., AMC: AutoML for Model Compression, 2018",
    RollOut,
    pareto=False,
    options=OPTIONS,
    drives=True,
    extra="rl",
    packages=("gymnasium", "stable_baselines3", "sb3_contrib"),
    verify=verify,
)
