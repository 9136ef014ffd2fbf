"""Training in turns: the controller on the frozen backbone, the backbone through what the controller runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.envs.runtime_task import check_finite
from autoprune.files import write_text
from autoprune.runtime import RuntimePrunedNetwork, calibrate, save_runtime, settle
from autoprune.runtime.controller import decision_macs
from autoprune.search.runtime.difficulty import fit, passed
from autoprune.search.runtime.judging import Greedy, Table, judge
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.width_path import WidthPath
from autoprune.seeding import derive, seeded

if TYPE_CHECKING:
    from autoprune.artifacts import NetworkSpec
    from autoprune.envs import RuntimeTask
    from autoprune.envs.passage import Pay
    from autoprune.search.runtime.agents import Agent
    from autoprune.search.runtime.backbone import Backbone

CHECKPOINT, LOG, CURVES = "checkpoint", "log.jsonl", "curves.png"
TRUSTS = (1.0, 0.5, 0.25, 0.0)  # the controller gets the best one
SETTLED = 2048  # samples that the statistics of norms come from
_MIDDLE = 0.5  # of the dense multiply-accumulates: what is lost there is compared with when difficulty is fitted
Progress = Callable[[dict[str, Any], int], None]


@dataclass(frozen=True)
class Store:
    """What is written into the folder beside the network.

    Attributes:
        spec: how the dense network is made.
        data: what it was trained on, as JSON.
    """

    spec: NetworkSpec
    data: dict[str, Any]


def train_runtime(
    task: RuntimeTask,
    settings: RuntimeSettings | None = None,
    *,
    folder: str | Path | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
    turns: int | None = None,
) -> RuntimePrunedNetwork:
    """Train a network that decides at run time, with a calibrated table of its knob.

    After J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017. The chain of ``task`` is trained in place.
    Each turn draws from the seed and its number alone, so that a training that was stopped and goes on in the same
    folder ends in the same network as a straight one.

    Args:
        task: network and data; its weights are those of the pre-trained network.
        settings: how.
        folder: where checkpoints, ``log.jsonl`` (a line for each turn), ``curves.png`` and the network go.
        store: how the network is described in ``folder``; without it the network is only handed back.
        progress: called after each turn with its line of the log and the number of turns.
        turns: stop after this many, half done (the checkpoint goes on).

    Raises:
        StudyError: the folder holds a training with other settings.
        TrainingDiverged: a loss or a weight that is not finite.
        AutopruneError: a folder that cannot be written.
    """
    from autoprune.search.rl.isolation import RandomState

    before = RandomState.now()
    try:
        course = _Course(task, settings or RuntimeSettings(), None if folder is None else Path(folder))
        course.run(progress, turns)
        network = RuntimePrunedNetwork(task.chain, course.agent.controller())
    finally:
        before.restore()
    settle(network, task.data.calibration.subset(slice(0, SETTLED)))
    calibrate(network, task.data.validation)
    if folder is not None and store is not None:
        save_runtime(folder, network, store.spec, data=store.data, metrics={"training": course.log[-1]})
    return network


class _Course:
    """A training as far as it has come: the backbone is prepared, then each round has a turn of the controller and one
    of the backbone."""

    def __init__(self, task: RuntimeTask, settings: RuntimeSettings, folder: Path | None) -> None:
        from autoprune.envs import RuntimeVectorEnv
        from autoprune.search.runtime.agents import Agent
        from autoprune.search.runtime.backbone import Backbone
        from autoprune.search.runtime.keeping import chain_digest, read, restore
        from autoprune.search.runtime.vecenv import RuntimeVecEnv

        self.task, self.settings, self.folder = task, settings, folder
        for name, split in task.data.parts():
            if split.x.is_floating_point():
                check_finite(split.x, range(len(split)), name)
        chain: Any = task.chain
        chain.to(memory_format=torch.channels_last)  # as its training has it: other layouts round otherwise
        self.identity = {**settings.to_dict(), "network": chain_digest(task.chain), "data": task.data.digest}
        self.envs = RuntimeVectorEnv(
            settings.envs,
            task=task,
            penalty=settings.penalty,
            price=settings.price,
            alpha=settings.alpha or 1.0,
            autoreset_mode="SameStep",
        )
        path = _path(task, settings)
        self.vec_env = RuntimeVecEnv(self.envs)
        self.agent: Agent = Agent(settings, self.vec_env, task.chain, path, derive(settings.seed, "agent"))
        self.backbone: Backbone = Backbone(task.chain, task.data, settings, path)
        self.log: list[dict[str, Any]] = []
        stored = None if folder is None else read(folder / CHECKPOINT, self.identity)
        if folder is not None and stored is not None:
            restore(folder / CHECKPOINT, stored, self.agent, self.backbone)
            self.log = stored["log"]

    def run(self, progress: Progress | None, turns: int | None) -> None:
        """Turns up to the end, or up to ``turns`` of them."""
        total = self.settings.turns
        while len(self.log) < (total if turns is None else min(turns, total)):
            began = time.monotonic()
            line = self._turn(len(self.log) - bool(self.settings.prepare_steps))
            self.log.append({**line, "seconds": round(time.monotonic() - began, 3)})
            self._keep()
            if progress is not None:
                progress(self.log[-1], total)

    def _turn(self, turn: int) -> dict[str, Any]:
        """Turn -1 prepares the backbone; 2 r is the controller's of round r, 2 r + 1 the backbone's."""
        number, backbone = divmod(turn, 2)
        kind = "prepare" if turn < 0 else "backbone" if backbone else "controller"
        line: dict[str, Any] = {"round": max(number, 0), "turn": kind}
        alpha = self.settings.alpha
        self.envs.passage.pay = replace(self._pay, alpha=self.task.measured_alpha() if alpha is None else alpha)
        if turn < 0:
            line["loss"] = self.backbone.prepare()
        elif backbone:
            if self.settings.finetune_steps:
                line["loss"] = self.backbone.turn(self.agent.controller(), number)
        else:
            if number == 0:
                line["difficulty"] = self._begin()
            self.vec_env.compared = Greedy(self.agent.controller())
            self.agent.learn(derive(self.settings.seed, "controller", number))
            self.agent.trust = self.backbone.trust({trust: self.agent.controller(trust) for trust in TRUSTS})
            line["trust"] = self.agent.trust
            line["episodes"] = (number + 1) * self.settings.batches * self.settings.envs
        return line | self._judged(self.agent.controller())

    def _begin(self) -> float:
        """What is known before the first decision is learned; the error of the fitted difficulty."""
        task, path, s = self.task, self.backbone.path, self.settings
        pooled = _whole(task)
        least = max(float(path.shares[0]), s.serve[0] if s.serve else 0.0)
        with seeded(s.seed, "begin"):
            controller = self.agent.fresh()
            losses = path.losses(task.chain, task.data.calibration, least)
            worth, chance = (path.worth(found.curve, controller.prices) for found in (losses, losses.errors))
            paid = [s.penalty * controller.bias(stage) for stage in range(len(task.chain.stages))]
            controller.standardise(pooled)
            controller.offsets.copy_(-self._pay.alpha * worth)
            controller.paid.copy_(torch.stack(paid))
            middle = path.row(_MIDDLE)
            samples, unseen = (
                passed(task.chain, split, path, least, middle, chance, count=s.episodes, batch=s.envs)
                for split in (task.data.train, task.data.calibration)
            )
            error = fit(controller, samples, unseen)
        self.agent.begin(controller, pooled)
        return error

    def _judged(self, controller: Any) -> dict[str, Any]:
        """What the controller and the whole network do on the validation split."""
        chain, split = self.task.chain, self.task.data.validation
        greedy = judge(chain, split, Greedy(controller))
        dense = judge(chain, split, Table(torch.full((len(chain.stages),), chain.groups)))
        pay = self._pay
        paid = sum(pay.of(groups, stage) for stage, groups in enumerate(greedy.actions.T.numpy()))
        reward = paid - pay.alpha * greedy.losses.numpy()
        return {
            "accuracy": greedy.accuracy,
            "macs": greedy.share,
            "reward": float(reward.mean()),
            "dense_accuracy": dense.accuracy,
            "groups": [round(g, 4) for g in greedy.actions.double().mean(0).tolist()],
        }

    @property
    def _pay(self) -> Pay:
        return self.envs.passage.pay

    def _keep(self) -> None:
        if self.folder is None:
            return
        from autoprune.search.runtime.keeping import keep
        from autoprune.search.runtime.pictures import curves

        facts = {"identity": self.identity, "turns": len(self.log), "log": self.log}
        keep(self.folder / CHECKPOINT, facts, self.agent, self.backbone)
        write_text(self.folder / LOG, "".join(json.dumps(line) + "\n" for line in self.log))
        curves(self.log, self.folder / CURVES)


def _path(task: RuntimeTask, settings: RuntimeSettings) -> WidthPath:
    """Whose shares count what a controller of these settings costs."""
    decisions = partial(decision_macs, groups=task.chain.groups, code=settings.code, hidden=settings.hidden)
    if settings.path == "even":
        return WidthPath.even(task.chain, decisions)
    return WidthPath.of_least_harm(task.chain, task.data.calibration, decisions=decisions)


@torch.no_grad()
def _whole(task: RuntimeTask) -> list[torch.Tensor]:
    """Pooled features of the whole network on calibration samples, by stage."""
    samples = task.data.calibration.inputs(slice(0, 1024))
    found: list[list[torch.Tensor]] = [[] for _ in task.chain.stages]
    for x in torch.split(samples, 128):
        walk = task.chain.begin(x)
        while not walk.done:
            found[walk.stage].append(walk.pooled)
            walk = walk.step(torch.full((len(x),), task.chain.groups))
    return [torch.cat(parts) for parts in found]
