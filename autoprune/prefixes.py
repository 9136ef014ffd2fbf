"""Shared beginnings: what candidates of one network have in common until the first tensor in which they differ.

Two candidates with the same tensors up to some operation compute the same activations up to there. :func:`observe`
finds out when each tensor is first read and when each module is done, :func:`arranged` puts candidates with long common
beginnings side by side, and a :class:`Memo` hands the outputs of modules from one to the next instead of computing them
again. All bits stay the same.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.modes import Watch

MEMO_BYTES = 256 * 2**20  # held outputs of one thread, at most


@dataclass(frozen=True)
class Course:
    """What happens when in one forward pass; operations are counted from 1.

    Attributes:
        reads: for each tensor that was watched, the first operation that reads it; 0 where none was seen to.
        ends: last operation of each module, by name, that holds parameters, runs once, and writes to nothing that was
            there before.
    """

    reads: tuple[int, ...]
    ends: Mapping[str, int]

    def outermost(self, limit: int) -> frozenset[str]:
        """Modules that are done before operation ``limit`` and stand in no other one that is."""
        done = {name for name, end in self.ends.items() if end < limit}
        return frozenset(name for name in done if not any(above in done for above in _above(name)))


def _above(name: str) -> Iterator[str]:
    return itertools.accumulate(name.split(".")[:-1], lambda path, part: f"{path}.{part}")


class _Clock(Watch):
    """Counts operations; notes which is the first to read a piece of memory, and which modules write to what was there.

    A module that writes to memory older than its call changes what others see, so it cannot be left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.first: dict[int, int] = {}
        self.running: list[tuple[str, int]] = []  # modules that have begun, and when
        self.writing: set[str] = set()
        self._made: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.now += 1
        read = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        for memory in read:
            self.first.setdefault(memory, self.now)
        output = func(*args, **(kwargs or {}))
        self._made |= dict.fromkeys({_memory(tensor) for tensor in _tensors(output)} - read, self.now)
        for memory in map(_memory, _tensors(_written(func, args, kwargs or {}))):
            made = self._made.get(memory, 0)
            self.writing |= {name for name, begun in self.running if made <= begun}
        return output


def _tensors(value: Any) -> Iterator[Tensor]:
    from autoprune.tracing.interpreter import tensors_in

    return tensors_in(value)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Arguments that ``func`` writes to."""
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | {**kwargs}
    writes = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    return [value for name, value in named.items() if name in writes]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def observe(module: nn.Module, watched: Sequence[Tensor], x: Tensor) -> Course:
    """Run ``module`` on ``x`` once and see when each tensor of ``watched`` is read and when each module is done."""
    clock, ends = _Clock(), defaultdict[str, list[int]](list)

    def begun(name: str, *_: Any) -> None:
        clock.running.append((name, clock.now))

    def done(name: str, *_: Any) -> None:
        clock.running.pop()
        ends[name].append(clock.now)

    handles = []
    for name, part in module.named_modules():
        if name and any(True for _ in part.parameters()):
            handles.append(part.register_forward_pre_hook(partial(begun, name), prepend=True))
            handles.append(part.register_forward_hook(partial(done, name)))
    try:
        with torch.no_grad(), clock:
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    once = {name: times[0] for name, times in ends.items() if len(times) == 1 and name not in clock.writing}
    return Course(tuple(clock.first.get(_memory(tensor), 0) for tensor in watched), once)


def arranged(keys: Sequence[Sequence[Hashable]], reads: Sequence[int]) -> tuple[list[int], list[int]]:
    """An order of candidates in which long common beginnings are neighbours.

    Args:
        keys: for each candidate and tensor what the tensor is; equal keys, equal tensors. No two candidates are equal.
        reads: when each tensor is first read.

    Returns:
        Indices of the candidates, and for each but the last the first operation that may differ from the next one's.
    """
    places = sorted(range(len(reads)), key=lambda place: (reads[place], place))
    numbers: dict[tuple[int, Hashable], int] = {}
    rows = [[numbers.setdefault((p, key[p]), len(numbers)) for p in places] for key in keys]
    order = sorted(range(len(keys)), key=rows.__getitem__)
    limits = []
    for one, two in itertools.pairwise(order):
        differ = next(i for i, (a, b) in enumerate(zip(rows[one], rows[two], strict=True)) if a != b)
        limits.append(reads[places[differ]])
    return order, limits


def wanted(course: Course, limits: Sequence[int]) -> list[frozenset[str]]:
    """For each of ``len(limits) + 1`` candidates the modules whose outputs serve one that comes later."""
    found, ahead = [frozenset[str]()], list[int]()
    for limit in reversed(limits):
        ahead = [limit, *(later for later in ahead if later < limit)]
        found.append(frozenset().union(*map(course.outermost, ahead)))
    return found[::-1]


@dataclass(frozen=True, eq=False)
class _Held:
    tensor: Tensor
    version: int


@dataclass(eq=False)
class Memo:
    """Outputs of the modules of one structure, handed from one candidate to the next.

    What follows a module may write to its output in place (``relu_``). That shows in the tensor's version: such an
    output is not used again, and from then on a copy of that module's is held.

    Attributes:
        course: what :func:`observe` saw.
        most: bytes that are held at most.
    """

    course: Course
    most: int = MEMO_BYTES
    hits: int = 0
    _held: dict[str, _Held] = field(default_factory=dict)
    _wanted: frozenset[str] = frozenset()
    _written: set[str] = field(default_factory=set)

    def watch(self, module: nn.Module) -> None:
        """From now on calls of the modules in ``module`` go through this memo."""
        for name, part in module.named_modules():
            if name in self.course.ends:
                vars(part)["forward"] = partial(self._call, name, part.forward)

    def turn(self, limit: int, wanted: frozenset[str]) -> None:
        """The next candidate: the last one's outputs hold before operation ``limit``; of this one's hold ``wanted``."""
        ends = self.course.ends
        self._held = {name: held for name, held in self._held.items() if ends[name] < limit}
        self._wanted = wanted

    @contextmanager
    def samples(self) -> Iterator[None]:
        """Inside, all candidates see the same samples; before and afterwards nothing is held."""
        self._held = {}
        try:
            yield
        finally:
            self._held, self._wanted = {}, frozenset()

    def _call(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        held = self._held.get(name)
        if held is not None and held.tensor._version == held.version:
            self.hits += 1
            return held.tensor.clone() if name in self._written else held.tensor
        if held is not None:
            self._written.add(name)
        output = forward(*args, **kwargs)
        if name in self._wanted and isinstance(output, Tensor):
            self._hold(name, output)
        return output

    def _hold(self, name: str, output: Tensor) -> None:
        self._held.pop(name, None)
        size = sum(held.tensor.nbytes for held in self._held.values())
        kept = output.clone() if name in self._written else output
        if size + kept.nbytes <= self.most and kept.stride() == output.stride():
            self._held[name] = _Held(kept, kept._version)
