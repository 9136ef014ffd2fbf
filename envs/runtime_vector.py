"""Many images of ``autoprune/Runtime-v0`` together: one batched forward for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from autoprune.envs.passage import Passage, Pay
from autoprune.envs.runtime import OPTIONS, PENALTY, checked, drawn, observed, wanted
from autoprune.envs.runtime_task import RuntimeTask, make_runtime_task
from autoprune.envs.vector import _autoreset_mode
from autoprune.errors import EnvError, unknown_name

Told = dict[str, NDArray[Any]]
Step = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class RuntimeVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` episodes of :class:`RuntimeEnv` that go through the network together.

    Observations, rewards and infos are those of as many single environments with the same seeds (up to the rounding of
    a batched forward), in the form of gymnasium's ``SyncVectorEnv``. All episodes have as many steps, so they begin and
    end together. An action that cannot be taken changes no episode.

    .. code-block:: python

        envs = gymnasium.make_vec("autoprune/Runtime-v0", num_envs=256, vectorization_mode="vector_entry_point")

    Args:
        num_envs: how many images.
        task, penalty, price, alpha, split, task_options: as of :class:`RuntimeEnv`.
        autoreset_mode: as of :class:`autoprune.envs.LayerwiseVectorEnv`; with ``"Disabled"``, episodes can only be
            begun anew all together.

    Raises:
        EnvError: not even one episode.
        UnknownNameError: another autoreset mode; else as :class:`RuntimeEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | RuntimeTask = "digits",
        penalty: float = PENALTY,
        price: str = "groups",
        alpha: float | None = None,
        split: str = "train",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **task_options: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise EnvError(f"num_envs must be a whole number from 1 on, but got {num_envs!r}")
        if render_mode is not None:
            raise unknown_name("render mode", render_mode, ())
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.task = make_runtime_task(task, **task_options)
        prices = self.task.chain.prices(price)
        self.passage = Passage(self.task, split, Pay(penalty, self.task.alpha if alpha is None else alpha, prices))
        self.num_envs, self.render_mode = num_envs, None
        self.single_observation_space = observed(self.task)
        self.single_action_space = gymnasium.spaces.Discrete(self.task.chain.groups)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms: list[np.random.Generator | None] = [None] * num_envs
        self._ended = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin every episode with another image.

        Args:
            seed: of the first episode, that of the others counted up; or one for each.
            options: as of :class:`RuntimeEnv`; ``index`` may be one for each.

        Raises:
            EnvError: a mask that leaves some episodes as they are, or another number of seeds than episodes.
            UnknownNameError: another option.
        """
        given = dict(options or {})
        mask = given.pop("reset_mask", None)
        if mask is not None and not np.all(mask):
            raise EnvError("episodes that go through the network together begin together; reset all of them")
        wishes = self._wishes(given)
        self._seed(seed)
        return self._begin(wishes)

    def step(self, actions: Any) -> Step:
        """Run a stage for every image.

        Raises:
            EnvError: as :meth:`RuntimeEnv.step`, or another number of actions than episodes; nothing is changed in any
                episode then.
        """
        none = np.zeros(self.num_envs, np.bool_)
        if self._ended and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            seen, infos = self._begin()
            return seen, np.zeros(self.num_envs), none, none.copy(), infos
        given = np.asarray(actions)
        if given.shape != (self.num_envs,):
            raise EnvError(f"{self.num_envs} episodes need as many actions, but got {actions!r}")
        groups = checked(given, actions, self.task.chain.groups)
        seen, rewards = self.passage.step(groups)
        infos = _masked({"groups": groups.copy(), "macs": self.passage.shares, **self._told()})
        self._ended = self.passage.end is not None
        done = np.full(self.num_envs, self._ended)
        if self._ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final: Any = np.full(self.num_envs, None, dtype=object)
            final[:] = list(seen)
            seen, begun = self._begin()
            infos = {**_masked({"final_obs": final, "final_info": infos}, self.num_envs), **begun}
        return seen, np.asarray(rewards, np.float64), done, none, infos

    def _told(self) -> Told:
        end = self.passage.end
        if end is None:
            return {}
        return {"label": end.labels, "prediction": end.predictions, "loss": end.losses}

    def _begin(self, wishes: Sequence[int | None] | None = None) -> tuple[Any, dict[str, Any]]:
        self._ended = False
        each = wishes or [None] * self.num_envs
        images = self.passage.images
        index = [drawn(self._random(n), images) if wish is None else wish for n, wish in enumerate(each)]
        places = np.array(index, np.int64)
        return self.passage.begin(places), _masked({"index": places})

    def _random(self, number: int) -> np.random.Generator:
        """The generator of one episode, as a single environment has it."""
        random = self._randoms[number]
        if random is None:
            random = self._randoms[number] = seeding.np_random(None)[0]
        return random

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None:
            return
        each = [seed + n for n in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(each) != self.num_envs:
            raise EnvError(f"{self.num_envs} episodes need as many seeds, but got {len(each)}")
        for number, own in enumerate(each):
            if own is not None:
                self._randoms[number] = seeding.np_random(own)[0]

    def _wishes(self, options: dict[str, Any]) -> list[int | None]:
        index = options.get("index")
        each = list(index) if isinstance(index, (list, tuple, np.ndarray)) else [index] * self.num_envs
        if len(each) != self.num_envs:
            raise EnvError(f"{self.num_envs} episodes need as many images, but got {len(each)}")
        rest = {name: value for name, value in options.items() if name not in OPTIONS}
        return [wanted({**rest, "index": own}, self.passage.images) for own in each]


def _masked(told: dict[str, Any], size: int | None = None) -> dict[str, Any]:
    """Infos with the masks that gymnasium puts beside them; all episodes have all of them."""
    infos: dict[str, Any] = {}
    for name, values in told.items():
        infos[name] = values
        infos[f"_{name}"] = np.ones(len(values) if size is None else size, np.bool_)
    return infos
