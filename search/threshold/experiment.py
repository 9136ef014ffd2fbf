"""The published experiment: thresholds by hand against thresholds chosen by the predictor, one layer and all layers.

"Using Neural networks for Convolutional Neural network compression" prunes the layer with most parameters first,
retrains on a few thousand images between trials, and compares accuracy and time before, after manual and after
automated pruning; it reports a drop of 5 points for one layer and hopes for 1 to 3. The knee of the sorted norms stands
for the person.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.plan import Plan
from autoprune.search.result import best_of
from autoprune.space import SearchSpace
from autoprune.thresholds import knee, sorted_shares, threshold_of

if TYPE_CHECKING:
    from autoprune.costs import LatencySettings
    from autoprune.data import Split
    from autoprune.deploy import Pairs
    from autoprune.objective import Objective
    from autoprune.opening import Opened
    from autoprune.search.progress import Progress
    from autoprune.search.records import TrialRecord
    from autoprune.search.result import SearchResult

BEFORE, BY_HAND = "before pruning", "by hand (knee)"
AUTOMATED = {"drop": "automated, by drop", "size": "automated, same size"}


@dataclass(frozen=True)
class Line:
    """One network of the table.

    Attributes:
        network, scope, how: which model, which layers, and who chose the thresholds.
        validation, test: accuracy after full retraining, float32.
        drop: test accuracy lost against the network before pruning.
        short: validation accuracy after the short retraining of the trial that was chosen; ``None`` without trials.
        test_s: seconds of one pass over the test split; ``latency_ms``: of one sample; both 0 until :func:`timed`.
        params, macs, bytes: what is left; bytes of the stored file.
        trials: plans evaluated to choose it, baselines of the search among them.
        seconds: spent on these, on the final retraining and on its judgement.
        thresholds: by group, in units of its mean norm.
        note: what a reader must know.
    """

    network: str
    scope: str
    how: str
    validation: float
    test: float
    drop: float
    short: float | None
    params: int
    macs: int
    bytes: int
    trials: int
    seconds: float
    thresholds: Mapping[str, float]
    note: str = ""
    test_s: float = 0.0
    latency_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Setup:
    """What the experiment is made with; the fields are settings of ``autoprune reproduce predictor``."""

    method: str
    max_sparsity: float
    cost: str
    drop: float
    trials: int
    final_steps: int
    seed: int
    predictor: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """One network and the layers that may lose filters."""

    opened: Opened
    objective: Objective
    space: SearchSpace
    scope: str
    folder: Path
    setup: Setup

    @classmethod
    def of(cls, opened: Opened, objective: Objective, scope: str, folder: Path, setup: Setup) -> Case:
        """``largest`` takes the group whose layers have most parameters, ``all`` every group."""
        space = SearchSpace.from_graph(objective.graph, methods=(setup.method,), max_sparsity=setup.max_sparsity)
        if scope == "largest":
            layers = objective.graph.layer_costs()
            params = {g.name: sum(layers[n][0] for n in objective.graph.groups[g.name].layers) for g in space.groups}
            largest = max(params, key=lambda name: params[name])
            space = replace(space, groups=tuple(g for g in space.groups if g.name == largest))
        return cls(opened, objective, space, scope, folder, setup)

    def hand_plan(self) -> Plan:
        """Thresholds at the knees, as far as the space allows."""
        shares = {g.name: self._shares(g.name) for g in self.space.groups}
        return self.space.plan(self.space.point({n: knee(values) / len(values) for n, values in shares.items()}))

    def thresholds(self, plan: Plan) -> dict[str, float]:
        """What a plan is as thresholds; 0 for layers that lose nothing."""
        removed = self.space.removed(self.space.values(plan))
        return {name: threshold_of(self._shares(name), count) for name, count in removed.items()}

    def _shares(self, name: str) -> Any:
        return sorted_shares(self.objective.ranker.scores(name, self.setup.method))

    def searched(self, target: str, hand: Plan, watch: Progress) -> SearchResult:
        """The trials of the predictor, in a study of their own that goes on where it was.

        Raises:
            AutopruneError: what :func:`autoprune.search.search` raises.
        """
        from autoprune.search.running import search

        setup, wanted = self.setup, dict[str, Any]()
        options: dict[str, Any] = {"predictor": setup.predictor} if setup.predictor else {}
        if target == "drop":
            wanted, options = {"pareto": (setup.cost,)}, options | {"drop": setup.drop}
        else:
            left = self.objective.cost(hand).value(setup.cost) / self.objective.dense_cost.value(setup.cost)
            wanted = {"budget": {setup.cost: left}}
        return search(
            self.objective,
            **wanted,
            controller="threshold_mlp",
            trials=setup.trials,
            run_dir=self.folder / f"search-{target}",
            space=self.space,
            seed=setup.seed,
            options=options,
            progress=watch,
            confirm=False,
        )

    def chosen(self, target: str, result: SearchResult) -> TrialRecord | None:
        """The trial to keep: the cheapest that loses no more than is allowed, or the most accurate of that size."""
        usable = [t for t in result.trials if t.usable]
        if target == "size":
            return best_of(usable)
        least = (self.objective.dense.accuracy or 0.0) - self.setup.drop
        cheap = [t for t in usable if (t.accuracy or 0.0) >= least and t.plan is not None and t.plan.decisions]
        if not cheap:
            return best_of(usable)

        def cost(trial: TrialRecord) -> tuple[float, float]:
            assert trial.outcome is not None
            return trial.outcome.cost.value(self.setup.cost), -(trial.accuracy or 0.0)

        return min(cheap, key=cost)

    def line(
        self, how: str, plan: Plan, before: Line | None, *, trials: int, seconds: float, short: float | None = None
    ) -> Line:
        """Retrain a plan in full, store its network, judge and measure it."""
        from autoprune.evaluation import evaluate

        started = time.monotonic()
        plan = replace(plan, steps=self.setup.final_steps if plan.decisions else 0)
        built = self.objective.build(plan)
        stored = self._store(self.place(how), built, plan)
        validation = self.objective.confirm(built, "validation").accuracy
        test = evaluate(built.module.eval(), self.objective.data.test).accuracy
        cost = self.objective.cost(plan)
        reference = test if before is None else before.test
        late = short is not None and short < (self.objective.dense.accuracy or 0.0) - self.setup.drop
        return Line(
            network=self.opened.spec.factory,
            scope=self.scope,
            how=how,
            validation=validation,
            test=test,
            drop=reference - test,
            short=short,
            params=cost.params,
            macs=cost.macs,
            bytes=stored,
            trials=trials,
            seconds=seconds + time.monotonic() - started,
            thresholds=self.thresholds(replace(plan, steps=None)),
            note="no trial lost so little" if late and how == AUTOMATED["drop"] else "",
        )

    def place(self, how: str) -> Path:
        """Folder of the network of a line."""
        return self.folder / how.partition(" (")[0].replace(", ", "-").replace(" ", "-")

    def _store(self, folder: Path, built: Any, plan: Plan) -> int:
        """Store a network with its plan; the bytes of its file."""
        from autoprune.artifacts import MODEL_TENSORS, save_network
        from autoprune.files import write_text
        from autoprune.surgery import attributes

        save_network(
            folder,
            built.module,
            self.opened.spec,
            data=self.opened.described(),
            plan=plan,
            attributes=attributes(built.module),
        )
        write_text(folder / "plan.json", plan.to_json() + "\n")
        return (folder / MODEL_TENSORS).stat().st_size


def timed(
    lines: Sequence[Line], folders: Sequence[Path], norms: Pairs, split: Split, settings: LatencySettings
) -> list[Line]:
    """``lines`` with the times of their stored networks, taken one after the other so that they can be compared.

    Args:
        lines: of one network.
        folders: where each is stored.
        norms: pairs that are folded, as of :func:`autoprune.deploy.deployed`.
        split: what one pass goes over.
        settings: of the latency, which is that of the deployed form on the CPU.

    Raises:
        ArtifactError: a stored network cannot be read.
    """
    from autoprune.artifacts import load
    from autoprune.costs import measure_latency
    from autoprune.deploy import deployed
    from autoprune.evaluation import evaluate

    networks = [load(folder).eval() for folder in folders]
    one = split.inputs(slice(0, 1)).cpu()
    latencies = [measure_latency(deployed(network, norms), one, settings).median_ms for network in networks]
    seconds = []
    for network in networks:
        network.to(split.device)
        started = time.monotonic()
        evaluate(network, split)
        seconds.append(time.monotonic() - started)
    both = zip(lines, seconds, latencies, strict=True)
    return [replace(line, test_s=spent, latency_ms=latency) for line, spent, latency in both]
