"""The objective: ``Plan -> Outcome``, the only door from anything that decides to the network.

A plan is read against the graph, its network is cut out of the dense one, repaired, retrained, judged on the validation
split, and measured. The caller's network is copied once and never changed. Equal plans give equal outcomes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.allocator import keep_few_kernels, keep_memory
from autoprune.applied import PrunedModel
from autoprune.artifacts import network_digest
from autoprune.calibration import LayerStats, Need
from autoprune.candidates import Candidates
from autoprune.costs import Cost, CostModel, Latency, LatencySettings, measure_latency
from autoprune.data import DataSplits
from autoprune.errors import DataError, ModelError, unknown_name
from autoprune.evaluation import DTYPES, EvalSet, Evaluation
from autoprune.graph import LayerGraph
from autoprune.hardware import batch_size
from autoprune.judging import Judge, Report
from autoprune.objective_settings import ObjectiveSettings
from autoprune.outcome import Outcome, Status
from autoprune.plan import Plan
from autoprune.precision import Precision, choose_precision
from autoprune.racing import RaceSettings, RaceState
from autoprune.ranking import Ranker
from autoprune.resolve import Resolved, resolve

__all__ = ["Objective", "ObjectiveSettings", "RaceSettings", "RaceState"]

_CACHED = 10_000  # outcomes kept, a few kilobytes each


class Objective:
    """Judges plans for one network on one dataset.

    Args:
        model: the dense, trained network; it returns logits ``[N, classes]``. It is copied and never changed.
        data: its four splits. Searches see the validation split only.
        settings: how plans are judged.
        example: an input to trace with; by default samples of the data.
        graph: the network's graph, where it is traced already.
        cache_dir: folder for scores that workers and later runs share.

    Raises:
        GraphError: the network cannot be traced.
        ModelError: a weight is NaN or infinite, or it does not return logits for the data's classes.
        DataError: an empty validation or calibration split.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits,
        *,
        settings: ObjectiveSettings | None = None,
        example: Any = None,
        graph: LayerGraph | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        from autoprune.tracing import trace

        self.settings = settings or ObjectiveSettings()
        self.data = data
        if not len(data.validation) or not len(data.calibration):
            raise DataError(f"data {data.name!r} need at least one validation and one calibration sample")
        if self.settings.tune_allocator:
            keep_memory()
            keep_few_kernels(model)
        _check_finite(model)
        graph = trace(model, data.example() if example is None else example) if graph is None else graph
        dense = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
        folder = None if cache_dir is None else Path(cache_dir)
        self._candidates = Candidates(dense, graph, data, self.settings, folder)
        self._costs = CostModel(dense, graph)
        self._outcomes: OrderedDict[Plan, Outcome] = OrderedDict()
        self._latencies: dict[tuple[LatencySettings, tuple[tuple[str, int], ...]], Latency] = {}

    @property
    def graph(self) -> LayerGraph:
        """Layers and groups of the network."""
        return self._candidates.graph

    @property
    def ranker(self) -> Ranker:
        """Orders in which the units of each group go."""
        return self._candidates.ranker

    @property
    def model(self) -> nn.Module:
        """The dense network, float32, in evaluation mode; not to be changed."""
        return self._candidates.model

    @property
    def costs(self) -> CostModel:
        """Counts what is left after so many units of each group are gone, in microseconds."""
        return self._costs

    def stats(self, needs: frozenset[Need]) -> Mapping[str, LayerStats]:
        """Statistics of the calibration split by layer; each need is collected once."""
        return self._candidates.stats(needs)

    def reseeded(self, seed: int) -> Objective:
        """A view of this objective that retrains with ``seed``.

        Network, orders, statistics and the dense outcome are shared; outcomes are not.
        """
        twin = copy.copy(self)
        twin.settings = replace(self.settings, seed=seed)
        twin._outcomes = OrderedDict()
        twin._judge = self._judge.reseeded(seed)
        twin.__dict__.pop("identity", None)
        return twin

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What outcomes depend on, as JSON: digests of network, graph and data, and the settings."""
        settings = self.settings.to_dict()
        del settings["tune_allocator"], settings["finetune"]["report_every"]  # these change no outcome
        device = self.data.train.device.type
        return ({} if device == "cpu" else {"device": device}) | {
            "model": network_digest(self._candidates.model),
            "graph": self.graph.digest,
            "data": self.data.digest,
            "objective": settings,
        }

    @cached_property
    def dense_cost(self) -> Cost:
        """Cost of the dense network; its latency only where ``settings.latency`` asks for latencies."""
        cost = self.cost(Plan())
        return cost if self.settings.latency is None else replace(cost, latency_ms=self.latency(Plan()))

    @cached_property
    def dense(self) -> Outcome:
        """Outcome of the dense network."""
        return self._judge.dense

    @cached_property
    def precision(self) -> Precision:
        """Numbers of the evaluation pass, and why these."""
        made = self._candidates
        return choose_precision(
            self.settings.precision, made.model, self.data.validation, made.graph, batch=self.batch, norms=made.norms
        )

    @property
    def batch(self) -> int:
        """Samples in one forward pass."""
        return self.settings.batch_size or batch_size(self.graph)

    def resolve(self, plan: Plan) -> Resolved:
        """Read ``plan`` against the graph.

        Raises:
            UnknownNameError: a layer, group, method or reconstruction that does not exist.
            PlanError: the plan does not fit the network.
        """
        return resolve(plan, self.graph)

    def removed(self, plan: Plan) -> dict[str, int]:
        """Units that ``plan`` removes of each group; as :meth:`resolve` it refuses plans that do not fit."""
        return dict(self.resolve(plan).removed)

    def cost(self, plan: Plan) -> Cost:
        """Parameters, multiply-accumulates and bytes of ``plan``'s network; nothing is evaluated or measured."""
        resolved = self.resolve(plan)
        return self._costs.cost(resolved.removed, zeros=self._candidates.zeros(resolved))

    def latency(self, plan: Plan) -> float:
        """Milliseconds of one forward pass of ``plan``'s network in its deployed form; see :meth:`measure`."""
        return self.measure(plan).median_ms

    def measure(self, plan: Plan, settings: LatencySettings | None = None) -> Latency:
        """Measured latency. Networks of one shape are measured once, so a mask never shows a gain.

        Args:
            plan: what to measure.
            settings: batch, threads, repeats; those of the objective by default.
        """
        settings = settings or self.settings.latency or LatencySettings()
        resolved = self.resolve(plan)
        key = (settings, tuple(resolved.removed.items()))
        if key not in self._latencies:
            bare = Resolved(resolved.units, resolved.removed, {})
            module = self._candidates.sliced(bare, "float32")
            self._latencies[key] = measure_latency(module, self.data.validation.inputs(slice(0, 1)).cpu(), settings)
        return self._latencies[key]

    def __call__(self, plan: Plan, *, report: Report | None = None, race: RaceState | None = None) -> Outcome:
        """Judge ``plan``. A network that cannot be judged gives a failed outcome with its reason, never an exception.

        Args:
            plan: what to remove.
            report: called during retraining with (step, accuracy); ``True`` stops, and the outcome says so.
            race: the plans to beat (with ``settings.race``); a candidate that cannot match is stopped early.

        Raises:
            UnknownNameError: a layer, group, method or reconstruction that does not exist.
            PlanError: the plan does not fit the network.
        """
        if plan in self._outcomes:
            self._outcomes.move_to_end(plan)
            return self._outcomes[plan]
        return self._noted(self._judge.judge(plan, self.resolve(plan), report, race if self.settings.race else None))

    def many(self, plans: Sequence[Plan]) -> list[Outcome]:
        """Judge several plans at once, on all cores: the outcomes of ``[self(plan) for plan in plans]``, in less time.

        Equal plans and equal networks are judged once, and what networks have in common from the input on is computed
        once (:mod:`autoprune.batching`). Plans that retrain are judged one by one.

        Raises:
            UnknownNameError: a layer, group, method or reconstruction that does not exist.
            PlanError: a plan does not fit the network; no plan is judged then.
        """
        found = {plan: self._outcomes[plan] for plan in plans if plan in self._outcomes}
        fresh = {plan: self.resolve(plan) for plan in plans if plan not in found}
        found |= self._judge.many(fresh)
        return [self._noted(found[plan]) for plan in plans]

    def _noted(self, outcome: Outcome) -> Outcome:
        """Kept, so that an equal plan gives it again."""
        if outcome.status is not Status.STOPPED:
            self._outcomes[outcome.plan] = outcome
            self._outcomes.move_to_end(outcome.plan)
            if len(self._outcomes) > _CACHED:
                self._outcomes.popitem(last=False)
        return outcome

    def build(self, plan: Plan) -> PrunedModel:
        """The network of ``plan``, repaired and retrained: the one that was judged, bit for bit, in float32.

        Raises:
            AutopruneError: the plan does not fit, or has no usable network (the reason its outcome gives).
        """
        return self._judge.build(plan, self.resolve(plan))

    def confirm(self, plan: Plan | PrunedModel, split: str = "validation") -> Evaluation:
        """Accuracy and loss in float32 of the network as it is stored: nothing folded, nothing rounded.

        Args:
            plan: a plan (its network is built), or what :meth:`build` gave.
            split: ``validation``, or ``test`` for the report.
        """
        if split not in (names := dict(self.data.parts())):
            raise unknown_name("split", split, names)
        pruned = plan if isinstance(plan, PrunedModel) else self.build(plan)
        return EvalSet(names[split], batch=self.batch).evaluate(pruned.module.eval())

    @cached_property
    def _judge(self) -> Judge:
        name = self.precision.name
        samples = EvalSet(self.data.validation, dtype=DTYPES[name], batch=self.batch, order_seed=self.settings.seed)
        measure = None if self.settings.latency is None else self.measure
        return Judge(self._candidates, self._costs, self.data, samples, name, measure)


def _check_finite(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name!r} of the network holds NaN or infinity; train the network again")
