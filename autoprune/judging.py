"""How a plan becomes an outcome: cut, repair, recalibrate, retrain, evaluate, and say what failed."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from autoprune.applied import PrunedModel
from autoprune.batching import Tally, Together
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
from autoprune.skeleton import Key, Known

Report = Callable[[int, float], bool]

_MADE_AT_ONCE = 4  # networks of their own for each thread


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


@dataclass(eq=False)
class _Case:
    """A plan that is judged together with others.

    Attributes:
        resolved: the plan, read.
        outcome: what is known of it.
        run: what the judgement has found.
        stage: the one that is evaluated.
    """

    resolved: Resolved
    outcome: Outcome
    run: _Run
    stage: str = "pruned"

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What means that the plan has no usable network becomes its outcome."""
        blank = self.outcome
        try:
            yield
        except Exception as error:  # noqa: BLE001 - what is no plan's fault is raised again
            self.outcome = _failed(blank, error)


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
            except Exception as error:  # noqa: BLE001 - what is no plan's fault is raised again
                outcome = _failed(blank, error)
        return self._closed(outcome, run)

    def many(self, plans: Mapping[Plan, Resolved]) -> dict[Plan, Outcome]:
        """What :meth:`judge` gives for each plan, found together; see :meth:`autoprune.objective.Objective.many`."""
        found: dict[Plan, Outcome] = {}
        cut: list[_Case] = []
        made: list[_Case] = []
        apart = self.samples.x.device.type != "cpu"  # a whole device works for one network at a time
        for plan, resolved in plans.items():
            if apart or self._steps(plan) or not self._changes(resolved):
                found[plan] = self.judge(plan, resolved, None, None)
            else:
                case = _Case(resolved, self._blank(plan, resolved), _Run(stages={"dense": self.dense.stages["dense"]}))
                (cut if self.candidates.quick(resolved) and not self._remakes(plan, resolved) else made).append(case)
        self._judge_cut(cut)
        for at in range(0, len(made), width := _MADE_AT_ONCE * torch.get_num_threads()):
            self._judge_made(made[at : at + width])
        for case in (*cut, *made):
            case.run.seconds["total"] = sum(case.run.seconds.values())
            found[case.outcome.plan] = self._closed(case.outcome, case.run)
        return found

    def build(self, plan: Plan, resolved: Resolved) -> PrunedModel:
        """The network that :meth:`judge` judges, in float32, on the CPU."""
        pruned = self.candidates.made(plan, resolved)
        pruned.module.to(self.data.train.device)
        self._finish(pruned, self._steps(plan), _Run(), quiet=True)
        pruned.module.to("cpu")
        return pruned

    def _judge_cut(self, cases: Sequence[_Case]) -> None:
        """Outcomes of plans whose networks are cut from the whole one, nothing else."""
        keys: dict[_Case, Key] = {}
        for case in cases:
            with case.guarded(), case.run.timed("prune"):
                keys[case] = self.candidates.key(case.resolved, self.precision)
        left = list(keys)

        def make(place: int, known: Known) -> list[Tensor]:
            case = left[place]
            with case.run.timed("prune"):
                return self.candidates.tensors(case.resolved, self.precision, keys[case], known)

        self._tally(left, self._together.slices(list(keys.values()), make, torch.get_num_threads()))

    def _judge_made(self, cases: Sequence[_Case]) -> None:
        """Outcomes of plans whose networks are made one by one: repaired, recalibrated."""
        modules: dict[_Case, nn.Module] = {}
        for case in cases:
            with case.guarded():
                case.stage, module = self._network(case.outcome.plan, case.resolved, case.run)
                assert module is not None, "nothing was evaluated yet"
                modules[case] = module
        self._tally(list(modules), self._together.modules(list(modules.values()), torch.get_num_threads()))

    def _tally(self, cases: Sequence[_Case], tallies: Sequence[Tally]) -> None:
        for case, tally in zip(cases, tallies, strict=True):
            case.run.seconds["evaluate"] = case.run.seconds.get("evaluate", 0.0) + tally.seconds
            with case.guarded(), case.run.timed("measure"):
                case.outcome = self._measured(case.outcome)
                found = self._joined(tally.evaluations())
                case.run.stages[case.stage] = found.accuracy
                case.outcome = self._filled(case.outcome, found)

    def _outcome(self, blank: Outcome, resolved: Resolved, run: _Run) -> Outcome:
        with run.timed("measure"):
            blank = self._measured(blank)
        stage, module = self._network(blank.plan, resolved, run)
        if run.stopped:
            assert run.last is not None
            return self._filled(replace(blank, status=Status.STOPPED, reason=run.stopped), run.last)
        verdict = self._verdict(module, blank, run)
        if verdict.rejected:
            reason = (
                f"cannot match the best plan: rejected after {verdict.evaluation.images} of {len(self.samples)} images "
                f"(p = {verdict.p_value:.2g})"
            )
            return self._filled(replace(blank, status=Status.STOPPED, reason=reason), verdict.evaluation)
        run.stages[stage] = verdict.evaluation.accuracy
        return self._filled(blank, verdict.evaluation)

    def _network(self, plan: Plan, resolved: Resolved, run: _Run) -> tuple[str, nn.Module | None]:
        """(stage, the plan's network in its deployed form); no network where its last evaluation holds."""
        if not self._steps(plan) and not self._remakes(plan, resolved):
            with run.timed("prune"):
                return "pruned", self.candidates.sliced(resolved, self.precision)
        with run.timed("prune"):
            pruned = self.candidates.made(plan, resolved)
            pruned.module.to(self.data.train.device)
        stage = self._finish(pruned, self._steps(plan), run)
        known = run.stopped or run.last is not None
        return stage, None if known else self._deployed(pruned.module, run, last=True)

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
        return self._joined([self.samples.evaluate(ready, *ends) for ends in self._parts])

    @property
    def _parts(self) -> list[tuple[int, int]]:
        """Parts of the samples that are evaluated by themselves."""
        looks = [len(self.samples)] if self.settings.race is None else self.settings.race.looks(len(self.samples))
        return list(itertools.pairwise([0, *looks]))

    def _joined(self, parts: Sequence[Evaluation]) -> Evaluation:
        return parts[0] if self.settings.race is None else joined(parts)

    def _deployed(self, module: nn.Module, run: _Run, *, last: bool = False) -> nn.Module:
        with run.timed("prune"):
            return self.candidates.deployed(module, self.precision, last=last)

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

    def _closed(self, outcome: Outcome, run: _Run) -> Outcome:
        """With all that the run has found."""
        ratios = outcome.cost.ratios(self.dense.cost)
        return replace(outcome, ratios=ratios, stages=run.stages, seconds=run.seconds, steps=run.steps)

    def _measured(self, outcome: Outcome) -> Outcome:
        if self.measure is None:
            return outcome
        latency = self.measure(outcome.plan)
        return replace(outcome, cost=replace(outcome.cost, latency_ms=latency.median_ms), latency=str(latency))

    def _steps(self, plan: Plan) -> int:
        return self.settings.finetune.steps if plan.steps is None else plan.steps

    def _changes(self, resolved: Resolved) -> bool:
        return bool(resolved.removed or resolved.weights)

    def _remakes(self, plan: Plan, resolved: Resolved) -> bool:
        """Whether the plan's network is more than a part of the whole one."""
        return plan.reconstruction != "none" or (self._changes(resolved) and self._can_recalibrate)

    @cached_property
    def _together(self) -> Together:
        passes = [self.samples.blocks(*ends) for ends in self._parts]
        return Together(self.samples, passes, *self.candidates.whole(self.precision))

    @cached_property
    def _can_recalibrate(self) -> bool:
        norms = (m for m in self.candidates.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return self.settings.recalibrate and any(norm.track_running_stats for norm in norms)


def _failed(blank: Outcome, error: Exception) -> Outcome:
    reason = failure(error)
    if reason is None:
        raise error
    return replace(blank, status=Status.FAILED, reason=reason)
