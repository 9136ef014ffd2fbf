"""The table of the knob, measured: a sweep over validation samples that looks closer where the cost changes most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from autoprune.checks import whole
from autoprune.data import Split
from autoprune.devices import batch_for
from autoprune.errors import ChainError
from autoprune.evaluation import EvalSet, checked_logits
from autoprune.runtime.network import RuntimePrunedNetwork
from autoprune.runtime.recalibration import recalibrate_knobs
from autoprune.runtime.table import KnobRow, KnobTable, growing
from autoprune.runtime.walk import Walk

_DOUBLINGS = 8  # of the distance that is added to what the scores ask for, until rounding has no part in it
_TIMES = 2  # that a row is put where those so far say a share is
_CLOSE = 0.02  # of the dense network's multiply-accumulates: rows nearer than this need none between them


def calibrate(
    network: RuntimePrunedNetwork,
    split: Split,
    *,
    rows: int = 25,
    batch_size: int | None = None,
    shares: Sequence[float] = (),
) -> KnobTable:
    """Measure what the knob gives on ``split`` (validation), store the table in ``network`` and return it.

    The first row runs the least (action 1 everywhere), the last all groups; further rows split the widest gap between
    two rows, where half of the decisions have changed that change next from either. The network's knob stays as it was.

    Args:
        network: with its trained controller.
        split: samples that the network was not trained on.
        rows: most rows, at least 2; each costs a pass over the samples.
        batch_size: samples in one forward pass; by default what suits the device.
        shares: of the dense multiply-accumulates that rows are put next to beside these, two for each.

    Raises:
        ChainError: no samples, or scores that are not finite.
    """
    whole("rows", rows, 2)
    if not len(split):
        raise ChainError("a table of the knob needs samples to be measured on, but the split is empty")
    sweep = _Sweep(network, EvalSet(split, batch=batch_size or batch_for(split.device, 256)))
    before = network.knob
    try:
        found = [sweep.end(1), sweep.end(network.chain.groups)]
        while len(found) < rows and (middle := sweep.between(found)) is not None:
            found = sorted([*found, sweep.row(middle)], key=lambda row: row.knob)
        for share in [share for share in shares for _ in range(_TIMES)]:
            table = KnobTable(growing(found), len(split))
            knob = table.knob(table.within(share))
            if all(row.knob != knob for row in found):
                found.append(sweep.row(knob))
    finally:
        network.knob = before
    network.table = KnobTable(growing(found), len(split))
    return network.table


def settle(network: RuntimePrunedNetwork, split: Split, *, settings: int = 13) -> None:
    """Estimate the statistics of norms that belong to settings of the knob, from what the network runs at them.

    The settings lie evenly between the least that can be run and all groups, by multiply-accumulates. Statistics
    between them are interpolated. Which sample comes with the actions of which is drawn anew: where hard samples run
    more than others, the moments of a width would be those of hard samples, and take away what tells them apart.
    A table that was calibrated before holds no longer: call :func:`calibrate` again.

    Args:
        network: with its trained controller; gets the statistics, its table is taken away.
        split: samples, at least 2. All of them stand in memory together.
        settings: most of them, at least 2; each costs three passes over the samples.

    Raises:
        ChainError: fewer than two samples, or scores that are not finite.
    """
    whole("settings", settings, 2)
    chain, before = network.chain, network.knob
    chain.norms.hold(())
    table = calibrate(network, split, rows=settings + 4)
    shares = torch.linspace(table.least, table.most, settings, dtype=torch.float64).tolist()
    knobs = {table.knob(table.within(share)) for share in shares[1:-1]} | {table.rows[0].knob, table.rows[-1].knob}
    samples = EvalSet(split, batch=batch_for(split.device, 256))
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    decided = {}
    try:
        for knob in sorted(knobs):
            network.knob = knob
            runs = [network.run(samples.x[start:stop]) for start, stop in samples.blocks(0, len(samples))]
            decided[knob] = torch.cat([run.actions for run in runs])[order]
    finally:
        network.knob, network.table = before, None
    recalibrate_knobs(chain, samples.x, decided)
    network.repack()


class _Sweep:
    """A network and the samples it is measured on."""

    def __init__(self, network: RuntimePrunedNetwork, samples: EvalSet) -> None:
        self._network, self._samples = network, samples
        self._prices = torch.stack([network.controller.bias(stage) for stage in range(len(network.chain.stages))])
        self._changes: dict[float, Tensor] = {}  # for rows by their knobs: knobs at which decisions change next

    def end(self, action: int) -> KnobRow:
        """The row of about the first knob at which all samples take ``action`` (the least or the most) everywhere."""
        chain, sign = self._network.chain, 1 if action > 1 else -1
        knobs = chain.norms.knobs
        self._network.knob = knobs[-1 if sign > 0 else 0] if knobs else self._network.knob  # for its statistics
        bound, size = self._bound(action)
        if knobs:
            bound = max(bound, knobs[-1]) if sign > 0 else min(bound, knobs[0])
        target = int(chain.macs(action))
        for doubling in range(_DOUBLINGS):
            row = self.row(bound + sign * size * 2.0**doubling)
            if row.macs - row.controller_macs == target:
                return row
        raise ChainError("rounding changes what the controller scores best; it cannot be calibrated")

    def _bound(self, action: int) -> tuple[float, float]:
        """(the knob from which on ``action`` scores best wherever it was taken before, what rounding may change)."""
        knobs = torch.cat([changes for _, changes, _ in self._passes(action)])
        bound = float(knobs.max() if action > 1 else knobs.min())
        return bound, 1e-6 * max(abs(bound), float(knobs.abs().max()), 1e-6)

    def row(self, knob: float) -> KnobRow:
        """What ``knob`` gives."""
        self._network.knob = knob
        chain, controller = self._network.chain, self._network.controller
        right = macs = own = 0
        found = []
        for walk, changes, y in self._passes():
            right += int((checked_logits(walk.output.cpu(), y).argmax(1) == y).sum())
            macs += int(chain.macs(walk.actions).sum())
            own += int(controller.macs(chain.reads(walk.actions)).sum())
            found.append(changes)
        self._changes[knob] = torch.cat(found)
        size = len(self._samples)
        total = (macs + own) / size
        return KnobRow(knob, total, total / chain.dense_macs, own / size, right / size)

    @torch.inference_mode()
    def _passes(self, action: int | None = None) -> Iterator[tuple[Walk, Tensor, Tensor]]:
        """(how they end, knobs at which decisions change next, labels) of the samples in batches.

        With ``action`` that is taken everywhere, and the changes are those at which it would be.
        """
        network, controller = self._network, self._network.controller
        biases = network.knob * self._prices
        for start, stop in self._samples.blocks(0, len(self._samples)):
            x = self._samples.x[start:stop]
            walk, state, changes = network.compiled.begin(x), controller.start(len(x)), []
            while not walk.done:
                scores, state = controller.step(walk.stage, walk.pooled, state)
                own, prices = scores.double().cpu(), self._prices[walk.stage]
                if not bool(own.isfinite().all()):
                    raise ChainError("the controller's scores are not finite; train it before the knob is calibrated")
                taken = (own + biases[walk.stage]).argmax(1) if action is None else torch.full((len(x),), action - 1)
                changes.append(_next(own, prices, taken))
                walk = walk.step(taken + 1)
            yield walk, torch.cat(changes), self._samples.y[start:stop].cpu()

    def between(self, rows: list[KnobRow]) -> float | None:
        """A knob that splits the widest gap between two rows that can be split, ``None`` where there is none."""
        wide = [(low, high) for low, high in pairwise(rows) if high.share - low.share > _CLOSE]
        for low, high in sorted(wide, key=lambda gap: gap[0].share - gap[1].share):
            changes = torch.cat([self._changes[low.knob], self._changes[high.knob]]).sort().values
            ends = torch.searchsorted(changes, torch.tensor([low.knob, high.knob], dtype=torch.float64))
            knob = _parting(changes[slice(*ends.tolist())])
            if knob is not None and low.knob < knob < high.knob:
                return knob
        return None


def _next(scores: Tensor, prices: Tensor, taken: Tensor) -> Tensor:
    """Knobs at which the decisions of samples change next, upwards and downwards, one after the other.

    Args:
        scores: float64 ``[N, k]``, without the knob's part.
        prices: float64 ``[k]``, what a knob of 1 adds.
        taken: int64 ``[N]``, places of the actions that are taken.
    """
    apart = prices - prices[taken][:, None]  # [N, k]
    knobs = (scores.gather(1, taken[:, None]) - scores) / apart
    up = knobs.masked_fill(apart <= 0, torch.inf).amin(1)
    down = knobs.masked_fill(apart >= 0, -torch.inf).amax(1)
    found = torch.cat([up, down])
    return found[found.isfinite()]


def _parting(values: Tensor) -> float | None:
    """What parts sorted ``values`` into halves about, without being one of them; ``None`` where all are equal."""
    if not len(values) or float(values[0]) == float(values[-1]):
        return None
    middle = values[len(values) // 2]
    cuts = (int(torch.searchsorted(values, middle, right=right)) for right in (False, True))
    cut = min((c for c in cuts if 0 < c < len(values)), key=lambda c: abs(c - len(values) / 2))
    return float((values[cut - 1] + values[cut]) / 2)
