"""Settings of the training of a network that decides at run time: frozen, checked when they are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autoprune.checks import in_range, one_of, whole
from autoprune.errors import SettingsError
from autoprune.runtime import PRICES
from autoprune.train_loop import FinetuneSettings

AGENTS = {
    "dqn": "deep Q-learning (V. Mnih et al., Human-Level Control through Deep Reinforcement Learning, 2015)",
    "recurrent_ppo": "proximal policy optimisation with a recurrent policy (J. Schulman et al., 2017)",
}
PATHS = {
    "measured": "from the whole network down, each time the stage becomes narrower that adds the least loss for what "
    "it saves, measured before training",
    "even": "all stages as even as can be",
}


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How controller and backbone are trained in turns.

    After J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017: ``rounds`` times, first the controller learns
    from episodes of the frozen backbone, then the backbone is fine-tuned through what the controller greedily runs.

    Attributes:
        agent: a key of :data:`AGENTS`.
        penalty: reward of each further group, at most 0.
        price: of a group, a factor on the penalty and on the knob: a key of :data:`autoprune.runtime.PRICES`.
        alpha: factor on the loss in the reward; ``None`` for a mean of about 1.
        rounds: M.
        episodes: images that the controller learns from in a round.
        envs: images that go through the network together.
        code, hidden: sizes of the controller.
        lr: learning rate of the controller.
        gamma: discount; 1 suits the few steps of an episode.
        batch_size: transitions in a gradient step.
        updates: gradient steps after each batch of episodes (``dqn``).
        memory: episodes that the replay buffer holds (``dqn``); it is emptied when the backbone has changed.
        target_every: batches of episodes between two copies to the target network (``dqn``).
        epsilon: share of random actions at the end of exploration, which starts with 1 (``dqn``).
        exploration: part of all episodes in which that share falls (``dqn``).
        epochs, clip, entropy: passes over a batch, largest change of a ratio, weight of the bonus (``recurrent_ppo``).
        path: of widths that the backbone is trained along before the first round, a key of :data:`PATHS`. Difficult
            samples go further along it than easy ones.
        prepare_steps: steps of the backbone before the first round.
        finetune_steps: steps of the backbone in a round; 0 leaves it as it is.
        finetune_lr, finetune_batch_size, finetune_weight_decay, finetune_optimizer, finetune_precision: as of
            :class:`autoprune.train_loop.FinetuneSettings`; the rate falls over all rounds.
        finetune_clip_norm: longest gradient; ``None`` for any.
        distill_weight: share of the backbone's loss that follows the outputs of the network that was given.
        distill_temperature: of these outputs.
        serve: growing shares of the dense multiply-accumulates, decisions included, that the knob is to give. Each
            batch of the backbone is trained at the first and once between each two of them. Empty for the knob 0 alone.
        seed: of everything random.

    Raises:
        SettingsError, UnknownNameError: a value that cannot be.
    """

    agent: str = "dqn"
    penalty: float = -0.1
    price: str = "groups"
    alpha: float | None = None
    rounds: int = 3
    episodes: int = 8192
    envs: int = 256
    code: int = 64
    hidden: int = 64
    lr: float = 3e-4
    gamma: float = 1.0
    batch_size: int = 512
    updates: int = 16
    memory: int = 8192
    target_every: int = 1
    epsilon: float = 0.1
    exploration: float = 0.5
    epochs: int = 4
    clip: float = 0.2
    entropy: float = 0.01
    path: str = "measured"
    prepare_steps: int = 200
    finetune_steps: int = 200
    finetune_lr: float = 0.01
    finetune_batch_size: int = 128
    finetune_weight_decay: float = 5e-4
    finetune_optimizer: str = "sgd"
    finetune_precision: str = "auto"
    finetune_clip_norm: float | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    serve: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("agent", self.agent, tuple(AGENTS))
        one_of("price", self.price, PRICES)
        one_of("path", self.path, tuple(PATHS))
        for name in ("rounds", "episodes", "envs", "code", "hidden", "batch_size", "updates", "memory", "target_every"):
            whole(name, getattr(self, name), 1)
        whole("epochs", self.epochs, 1)
        for name in ("prepare_steps", "finetune_steps", "seed"):
            whole(name, getattr(self, name), 0)
        for name in ("gamma", "epsilon", "exploration"):
            in_range(name, getattr(self, name), least=0, most=1)
        for name in ("lr", "clip"):
            in_range(name, getattr(self, name), above=0)
        in_range("entropy", self.entropy, least=0)
        object.__setattr__(self, "serve", tuple(self.serve))
        for share in self.serve:
            in_range("serve", share, above=0, most=1)
        if list(self.serve) != sorted(set(self.serve)):
            raise SettingsError(f"serve must grow from share to share, but got {', '.join(map(str, self.serve))}")
        if isinstance(self.penalty, bool) or not isinstance(self.penalty, (int, float)) or not self.penalty <= 0:
            raise SettingsError(
                f"penalty must be a number of at most 0, the price of a group, but got {self.penalty!r}"
            )
        if self.alpha is not None:
            in_range("alpha", self.alpha, above=0)
        _ = self.finetune

    @property
    def finetune(self) -> FinetuneSettings:
        """Training of the backbone, over all rounds."""
        return FinetuneSettings(
            steps=self.prepare_steps + self.rounds * self.finetune_steps,
            lr=self.finetune_lr,
            batch_size=self.finetune_batch_size,
            weight_decay=self.finetune_weight_decay,
            optimizer=self.finetune_optimizer,
            precision=self.finetune_precision,
            clip_norm=self.finetune_clip_norm,
            distill_weight=self.distill_weight,
            distill_temperature=self.distill_temperature,
        )

    @property
    def turns(self) -> int:
        """Turns of backbone and controller."""
        return bool(self.prepare_steps) + 2 * self.rounds

    @property
    def batches(self) -> int:
        """Batches of episodes in a round."""
        return -(-self.episodes // self.envs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**dataclasses.asdict(self), "serve": list(self.serve)}
