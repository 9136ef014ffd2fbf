"""One split's samples read into memory, from a loader, a dataset or arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from autoprune.data.splits import Split
from autoprune.data.splitting import Samples
from autoprune.errors import AutopruneError, DataError
from autoprune.seeding import derive

_INPUT_KEYS = ("x", "image", "images", "img", "pixel_values", "input_ids", "inputs", "features")
_CLASS_KEYS = ("y", "label", "labels", "target", "targets", "class")
_BATCH = 256


def is_array(value: object) -> bool:
    """Whether ``value`` is a tensor, a numpy array, or says how to become one (a pandas table)."""
    return isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "__array__")


def read(given: Any, what: str, seed: int) -> Samples:
    """All samples of a loader, dataset, split, or pair of arrays.

    Args:
        given: a :class:`Split`, a pair (x, y) of arrays, a DataLoader, a Dataset, or anything that yields batches or
            samples (x, y).
        what: what it is, for messages.
        seed: of random transforms, which are drawn once; the process's own random state is left as it was.

    Raises:
        DataError: nothing in it, an error inside it, or something that is not (x, y).
    """
    if isinstance(given, Split):
        return Samples(given.x, given.y)
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(is_array(part) for part in given):
        return Samples(_inputs(given[0], what), _classes(given[1], what))
    if type(given) is TensorDataset and len(given.tensors) == 2:
        return Samples(_inputs(given.tensors[0], what), _classes(given.tensors[1], what))
    if not isinstance(given, (DataLoader, Dataset)) and not hasattr(given, "__iter__"):
        raise DataError(f"the {what} must be a DataLoader, a Dataset or arrays (x, y), but got {type(given).__name__}")
    return _collect(given, what, seed)


def _collect(given: Any, what: str, seed: int) -> Samples:
    inputs, classes = [], []
    with _own_randomness(given, seed):
        try:
            for x, y in _batches(given, what):
                single = y.ndim == 0
                inputs.append(_inputs(x[None] if single else x, what))
                classes.append(_classes(y[None] if single else y, what))
        except AutopruneError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"reading the {what} failed: {type(error).__name__}: {error}") from error
    if not inputs:
        raise DataError(f"the {what} yielded nothing")
    shapes = sorted({tuple(x.shape[1:]) for x in inputs})
    if len(shapes) > 1:
        raise DataError(f"samples of the {what} differ in shape: {list(shapes[0])} and {list(shapes[1])}")
    return Samples(torch.cat(inputs), torch.cat(classes))


@contextmanager
def _own_randomness(given: Any, seed: int) -> Iterator[None]:
    """Random transforms draw from ``seed``; torch's own generator and the loader's are put back."""
    own = getattr(given, "generator", None)
    state = own.get_state() if isinstance(own, torch.Generator) else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "read"))
        try:
            yield
        finally:
            if state is not None and isinstance(own, torch.Generator):
                own.set_state(state)


def _batches(given: Any, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, or single samples (whose class has no dimension)."""
    batches: Iterable[Any] = given
    if isinstance(given, DataLoader):
        batches = _ordered(given)
    elif isinstance(given, Dataset):
        batches = DataLoader(given, batch_size=_BATCH, generator=torch.Generator())
    for batch in batches:
        x, y = _pair(batch, what)
        yield _tensor(x, what), _tensor(y, what)


def _ordered(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same samples in the dataset's order, where they are simply shuffled; else the loader itself."""
    sampler, dataset = loader.sampler, loader.dataset
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        return loader
    if isinstance(dataset, IterableDataset):
        return loader
    if type(sampler) is SubsetRandomSampler:
        dataset = Subset(dataset, list(sampler.indices))
    elif not (type(sampler) is SequentialSampler or _only_shuffles(sampler, dataset)):
        return loader
    return DataLoader(dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, generator=torch.Generator())


def _only_shuffles(sampler: Any, dataset: Any) -> bool:
    return type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset)


def _pair(batch: Any, what: str) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        x = [key for key in _INPUT_KEYS if key in batch]
        y = [key for key in _CLASS_KEYS if key in batch]
        if len(x) == 1 and len(y) == 1:
            return batch[x[0]], batch[y[0]]
        raise DataError(
            f"batches of the {what} must hold one input ({', '.join(_INPUT_KEYS)}) and one class "
            f"({', '.join(_CLASS_KEYS)}), but hold {', '.join(map(str, batch))}"
        )
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise DataError(f"batches of the {what} must be (inputs, classes), but are {type(batch).__name__}{size}")


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if type(value).__module__.startswith("PIL."):
        raise DataError(f"the {what} holds PIL images; turn them into tensors in the dataset's transform")
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"the {what} must hold numbers, but holds {type(value).__name__} ({error})") from error


def _inputs(value: Any, what: str) -> Tensor:
    """uint8 stays, integers become int64 (token indices), the rest float32."""
    x = _tensor(value, what)
    if x.is_complex() or x.ndim < 2:
        raise DataError(f"inputs of the {what} must be real numbers [N, ...], but are {x.dtype} {list(x.shape)}")
    if x.dtype == torch.uint8:
        return x
    integer = not x.is_floating_point() and x.dtype != torch.bool
    return x.to(torch.int64 if integer else torch.float32)


def _classes(value: Any, what: str) -> Tensor:
    y = _tensor(value, what)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"classes of the {what} must be one integer a sample [N], but are {list(y.shape)}; "
            "turn one-hot rows into classes with argmax(1)"
        )
    if y.is_floating_point() and not bool((y == y.round()).all()):
        raise DataError(f"classes of the {what} must be whole numbers, but hold {float(y[y != y.round()][0])}")
    return y.to(torch.int64)
