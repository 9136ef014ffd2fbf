"""A learner at work in one search: its library owns the loop, the search judges, and a killed search goes on.

Episodes depend on the seed and the outcomes before them alone. A search that goes on loads the newest checkpoint and
drives the learner through the episodes after it again, with their outcomes from the study; without a checkpoint it
does so from the first. Either way the learner ends where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import StudyError
from autoprune.search.driving import Driver, Judge, SearchOver
from autoprune.search.facts import differences
from autoprune.search.rl.policy import POLICY
from autoprune.search.rl.settings import AUTO, AgentSettings, OffPolicySettings, OnPolicySettings
from autoprune.seeding import derive

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from autoprune.search.base import Context, Point
    from autoprune.search.records import TrialRecord
    from autoprune.search.rl.episodes import TrialEnv
    from autoprune.space import SearchSpace

LEARNERS = "learners"  # folder of the checkpoints in the cache of a run


@dataclass
class Course:
    """How far a learner has come.

    Attributes:
        episodes: that it has learned from.
        digest: of these episodes.
        kept: of them, those that the newest checkpoint holds.
    """

    episodes: int = 0
    digest: str = ""
    kept: int = 0

    def answered(self, record: TrialRecord) -> None:
        """One more episode."""
        self.episodes += 1
        self.digest = chained(self.digest, record)


def chained(digest: str, record: TrialRecord) -> str:
    """Digest of the trials before ``record``, and of it."""
    told = [digest, sorted(record.values.items()), record.status, record.accuracy]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def kind_of_actions(settings: AgentSettings, space: SearchSpace) -> str:
    """The kind of action that ``settings`` mean for ``space``."""
    if settings.actions != AUTO:
        return settings.actions
    return "sparsity_method" if len(space.methods) > 1 else "sparsity"


class Learner(Driver):
    """One of the agents in one search.

    Args:
        name: a key of :data:`autoprune.search.rl.AGENTS`.
        settings: its settings.
        context: of the search.
    """

    def __init__(self, name: str, settings: AgentSettings, context: Context) -> None:
        self.name, self.settings, self.context = name, settings, context
        self.course = Course()

    def notes(self, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
        """Where the policy is."""
        del trials
        if self.context.run_dir is None or not self.course.episodes:
            return ()
        return (f"The policy after {self.course.episodes} episodes is in {self.context.run_dir / POLICY}.",)

    def drive(self, judge: Judge) -> None:
        """Learn until the search is over; then store the policy.

        Raises:
            StudyError: the study was made with other settings.
        """
        from autoprune.search.rl.isolation import Apart

        apart = Apart()

        def ask(values: Point) -> TrialRecord:
            with apart.waiting():
                if judge.answered < len(judge.earlier):
                    self.context.notice("replay", judge.answered + 1, len(judge.earlier))
                record = judge(values)
            self.course.answered(record)
            return record

        with apart.learning():
            model, env = self._model(ask)
            if not self._resumed(model, judge):
                self._show(model, env, judge)
            try:
                self._learn(model, judge)
            except (SearchOver, KeyboardInterrupt):
                self._store(model)
                raise
            finally:
                model.logger.close()
            self._store(model)

    def _model(self, ask: Any) -> tuple[BaseAlgorithm, TrialEnv]:
        from autoprune.search.rl.agents import build
        from autoprune.search.rl.curves import curves
        from autoprune.search.rl.episodes import TrialEnv

        context, seed = self.context, derive(self.context.seed, "learner", self.name) % 2**32
        env = TrialEnv(context, kind_of_actions(self.settings, context.space), self.settings.reward, ask)
        model = build(self.name, self.settings, env, len(context.space.groups), seed)
        study = context.mirror.study.study_name
        model.set_logger(curves(self.settings.tensorboard, f"{study}-{self.name}-{context.seed}"))
        return model, env

    def _show(self, model: BaseAlgorithm, env: TrialEnv, judge: Judge) -> None:
        """Put the baselines into the replay buffer of a learner that takes them."""
        if not isinstance(self.settings, OffPolicySettings) or not self.settings.demonstrations:
            return
        buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
        for record in judge.baselines:
            for seen, after, action, reward, done, info in env.shown(record):
                buffer.add(seen[None], after[None], action[None], np.array([reward]), np.array([done]), [info])

    def _learn(self, model: BaseAlgorithm, judge: Judge) -> None:
        steps = len(self.context.space.groups)
        several = self.settings.episodes if isinstance(self.settings, OnPolicySettings) else 1
        while not judge.over:
            model.learn(several * steps, reset_num_timesteps=False, log_interval=1)
            if self.course.episodes - self.course.kept >= self.settings.checkpoint:
                self._keep(model)
        if self.course.episodes > self.course.kept:
            self._keep(model)

    @property
    def _file(self) -> Path | None:
        if self.context.cache_dir is None:
            return None
        study = hashlib.sha256(self.context.mirror.study.study_name.encode()).hexdigest()[:12]
        return self.context.cache_dir / LEARNERS / f"{self.name}-{study}.pt"

    def _keep(self, model: BaseAlgorithm) -> None:
        """Write a checkpoint; only between two updates, where nothing is in flight."""
        from autoprune.search.rl.checkpoint import write_checkpoint

        if self._file is None:
            return
        facts = {"agent": self._facts(), "episodes": self.course.episodes, "digest": self.course.digest}
        write_checkpoint(self._file, facts, model)
        self.course.kept = self.course.episodes

    def _facts(self) -> dict[str, Any]:
        """What may not change while a study lasts."""
        context = self.context
        return {
            "seed": context.seed,
            "handling": "project" if context.shifted else "reject",
            "settings": self.settings.learning(),
        }

    def _resumed(self, model: BaseAlgorithm, judge: Judge) -> bool:
        """Load the checkpoint of this study, if there is one.

        Raises:
            StudyError: the study was made with other settings.
        """
        from autoprune.search.rl.checkpoint import read_checkpoint, restore

        stored = None if self._file is None else read_checkpoint(self._file)
        if stored is None:
            return False
        facts, state = stored
        course = Course()
        for record in judge.earlier[: facts["episodes"]]:
            course.answered(record)
        if (course.episodes, course.digest) != (facts["episodes"], facts["digest"]):
            return False  # of a study that is gone
        if facts["agent"] != self._facts():
            lines = "\n".join(f"  {line}" for line in differences(facts["agent"], self._facts()))
            raise StudyError(
                f"the learner {self.name!r} of the study cannot go on: its settings changed\n{lines}\n"
                "give what the study was made with, or start another study"
            )
        restore(model, state)
        judge.skip(course.episodes)
        self.course = course
        self.course.kept = course.episodes
        return True

    def _store(self, model: BaseAlgorithm) -> None:
        from autoprune.search.rl.policy import store_policy

        if self.context.run_dir is not None:
            store_policy(self.context.run_dir / POLICY, self, model)
