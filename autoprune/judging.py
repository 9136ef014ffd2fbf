"""How a plan becomes an outcome: cut, repair, recalibrate, retrain, evaluate, and say what failed."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from autoprune.applied import PrunedModel
from autoprune.candidates import Candidates
from autoprune.costs import CostModel, Latency
from autoprune.data import DataSplits
from autoprune.errors import ModelError
from autoprune.evaluation import EvalSet, Evaluation, NotFinite, pack_bits
from autoprune.failures import failure
from autoprune.finetune import finetune, recalibrate
from autoprune.outcome import Form, Outcome, Status, layer_table
from autoprune.plan import Plan
from autoprune.racing import RaceState, Verdict, joined, race
from autoprune.resolve import Resolved
from autoprune.seeding import derive

Report = Callable[[int, float], bool]


@dataclass
class _Run:
    """What one judgement has found so far."""

    report: Report | None = None
    race: RaceState | None = None
    stages: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    stopped: str = ""
    last: Evaluation | None = None  # of the network as it is now

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time inside to ``seconds[name]``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Judge:
    """Judges the plans of one network.

    Args:
        candidates: makes their networks.
        costs: counts them.
        data: what they are retrained on.
        samples: the validation split, prepared in the numbers of ``precision``.
        precision: of the evaluation pass.
        measure: the latency of a plan's network, where it is wanted.
    """

    def __init__(
        self,
        candidates: Candidates,
        costs: CostModel,
        data: DataSplits,
        samples: EvalSet,
        precision: str,
        measure: Callable[[Plan], Latency] | None,
    ) -> None:
        self.candidates, self.costs, self.data, self.samples = candidates, costs, data, samples
        self.precision, self.measure = precision, measure
        self.settings = candidates.settings

    @cached_property
    def dense(self) -> Outcome:
        """Outcome of the dense network.

        Raises:
            ModelError: its loss is NaN or infinite.
        """
        started = time.perf_counter()
        try:
            found = self._whole(self.candidates.sliced(Resolved({}, {}, {}), self.precision))
        except NotFinite as error:
            raise ModelError(f"the dense network cannot be judged: {error}; check its weights and the data") from None
        blank = self._measured(self._blank(Plan(), Resolved({}, {}, {})))
        blank = replace(blank, ratios=blank.cost.ratios(blank.cost), stages={"dense": found.accuracy})
        seconds = {"evaluate": time.perf_counter() - started, "total": time.perf_counter() - started}
        return replace(self._filled(blank, found), seconds=seconds)

    def reseeded(self, seed: int) -> Judge:
        """The same judge with another seed of retraining."""
        twin = copy.copy(self)
        twin.settings = replace(self.settings, seed=seed)
        return twin

    def judge(self, plan: Plan, resolved: Resolved, report: Report | None, rivals: RaceState | None) -> Outcome:
        """The outcome of ``plan``; see :class:`autoprune.objective.Objective`."""
        dense, run = self.dense, _Run(report, rivals, {"dense": self.dense.stages["dense"]})
        if not self._changes(resolved) and not self._steps(plan):
            return replace(dense, plan=plan)
        blank = self._blank(plan, resolved)
        with run.timed("total"):
            try:
                outcome = self._outcome(blank, resolved, run)
            except Exception as error:
                reason = failure(error)
                if reason is None:
                    raise
                outcome = replace(blank, status=Status.FAILED, reason=reason)
        ratios = outcome.cost.ratios(dense.cost)
        return replace(outcome, ratios=ratios, stages=run.stages, seconds=run.seconds, steps=run.steps)

    def build(self, plan: Plan, resolved: Resolved) -> PrunedModel:
        """The network that :meth:`judge` judges, in float32."""
        pruned = self.candidates.made(plan, resolved)
        self._finish(pruned, self._steps(plan), _Run(), quiet=True)
        return pruned

    def _outcome(self, blank: Outcome, resolved: Resolved, run: _Run) -> Outcome:
        steps = self._steps(blank.plan)
        with run.timed("measure"):
            blank = self._measured(blank)
        if steps or self._recalibrates(resolved) or blank.plan.reconstruction != "none":
            with run.timed("prune"):
                pruned = self.candidates.made(blank.plan, resolved)
            stage = self._finish(pruned, steps, run)
            if run.stopped:
                assert run.last is not None
                return self._filled(replace(blank, status=Status.STOPPED, reason=run.stopped), run.last)
            module = None if run.last else self._deployed(pruned.module, run)
        else:
            stage = "pruned"
            with run.timed("prune"):
                module = self.candidates.sliced(resolved, self.precision)
        verdict = self._verdict(module, blank, run)
        if verdict.rejected:
            reason = (
                f"cannot match the best plan: rejected after {verdict.evaluation.images} of {len(self.samples)} images "
                f"(p = {verdict.p_value:.2g})"
            )
            return self._filled(replace(blank, status=Status.STOPPED, reason=reason), verdict.evaluation)
        run.stages[stage] = verdict.evaluation.accuracy
        return self._filled(blank, verdict.evaluation)

    def _finish(self, pruned: PrunedModel, steps: int, run: _Run, *, quiet: bool = False) -> str:
        """Recalibrate and retrain in place; the name of the stage it ends in. ``quiet`` evaluates nothing."""
        stages = not quiet and (self.settings.stages or ("all" if steps else "final")) == "all"
        stage, changed = "pruned", bool(pruned.kept or pruned.masks)
        if changed and self._can_recalibrate:
            if stages:
                self._note(stage, pruned.module, run)
            with run.timed("recalibrate"):
                recalibrate(pruned.module, self.candidates.calibration)
            stage, run.last = "recalibrated", None
        if steps:
            if stages:
                accuracy = self._note(stage, pruned.module, run) if changed else self.dense.accuracy
                if run.report is not None and accuracy is not None and run.report(0, accuracy):
                    run.stopped = "stopped by its report before retraining"
                    return stage
            run.last = None
            self._retrain(pruned, steps, run, quiet)
            stage = "retrained"
        return stage

    def _retrain(self, pruned: PrunedModel, steps: int, run: _Run, quiet: bool) -> None:
        def on_report(step: int) -> bool:
            assert run.report is not None
            run.last = self._evaluate(pruned.module, run)
            return run.report(step, run.last.accuracy)

        settings = replace(self.settings.finetune, steps=steps)
        training = run.seconds.get("evaluate", 0.0)
        with run.timed("retrain"):
            result = finetune(
                pruned.module,
                self.data.train,
                settings,
                seed=derive(self.settings.seed, "retrain"),
                augment=self.data.augment,
                masks=pruned.masks or None,
                teacher=self.candidates.model if settings.distill_weight > 0 else None,
                report=None if quiet or run.report is None else on_report,
            )
        if run.report is not None and not quiet:
            run.seconds["retrain"] -= run.seconds.get("evaluate", 0.0) - training
        run.steps = result.steps
        if result.stopped and result.steps < steps:
            run.stopped = f"stopped by its report after {result.steps} of {steps} steps"
        pruned.module.eval()

    def _note(self, stage: str, module: nn.Module, run: _Run) -> float | None:
        """Accuracy of an intermediate stage, ``None`` where it is not finite: what follows may still mend it."""
        run.last = None
        try:
            run.last = self._evaluate(module, run)
        except NotFinite:
            return None
        run.stages[stage] = run.last.accuracy
        return run.last.accuracy

    def _evaluate(self, module: nn.Module, run: _Run) -> Evaluation:
        ready = self._deployed(module, run)
        with run.timed("evaluate"):
            return self._whole(ready)

    def _whole(self, ready: nn.Module) -> Evaluation:
        """Every image, in the blocks of a race where there are races: an outcome must not depend on its rivals."""
        if self.settings.race is None:
            return self.samples.evaluate(ready)
        looks = self.settings.race.looks(len(self.samples))
        return joined(self.samples.evaluate(ready, a, b) for a, b in itertools.pairwise([0, *looks]))

    def _deployed(self, module: nn.Module, run: _Run) -> nn.Module:
        with run.timed("prune"):
            return self.candidates.deployed(module, self.precision)

    def _verdict(self, module: nn.Module | None, blank: Outcome, run: _Run) -> Verdict:
        """Evaluate ``module``, in a race where there is someone to beat; ``None``: the last evaluation still holds."""
        if module is None:
            assert run.last is not None
            return Verdict(run.last, rejected=False)
        ready = module
        rival = run.race.rival(blank.cost) if run.race is not None else None
        right = None if rival is None else rival.correctness()
        with run.timed("evaluate"):
            if right is None or len(right) != len(self.samples) or self.settings.race is None:
                return Verdict(self._whole(ready), rejected=False)
            order = self.samples.order
            return race(lambda a, b: self.samples.evaluate(ready, a, b), right[order], self.settings.race)

    def _filled(self, outcome: Outcome, found: Evaluation) -> Outcome:
        correct = ""
        if outcome.status is Status.OK:
            bits = torch.empty(len(self.samples), dtype=torch.bool)
            bits[self.samples.order] = found.correct
            correct = pack_bits(bits)
        return replace(outcome, accuracy=found.accuracy, loss=found.loss, images=found.images, correct=correct)

    def _blank(self, plan: Plan, resolved: Resolved) -> Outcome:
        """What is known before anything runs."""
        cost = self.costs.cost(resolved.removed, zeros=self.candidates.zeros(resolved))
        return Outcome(
            plan,
            Status.OK,
            cost,
            form=Form.MASKED if resolved.weights else Form.REMOVED,
            layers=layer_table(resolved, self.candidates.graph, self.costs),
            seed=self.settings.seed,
            precision=self.precision,
            threads=torch.get_num_threads(),
        )

    def _measured(self, outcome: Outcome) -> Outcome:
        if self.measure is None:
            return outcome
        latency = self.measure(outcome.plan)
        return replace(outcome, cost=replace(outcome.cost, latency_ms=latency.median_ms), latency=str(latency))

    def _steps(self, plan: Plan) -> int:
        return self.settings.finetune.steps if plan.steps is None else plan.steps

    def _changes(self, resolved: Resolved) -> bool:
        return bool(resolved.removed or resolved.weights)

    def _recalibrates(self, resolved: Resolved) -> bool:
        return self._changes(resolved) and self._can_recalibrate

    @cached_property
    def _can_recalibrate(self) -> bool:
        norms = (m for m in self.candidates.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return self.settings.recalibrate and any(norm.track_running_stats for norm in norms)
