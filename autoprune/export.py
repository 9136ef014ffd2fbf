"""Networks for other programs: safetensors, ``torch.export``, ONNX; each is read back and compared before it counts."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autoprune.errors import ArtifactError, MissingExtraError, ModelError, unknown_name
from autoprune.files import write_bytes
from autoprune.tensors import named_tensors, read_tensors, tensors_digest, write_tensors
from autoprune.train_loop import modes_kept

Example: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"

TOLERANCE = 1e-4
_MAX_BATCH = 65_536


@dataclass(frozen=True)
class Exported:
    """One exported file.

    Attributes:
        path: the file.
        format: ``safetensors``, ``torch`` or ``onnx``.
        difference: largest difference of an output to the network's, relative to the largest output (at least 1).
        any_batch: whether the file takes batches of any size; else only that of the example.
    """

    path: Path
    format: str
    difference: float
    any_batch: bool


def export_network(module: nn.Module, example: Example, folder: str | Path, format: str = "onnx") -> Exported:
    """Write ``module`` to ``folder`` and prove the file: it is read back and its outputs are compared.

    Args:
        module: any network, dense or pruned; not changed.
        example: inputs for it: a tensor, a tuple of positional ones or a mapping of named ones, batch first.
        folder: made if need be.
        format: a key of :data:`FORMATS`.

    Raises:
        UnknownNameError: another format.
        MissingExtraError: ONNX without its packages.
        ModelError: the network cannot be exported; the reason is told.
        ArtifactError: the file cannot be written, or its outputs differ by more than 1e-4.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    refusal = getattr(module, "export_refusal", None)
    if format != "safetensors" and isinstance(refusal, str):
        raise ModelError(refusal)
    with modes_kept(module), torch.no_grad(), _quiet():
        module.eval()
        return FORMATS[format](module, example, Path(folder))


def _safetensors(module: nn.Module, example: Example, folder: Path) -> Exported:  # noqa: ARG001 - one signature for all
    path = folder / "model.safetensors"
    tensors = named_tensors(module)
    write_tensors(path, tensors)
    if tensors_digest(read_tensors(path)) != tensors_digest(tensors):
        raise ArtifactError(f"{str(path)!r} does not hold what was written; is the disk faulty?")
    return Exported(path, "safetensors", 0.0, True)


def _torch(module: nn.Module, example: Example, folder: Path) -> Exported:
    program, any_batch = _program(module, example)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path = folder / "model.pt2"
    write_bytes(path, buffer.getvalue())
    again = torch.export.load(path).module()
    difference = _compare(module, lambda e: _flat(_call(again, e)), _batches(example, any_batch), path)
    return Exported(path, "torch", difference, any_batch)


def _onnx(module: nn.Module, example: Example, folder: Path) -> Exported:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export", "ONNX export")
    program, any_batch = _program(module, example)
    try:
        converted = torch.onnx.export(program, dynamo=True, verbose=False)
        data = converted.model_proto.SerializeToString()  # type: ignore[union-attr]
    except Exception as error:
        raise ModelError(f"the network cannot be written as ONNX: {_first_line(error)}") from error
    path = folder / "model.onnx"
    write_bytes(path, data)
    difference = _compare(module, _onnx_runner(data), _batches(example, any_batch), path)
    return Exported(path, "onnx", difference, any_batch)


#: Name of a format -> what writes and proves it.
FORMATS: dict[str, Callable[[nn.Module, Example, Path], Exported]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "onnx": _onnx,
}


def _program(module: nn.Module, example: Example) -> tuple[torch.export.ExportedProgram, bool]:
    """The exported program, for any batch size where the network allows that."""
    two = _resized(example, max(2, _batch_of(example)))  # a batch of one would be taken for a fixed size
    args, kwargs = _arguments(two)
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    shapes = [{0: batch} if isinstance(v, Tensor) and v.ndim else None for v in (*args, *kwargs.values())]
    dynamic = tuple(shapes) if args else dict(zip(kwargs, shapes, strict=True))
    try:
        return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic), True
    except Exception:  # noqa: BLE001 - the fixed size below tells the reason if it fails as well
        args, kwargs = _arguments(example)
    try:
        return torch.export.export(module, args, kwargs), False
    except Exception as error:
        raise ModelError(f"torch.export cannot take the network: {_first_line(error)}") from error


def _onnx_runner(data: bytes) -> Callable[[Example], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(example: Example) -> list[Tensor]:
        args, kwargs = _arguments(example)
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        feeds = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, feeds)]

    return run


def _compare(module: nn.Module, run: Callable[[Example], list[Tensor]], examples: list[Example], path: Path) -> float:
    """The largest relative difference over ``examples``; the file goes when it is too large."""
    worst = 0.0
    for example in examples:
        wanted, got = _flat(_call(module, example)), run(example)
        for a, b in zip(wanted, got, strict=True):
            scale = max(1.0, float(a.abs().max()))
            worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
    if not worst <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise ArtifactError(f"outputs of {path.name} differ from the network's by {worst:.2e}, more than {TOLERANCE:g}")
    return worst


def _batches(example: Example, any_batch: bool) -> list[Example]:
    if not any_batch:
        return [example]
    return [example, _resized(example, 1), _resized(example, _batch_of(example) + 3)]


def _batch_of(example: Example) -> int:
    args, kwargs = _arguments(example)
    sizes = [len(v) for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim]
    if not sizes:
        raise ModelError("the example input holds no tensor with a batch dimension")
    return sizes[0]


def _resized(example: Example, batch: int) -> Example:
    """The example with its samples repeated or dropped, so that there are ``batch`` of them."""

    def resize(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        return value[torch.arange(batch) % len(value)]

    if isinstance(example, Tensor):
        return resize(example)  # type: ignore[no-any-return]
    if isinstance(example, Mapping):
        return {name: resize(value) for name, value in example.items()}
    return tuple(resize(value) for value in example)


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def _call(module: nn.Module, example: Example) -> Any:
    args, kwargs = _arguments(example)
    return module(*args, **kwargs)


def _flat(output: Any) -> list[Tensor]:
    """Every tensor of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in _flat(value)]
    if isinstance(output, (tuple, list)):
        return [t for value in output for t in _flat(value)]
    return []


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
