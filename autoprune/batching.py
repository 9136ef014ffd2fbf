"""Several candidates evaluated at once: on all cores, one block of samples after another, equal beginnings only once.

Each block of samples goes through all candidates before the next one, so that what they have in common
(:mod:`autoprune.prefixes`) is held for one block only. A thread takes a block, or with few blocks a block and some of
the candidates, and computes on one core. A forward pass does not depend on who runs it, so neither do the outcomes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from autoprune.evaluation import EvalSet, Evaluation, gathered, until_not_finite
from autoprune.graph import LayerGraph
from autoprune.prefixes import Course, Memo, arranged, observe, wanted
from autoprune.skeleton import Key, Known, Skeleton
from autoprune.surgery import with_tensors
from autoprune.threads import in_threads

Passes = Sequence[Sequence[tuple[int, int]]]

_ENOUGH = 4  # blocks for each thread from which a thread need not share a block with another to stay busy
_AT_ONCE = 256 * 2**20  # bytes of tensors that candidates have for themselves
_TURNS = 4  # candidates with little in common that take turns: the compiled kernels of more push each other out
_LITTLE = 0.25  # of a forward pass


class Tally:
    """What one network did, forward pass by forward pass.

    Args:
        samples: what it is evaluated on.
        passes: (first, after the last) sample of the forward passes of each part that is evaluated by itself.
    """

    def __init__(self, samples: EvalSet, passes: Passes) -> None:
        self._samples, self._passes = samples, passes
        self._blocks = list(itertools.chain.from_iterable(passes))
        self._found: list[tuple[Tensor, float] | Exception | None] = [None] * len(self._blocks)
        self._seconds = [0.0] * len(self._blocks)
        self._broken = len(self._blocks)

    def run(self, module: nn.Module, block: int) -> None:
        """Evaluate ``module`` on a block, unless an earlier one has shown that it cannot be judged."""
        if block > self._broken:
            return
        started = time.perf_counter()
        try:
            bits, loss = self._samples.block(module, *self._blocks[block])
            self._found[block], broken = (bits, loss), not math.isfinite(loss)
        except Exception as error:  # noqa: BLE001 - raised where the evaluations are asked for
            self._found[block], broken = error, True
        if broken:
            self._broken = min(self._broken, block)
        self._seconds[block] = time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Time in forward passes, all threads together."""
        return sum(self._seconds)

    def evaluations(self) -> list[Evaluation]:
        """One for each part, as :meth:`EvalSet.evaluate` gives it.

        Raises:
            Exception: what the first block raised that did.
            NotFinite: a loss is NaN or infinite.
        """
        found = until_not_finite(self._parts())
        return [gathered(list(itertools.islice(found, len(part)))) for part in self._passes]

    def _parts(self) -> Iterator[tuple[Tensor, float]]:
        for found in self._found:
            if isinstance(found, Exception):
                raise found
            assert found is not None, "a block was left out"
            yield found


@dataclass(frozen=True, eq=False)
class _Entry:
    """A candidate among its neighbours: see :func:`arranged` and :func:`wanted`."""

    tensors: Sequence[Tensor]
    tally: Tally
    limit: int
    wanted: frozenset[str]


