"""``threshold_mlp_direct``: the literal first version, kept as a baseline: outcomes in, threshold out, mean squares.

Each trial gives a row for each layer it pruned: accuracy after retraining, cost (the share of multiply-accumulates left
stands for the test time, which no two runs measure alike), filters removed, filters of the layer, its place. A small
network learns to give the threshold of such a row, and is then asked for the threshold of the row that one would like
to see: the dense network's accuracy, at the cost and with as many filters gone as in the best trial so far.

Its flaw: it inverts a map that sends many thresholds to one outcome, by a regression on thresholds that were tried, so
it answers with their mean; it has no objective and no constraint, does not know what it does not know, and soon repeats
itself, which ends the search. :mod:`autoprune.search.threshold.controller` is what to use.

Source: "Using Neural networks for Convolutional Neural network compression", section IV (target column ``Threshold``,
all other columns as inputs).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.checks import whole
from autoprune.errors import unknown_name
from autoprune.search.base import Context, Controller, Point
from autoprune.search.records import TrialRecord
from autoprune.search.threshold.candidates import Tried, fits, on_budget, scattered
from autoprune.search.threshold.choice import Floats
from autoprune.search.threshold.facts import LAYERS, NetworkFacts, facts_of
from autoprune.search.threshold.features import Judged
from autoprune.search.threshold.grid import Choices, Grid
from autoprune.search.threshold.options import refuse_repairs
from autoprune.seeding import derive
from autoprune.thresholds import threshold_of, units_below

if TYPE_CHECKING:
    from autoprune.space import SearchSpace

OPTIONS = {
    "startup": "random trials before it is asked (default: a quarter of the trials, from 3 to 10)",
    "hidden": "units of its two hidden layers (default 16)",
}
TRIES = 20


class DirectProposer:
    """The controller at work in one search."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._records: dict[int, TrialRecord] = {}
        self._flying: dict[int, Choices] = {}

    def tell(self, record: TrialRecord) -> None:
        """Take in a finished trial, whoever proposed it."""
        self._records[record.number] = record
        self._flying.pop(record.number, None)

    def propose(self, number: int) -> Point | None:
        """The thresholds it gives for the outcome one would like to see; ``None`` once it repeats itself."""
        records = [record for _, record in sorted(self._records.items())]
        tried = Tried(self.context, self.grid, records, list(self._flying.values()))
        seed = derive(self.context.seed, "direct", number)
        startup = self.context.options.get("startup")
        first = min(max(self.context.trials // 4, 3), 10) if startup is None else int(startup)
        random = number - tried.baselines < first or len(tried.usable) < 2
        choice = self._random(seed, tried) if random else self._asked(seed, tried)
        if choice is None:
            return None
        self._flying[number] = choice
        return self.grid.point(choice)

    @cached_property
    def facts(self) -> NetworkFacts:
        """Of the network."""
        known = self.context.known
        if LAYERS not in known:
            known[LAYERS] = facts_of(self.context.objective, self.context.space)
        facts: NetworkFacts = known[LAYERS]
        return facts

    @cached_property
    def grid(self) -> Grid:
        """All that may be decided."""
        return Grid(self.context.space, self.facts, Judged(self.facts.steps, self.facts.batch, self.facts.images))

    def _random(self, seed: int, tried: Tried) -> Choices | None:
        draw = np.random.default_rng(seed)
        for _ in range(TRIES):
            choice = on_budget(self.context, self.grid.choices([scattered(self.context.space, draw)]), self.grid)
            if choice not in tried and choice.places.any() and fits(self.context, choice, self.grid):
                return choice
        return None

    def _asked(self, seed: int, tried: Tried) -> Choices | None:
        rows = [row for record in tried.usable for row in self._rows(record)]
        best = tried.usable[0]
        wished = np.array([[self.facts.accuracy, *row[1:-1]] for row in self._rows(best, whole=True)])
        thresholds = self._regression(np.array(rows), wished, seed)
        methods = tried.choices([best]).methods[0]
        shares = {}
        for g, m, threshold in zip(self.grid.groups, methods, thresholds, strict=True):
            shares[g.name] = units_below(g.norms[self.context.space.methods[m]], float(threshold)) / g.size
        names = {g.name: self.context.space.methods[m] for g, m in zip(self.grid.groups, methods, strict=True)}
        choice = on_budget(self.context, self.grid.choices([self.context.space.point(shares, names)]), self.grid)
        new = choice not in tried and choice.places.any() and fits(self.context, choice, self.grid)
        return choice if new else None

    def _rows(self, record: TrialRecord, *, whole: bool = False) -> list[list[float]]:
        """(accuracy, cost, removed, filters, place, threshold) of each pruned layer; of every layer if ``whole``."""
        choices = self.grid.choices([record.values])
        left = self.context.objective.dense_cost.value("macs")
        cost = 0.0 if record.outcome is None else record.outcome.cost.macs / left
        found = []
        for place, (g, k, m) in enumerate(
            zip(self.grid.groups, self.grid.removed(choices)[0], choices.methods[0], strict=True)
        ):
            if k or whole:
                threshold = threshold_of(g.norms[self.context.space.methods[m]], int(k))
                found.append([record.accuracy or 0.0, cost, k / g.size, float(g.size), float(place), threshold])
        return found

    def _regression(self, rows: Floats, wished: Floats, seed: int) -> Floats:
        """Thresholds for ``wished [L, 5]``, learned from ``rows [R, 6]``."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler

        hidden = int(self.context.options.get("hidden", 16))
        scaler = StandardScaler().fit(rows[:, :-1])
        net = MLPRegressor(hidden_layer_sizes=(hidden, hidden), solver="lbfgs", max_iter=300, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(scaler.transform(rows[:, :-1]), rows[:, -1])
        found: Floats = net.predict(scaler.transform(wished))
        return found


def verify(options: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse options and spaces that cannot be.

    Raises:
        SettingsError, UnknownNameError: what cannot be.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise unknown_name("option of controller 'threshold_mlp_direct'", name, OPTIONS)
        whole(f"option {name!r}", value, least=1)
    refuse_repairs("threshold_mlp_direct", space)


DIRECT = Controller(
    "threshold_mlp_direct",
    "Baseline: a small network from outcomes to thresholds, as first published; it has no objective, and soon repeats.",
    "Using Neural networks for Convolutional Neural network compression, section IV",
    DirectProposer,
    options=OPTIONS,
    verify=verify,
)
