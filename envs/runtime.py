"""``autoprune/Runtime-v0``: an image goes through a network, and each stage runs as many groups as is decided."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from autoprune.envs.passage import BOUND, Floats, Passage, Pay
from autoprune.envs.runtime_task import RuntimeTask, make_runtime_task
from autoprune.errors import EnvError, SettingsError, unknown_name

OPTIONS = ("index",)
PENALTY = -0.1
_WIDTH = 24  # characters of a bar


class RuntimeEnv(gymnasium.Env[Floats, Any]):
    """Runtime pruning as a Markov decision process: an episode is one image, a step is one stage of the network.

    Source: J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017.

    **Observation** ``Box(float32, (width + 1,))``, a new array at each step: the features of the stages so far side by
    side, zeros for those to come, and in the last column the index of the stage to be decided (``len(task)`` after the
    last one). The features of a stage are the means over positions of what enters it, one for each channel, zero for
    channels that were skipped; within +-1e6. This is what :meth:`autoprune.runtime.Controller.forward` takes.

    **Action** ``Discrete(k)``: action ``a`` runs groups 1 to ``a + 1`` of the stage's channels and skips the rest.

    **Reward** ``a * penalty`` at each stage, times its price, and ``-alpha * cross-entropy`` on top after the last. All
    of it adds up to the loss and the price of what was run; a discount of 1 suits it.

    **Info** of :meth:`reset`: ``index`` of the image in its split. Of a step: ``groups`` that were run and ``macs``,
    the share of the dense network's multiply-accumulates, with what is not decided yet left whole; of the last one also
    ``label``, ``prediction`` and ``loss``. JSON-ready, no times.

    **End** after as many steps as there are stages, always terminated, never truncated.

    **Randomness** images are drawn uniformly, with ``np_random``; all else follows from the actions.

    Args:
        task: a name in :data:`autoprune.envs.RUNTIME_TASKS`, or a :class:`~autoprune.envs.RuntimeTask`; with
            ``task_options`` as :func:`autoprune.envs.make_runtime_task` takes them: ``base``, ``model``, ``data``,
            ``groups``, ...
        penalty: for each further group, at most 0.
        price: of a group, a factor on the penalty: ``groups`` for 1 at every stage, as in the paper; ``macs`` for what
            it costs in multiply-accumulates next to the mean of the stages (:meth:`autoprune.runtime.Chain.prices`).
        alpha: factor on the loss; by default such that its mean is about 1
            (:attr:`autoprune.envs.RuntimeTask.alpha`).
        split: whose images are drawn: ``train``, ``calibration``, ``validation``, ``test``.
        render_mode: ``ansi``.

    Raises:
        UnknownNameError: a task, option, price, split or render mode that does not exist.
        SettingsError: an option outside what it may be.
        ChainError: a network that cannot be cut into stages, or into that many groups.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - as gymnasium's

    def __init__(
        self,
        task: str | RuntimeTask = "digits",
        *,
        penalty: float = PENALTY,
        price: str = "groups",
        alpha: float | None = None,
        split: str = "train",
        render_mode: str | None = None,
        **task_options: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown_name("render mode", render_mode, self.metadata["render_modes"])
        self.task = make_runtime_task(task, **task_options)
        prices = self.task.chain.prices(price)
        self.passage = Passage(self.task, split, Pay(penalty, self.task.alpha if alpha is None else alpha, prices))
        self.observation_space, self.action_space = observed(self.task), spaces.Discrete(self.task.chain.groups)
        self.render_mode = render_mode
        self._return = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin with another image.

        Args:
            seed: of the images drawn from here on.
            options: ``index``, the image to take.

        Raises:
            UnknownNameError: another option.
            SettingsError: an image that the split does not have.
            EnvError: an image with values that are not finite.
        """
        given = wanted(options, self.passage.images)
        super().reset(seed=seed)
        index = drawn(self.np_random, self.passage.images) if given is None else given
        seen = self.passage.begin(np.array([index]))
        self._return = 0.0
        return seen[0], {"index": index}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Run a stage.

        Raises:
            EnvError: an action that is not of the action space (then nothing is changed), no :meth:`reset` before it,
                or an episode that has ended.
        """
        groups = checked(np.asarray(action)[None] if np.ndim(action) == 0 else None, action, self.task.chain.groups)
        seen, reward = self.passage.step(groups)
        self._return += float(reward[0])
        info: dict[str, Any] = {"groups": int(groups[0]), "macs": float(self.passage.shares[0])}
        end = self.passage.end
        if end is not None:
            info |= {"label": int(end.labels[0]), "prediction": int(end.predictions[0]), "loss": float(end.losses[0])}
        return seen[0], float(reward[0]), end is not None, False, info

    def render(self) -> str | None:
        """What was run of each stage so far, and what came out."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode; make the environment with render_mode='ansi'")
            return None
        actions, stages = self.passage.walk.actions[0].tolist(), self.task.chain.stages
        wide = max(len(stage.name) for stage in stages)
        lines = [f"{self.task.name}: image {int(self.passage.index[0])}, {len(actions)} of {len(stages)} stages run"]
        for stage, groups in zip(stages, [*actions, *[0] * (len(stages) - len(actions))], strict=True):
            full = _WIDTH * groups // self.task.chain.groups
            told = f"{groups} of {self.task.chain.groups} groups" if groups else "to come"
            lines.append(f"  {stage.name:<{wide}}  {'#' * full}{'.' * (_WIDTH - full)}  {told}")
        lines.append(f"  {self.passage.shares[0]:.1%} of the multiply-accumulates, return {self._return:.4f}")
        if (end := self.passage.end) is not None:
            lines.append(f"  class {end.labels[0]}, predicted {end.predictions[0]}, loss {end.losses[0]:.4f}")
        return "\n".join(lines)


def observed(task: RuntimeTask) -> Any:
    """The space of observations."""
    low = np.full(task.width + 1, -BOUND, np.float32)
    high = np.full(task.width + 1, BOUND, np.float32)
    low[-1], high[-1] = 0, len(task)
    return spaces.Box(low, high, dtype=np.float32)


def drawn(random: np.random.Generator, images: int) -> int:
    """An image, uniformly."""
    return int(random.integers(images))


def wanted(options: dict[str, Any] | None, images: int) -> int | None:
    """The image that options of a reset ask for.

    Raises:
        UnknownNameError: another option.
        SettingsError: an image that the split does not have.
    """
    for name in options or {}:
        if name not in OPTIONS:
            raise unknown_name("option of reset:", name, OPTIONS)
    index = (options or {}).get("index")
    if index is None:
        return None
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < images:
        raise SettingsError(f"index must be a whole number from 0 to {images - 1}, but got {index!r}")
    return int(index)


def checked(actions: Any, given: Any, groups: int) -> Any:
    """Groups to run, int64 ``[N]``, of ``actions`` ``[N]``; ``None`` is refused.

    Raises:
        EnvError: not whole numbers from 0 to k - 1.
    """
    if actions is None or actions.dtype.kind not in "iu" or not ((actions >= 0) & (actions < groups)).all():
        raise EnvError(
            f"action must be a whole number from 0 to {groups - 1} (action a runs a + 1 groups), but got {given!r}"
        )
    return actions.astype(np.int64) + 1