class Together:
    """Evaluates candidates of one network.

    Args:
        samples: what they are evaluated on.
        passes: forward passes of each part that is evaluated by itself, in order.
        base: the whole network in its deployed form.
        graph: its graph.
    """

    def __init__(self, samples: EvalSet, passes: Passes, base: nn.Module, graph: LayerGraph) -> None:
        self._samples, self._passes, self._base, self._graph = samples, passes, base, graph
        self._blocks = range(sum(map(len, passes)))
        self._benches: list[tuple[Skeleton, Memo]] = []  # one for each thread

    def modules(self, modules: Sequence[nn.Module], threads: int) -> list[Tally]:
        """Evaluate networks of their own. Where there are few, each thread takes some blocks of each of them."""
        tallies = [Tally(self._samples, self._passes) for _ in modules]
        parts = 1 if len(modules) >= _ENOUGH * threads else max(1, min(threads, len(self._blocks)))
        jobs = []
        for module, tally in zip(modules, tallies, strict=True):
            for part in range(parts):  # a module is never in two threads at a time: it may keep something on the way
                own = with_tensors(module, {}, share=True) if part else module
                jobs.append(partial(_run, own, tally, self._blocks[part::parts]))
        in_threads(jobs, threads)
        return tallies

    def slices(self, keys: Sequence[Key], make: Callable[[int, Known], list[Tensor]], threads: int) -> list[Tally]:
        """Evaluate networks cut from the whole one; equal ones once.

        Args:
            keys: for each candidate and each of the skeleton's cuts what its tensor depends on.
            make: the tensors of a candidate for a :class:`Skeleton`, given its number; see :meth:`Skeleton.tensors`.
            threads: how many run at a time.
        """
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        numbers = sorted(first.values())
        tallies = {keys[number]: Tally(self._samples, self._passes) for number in numbers}
        if not tallies:
            return []
        order, limits = arranged([keys[number] for number in numbers], self._course.reads)
        arrangement = [numbers[place] for place in order]
        for start, tensors in _portions(arrangement, make, self._ends(limits)):
            stop = start + len(tensors)
            near = limits[start : stop - 1]
            some = [tallies[keys[number]] for number in arrangement[start:stop]]
            self._evaluate(tensors, some, near, threads)
        return [tallies[key] for key in keys]

    def _evaluate(
        self, tensors: Sequence[Sequence[Tensor]], tallies: Sequence[Tally], limits: Sequence[int], threads: int
    ) -> None:
        parts = 1 if len(self._blocks) >= _ENOUGH * threads else min(threads, len(tensors))
        edges = [len(tensors) * part // parts for part in range(parts + 1)]
        pieces = []
        for start, stop in itertools.pairwise(edges):
            near = limits[start : stop - 1]
            columns = (tensors[start:stop], tallies[start:stop], [0, *near], wanted(self._course, near))
            pieces.append([_Entry(*entry) for entry in zip(*columns, strict=True)])
        for _ in range(len(self._benches), threads):
            self._benches.append(self._bench())
        in_threads([partial(self._sweep, block, piece) for block in self._blocks for piece in pieces], threads)

    def _sweep(self, block: int, entries: Sequence[_Entry], thread: int) -> None:
        skeleton, memo = self._benches[thread]
        shared = any(entry.wanted for entry in entries)
        with torch.no_grad() if shared else torch.inference_mode(), memo.samples():
            for entry in entries:
                memo.turn(entry.limit, entry.wanted)
                entry.tally.run(skeleton.put(entry.tensors), block)

    def _ends(self, limits: Sequence[int]) -> list[bool]:
        """For each neighbour of the next candidate whether the two have little in common."""
        whole = max(self._course.reads, default=0)
        return [limit <= _LITTLE * whole for limit in limits]

    def _bench(self) -> tuple[Skeleton, Memo]:
        skeleton, memo = Skeleton(self._base, self._graph), Memo(self._course)
        memo.watch(skeleton.module)
        return skeleton, memo

    @cached_property
    def _course(self) -> Course:
        skeleton = Skeleton(self._base, self._graph)
        return observe(skeleton.module, [cut.tensor for cut in skeleton.cuts], self._samples.x[:2])


def _run(module: nn.Module, tally: Tally, blocks: Iterable[int], _thread: int) -> None:
    with torch.inference_mode():
        for block in blocks:
            tally.run(module, block)


def _portions(
    numbers: Sequence[int], make: Callable[[int, Known], list[Tensor]], ends: Sequence[bool]
) -> Iterator[tuple[int, list[list[Tensor]]]]:
    """Consecutive candidates that are evaluated together: the place of the first, and their tensors.

    Their tensors fit into memory together, and a portion of some size ends where neighbours have little in common.
    """
    start, tensors, known, size = 0, list[list[Tensor]](), Known(), 0
    for place, number in enumerate(numbers):
        before = len(known)
        tensors.append(make(number, known))
        size += sum(tensor.nbytes for tensor in itertools.islice(known.values(), before, None))
        apart = len(tensors) >= _TURNS and place < len(ends) and ends[place]
        if size >= _AT_ONCE or apart:
            yield start, tensors
            start, tensors, known, size = place + 1, [], Known(), 0
    if tensors:
        yield start, tensors
