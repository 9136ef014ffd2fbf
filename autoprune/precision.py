"""Which numbers rank candidates: bfloat16 where the processor has it and it gives the dense network's predictions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.data import Split
from autoprune.deploy import Pairs, deployed
from autoprune.errors import unknown_name
from autoprune.evaluation import DTYPES, EvalSet
from autoprune.graph import LayerGraph
from autoprune.hardware import bfloat16_in_hardware

PRECISIONS = ("auto", "float32", "bfloat16")
AGREEMENT = 0.995  # of the dense network's predictions that must be the same
SAMPLES = 2000  # of the validation split, on which they are compared
MIN_MACS = 1_000_000  # below this the forward pass is calls, not arithmetic, and bfloat16 gains nothing


@dataclass(frozen=True)
class Precision:
    """The numbers of the evaluation pass, and why these."""

    name: str
    reason: str


def choose_precision(
    asked: str, model: nn.Module, split: Split, graph: LayerGraph, *, batch: int, norms: Pairs | None = None
) -> Precision:
    """Decide for one network; the same on every run on the same kind of processor.

    Args:
        asked: ``auto``, or one to take without a question.
        model: the dense network.
        split: the validation split.
        graph: its layers.
        batch: samples in one forward pass.
        norms: batch norms that are folded; those of the graph by default.
    """
    if asked not in PRECISIONS:
        raise unknown_name("precision", asked, PRECISIONS)
    if asked != "auto":
        return Precision(asked, "asked for")
    if split.device.type != "cpu":
        return Precision("float32", f"the samples are on {split.device}")
    if graph.macs < MIN_MACS:
        return Precision("float32", f"the network is small ({graph.macs} multiply-accumulates a sample)")
    if not bfloat16_in_hardware():
        return Precision("float32", "the processor has no bfloat16 arithmetic")
    agreement = _agreement(model, split, graph.norms if norms is None else norms, batch)
    if agreement is None:
        return Precision("float32", "the network does not run in bfloat16")
    name = "bfloat16" if agreement >= AGREEMENT else "float32"
    return Precision(name, f"bfloat16 gives {agreement:.2%} of float32's predictions on the dense network")


def _agreement(model: nn.Module, split: Split, norms: Pairs, batch: int) -> float | None:
    """Share of equal predictions, ``None`` where the network fails in bfloat16."""
    few = split.subset(slice(0, SAMPLES))
    predictions = []
    for name in ("float32", "bfloat16"):
        samples = EvalSet(few, dtype=DTYPES[name], batch=batch)
        try:
            predictions.append(samples.predictions(deployed(model, norms, dtype=DTYPES[name])))
        except RuntimeError:
            if name == "float32":
                raise
            return None
    return float((predictions[0] == predictions[1]).float().mean())
