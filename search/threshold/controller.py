"""``threshold_mlp``: propose thresholds, prune, retrain a little, measure, learn, propose again.

A surrogate foretells the harm of every threshold of every layer with its uncertainty; one joint choice over all layers
spends the budget where it harms least. Every trial refits it. Costs are not learned, they are known.

Source: the loop of "Using Neural networks for Convolutional Neural network compression", with a model of the outcome in
place of a regression on past thresholds, and expected improvement (J. Mockus, V. Tiesis, A. Zilinskas, "The Application
of Bayesian Methods for Seeking the Extremum", 1978) to choose what to try.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from autoprune.search.base import Context, Controller, Point
from autoprune.search.baselines import curves_of
from autoprune.search.records import TrialRecord
from autoprune.search.threshold.candidates import Tried
from autoprune.search.threshold.design import Design
from autoprune.search.threshold.examples import Examples, curve_examples, example_of
from autoprune.search.threshold.facts import LAYERS, NetworkFacts, facts_of
from autoprune.search.threshold.features import Judged
from autoprune.search.threshold.grid import Grid
from autoprune.search.threshold.options import ThresholdOptions, verify
from autoprune.search.threshold.propose import Asked, next_choice
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.seeding import derive

if TYPE_CHECKING:
    from autoprune.search.threshold.grid import Choices


class ThresholdProposer:
    """The controller at work in one search. All it knows follows from the context and the finished trials."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.options = ThresholdOptions.make(context.options)
        self._records: dict[int, TrialRecord] = {}
        self._examples: dict[int, Examples] = {}
        self._flying: dict[int, Choices] = {}

    def tell(self, record: TrialRecord) -> None:
        """Take in a finished trial, whoever proposed it."""
        self._records[record.number] = record
        self._flying.pop(record.number, None)

    def propose(self, number: int) -> Point | None:
        """What promises most; ``None`` once the choice repeats and nothing has been gained for a while."""
        records = [record for _, record in sorted(self._records.items())]
        tried = Tried(self.context, self.grid, records, list(self._flying.values()))
        seed = derive(self.context.seed, "threshold", number)
        choice = self.design.choice(number - tried.baselines, seed, tried)
        if choice is None:
            asked = Asked(self.context, self.options, self.grid, tried, self.surrogate(records), seed)
            choice = next_choice(asked)
        if choice is None:
            return None
        self._flying[number] = choice
        return self.grid.point(choice)

    def surrogate(self, records: list[TrialRecord]) -> Surrogate:
        """What has been learned from these trials; the same whenever it is asked."""
        for record in records:
            if record.number not in self._examples:
                self._examples[record.number] = example_of(record, self.facts)
        examples = Examples.joined([curve_examples(self.facts), *(self._examples[r.number] for r in records)])
        return learned(examples, self.options, derive(self.context.seed, "surrogate"), self.stored)

    @cached_property
    def stored(self) -> Surrogate | None:
        """What earlier studies taught."""
        from autoprune.search.threshold.stored import load_predictor

        return load_predictor(self.options.predictor) if self.options.predictor else None

    @cached_property
    def facts(self) -> NetworkFacts:
        """Of the network, with what each group does alone."""
        context = self.context
        if LAYERS not in context.known:
            context.known[LAYERS] = facts_of(context.objective, context.space)
        facts: NetworkFacts = context.known[LAYERS]
        if not self.options.curves:
            return facts
        return facts.knowing(curves_of(context, context.space.methods[0]))

    @cached_property
    def grid(self) -> Grid:
        """All that may be decided."""
        how = Judged(self.facts.steps, self.facts.batch, self.facts.images)
        return Grid(self.context.space, self.facts, how)

    @cached_property
    def design(self) -> Design:
        """The first trials."""
        return Design(self.context, self.options, self.grid)


def learned(examples: Examples, options: ThresholdOptions, seed: int, stored: Surrogate | None = None) -> Surrogate:
    """A surrogate that knows ``examples``, and what a stored one knew before."""
    if stored is not None:
        return stored.refitted(examples, options.fitting(), seed) if len(examples) else stored
    return Surrogate.fitted(examples, options.fitting(), seed)


THRESHOLD_MLP = Controller(
    "threshold_mlp",
    "A small network that foretells what each threshold on filter norms costs; one joint choice over all layers.",
    "Using Neural networks for Convolutional Neural network compression; ensemble after B. Lakshminarayanan, "
    "A. Pritzel, C. Blundell, Simple and Scalable Predictive Uncertainty Estimation, 2017",
    ThresholdProposer,
    options=ThresholdOptions.described(),
    verify=verify,
)
