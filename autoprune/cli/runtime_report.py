"""Tables and pictures of a network that decides at run time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.console import say, show_table
from autoprune.files import write_text
from autoprune.report.format import percent

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.data import DataSplits, Split
    from autoprune.runtime import RuntimePrunedNetwork
    from autoprune.search.runtime.judging import Judged
    from autoprune.settings import RuntimeEvaluateSettings


def report(
    network: RuntimePrunedNetwork, data: DataSplits, settings: RuntimeEvaluateSettings, folder: Path
) -> dict[str, Any]:
    """Judge ``network``, print the tables, and write them with their pictures to ``folder``."""
    from autoprune.search.runtime.explaining import correlation_of, dense, sweep

    split: Split = getattr(data, settings.split)
    if settings.samples is not None:
        split = split.subset(slice(0, settings.samples))
    whole = dense(network, split)
    found = sweep(network, split, settings.budget)
    rows = [
        {
            "wanted": wanted,
            "knob": knob,
            "macs": judged.share,
            "controller_macs": float(judged.controller_macs.double().mean()) / judged.dense_macs,
            "accuracy": judged.accuracy,
            "correlation": correlation_of(judged, whole.losses, settings.seed),
        }
        for wanted, knob, judged in found
    ]
    others = _others(network, data, split, [judged.share for *_, judged in found], settings)
    told: dict[str, Any] = {
        "split": settings.split,
        "samples": len(split),
        "dense_accuracy": whole.accuracy,
        "runtime": rows,
        "others": others,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _trade_off(told, rows, others, folder)
    middle = found[len(found) // 2]
    told["by_class"] = _by_class(network, data, split, middle[2], folder)
    told["images"] = _images(split, middle[2], whole.losses, settings.images, folder)
    told["explained_at"] = middle[0]
    write_text(folder / "evaluation.json", json.dumps(told, indent=1) + "\n")
    say(f"Tables and pictures are in {folder}")
    return told


def _others(
    network: RuntimePrunedNetwork,
    data: DataSplits,
    split: Split,
    shares: Sequence[float],
    settings: RuntimeEvaluateSettings,
) -> dict[str, list[tuple[float, float]]]:
    """(share, accuracy) of everything else at the shares of the network."""
    from autoprune.search.runtime import Confidence, at_equal_macs, oracle

    points: dict[str, list[tuple[float, float]]] = {}
    chain = network.chain
    least = int(chain.macs(1)) / chain.dense_macs
    within = [min(share, 1.0) for share in shares if share >= least]
    if settings.baselines:
        probes = Confidence.fit(chain, data.calibration, data.num_classes, seed=settings.seed)
        assert network.table is not None
        for share in within:
            norms = chain.norms.at(network.table.knob(network.table.within(share)))
            for name, judged in at_equal_macs(chain, split, share, probes, settings.seed, norms).items():
                points.setdefault(name, []).append((judged.share, judged.accuracy))
    if settings.oracle:
        best = oracle(chain, split)
        points["oracle"] = [(share, best.at(share)) for share in within]
        points["oracle, unlimited"] = [(best.share, best.accuracy)]
    return points


def _trade_off(
    told: dict[str, Any], rows: list[dict[str, Any]], others: dict[str, list[tuple[float, float]]], folder: Path
) -> None:
    from autoprune.search.runtime.pictures import trade_off

    beside = {name: points for name, points in others.items() if len(points) == len(rows)}
    heads = ["MACs", "accuracy", *beside, "knob", "rank correlation"]
    lines = []
    for place, row in enumerate(rows):
        each = [percent(points[place][1]) for points in beside.values()]
        lines.append([f"{row['macs']:.1%}", percent(row["accuracy"]), *each, f"{row['knob']:.4g}", _interval(row)])
    title = f"Accuracy at mean MACs ({told['split']} split, {told['samples']} samples)"
    show_table(f"{title}; whole network {percent(told['dense_accuracy'])}", heads, lines)
    if (best := others.get("oracle, unlimited")) is not None:
        say(f"The oracle needs {best[0][0]:.1%} of the MACs for {percent(best[0][1])}, the most that can be decided.")
    write_csv(folder / "trade_off.csv", heads, lines)
    trade_off(rows, others, folder / "trade_off.png", title)


def _interval(row: dict[str, Any]) -> str:
    """``0.41 [0.35, 0.47]``; of a correlation that does not exist a dash."""
    found = row["correlation"]
    if found["rho"] is None:
        return "-"
    return f"{found['rho']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _by_class(
    network: RuntimePrunedNetwork, data: DataSplits, split: Split, judged: Judged, folder: Path
) -> dict[str, list[float]]:
    from autoprune.search.runtime.explaining import groups_by_class
    from autoprune.search.runtime.pictures import by_class

    names = data.classes or tuple(str(c) for c in range(data.num_classes))
    present = [names[c] for c in range(data.num_classes) if bool((split.y == c).any())]
    table = groups_by_class(judged, split.y, data.num_classes)
    stages = [stage.name for stage in network.chain.stages]
    lines = [[name, *(f"{v:.2f}" for v in row)] for name, row in zip(present, table, strict=True)]
    show_table("Mean groups run of each stage, by class", ["class", *stages], lines)
    write_csv(folder / "by_class.csv", ["class", *stages], lines)
    by_class(table, stages, present, folder / "by_class.png")
    return dict(zip(present, table, strict=True))


def _images(split: Split, judged: Judged, losses: Tensor, count: int, folder: Path) -> dict[str, list[int]]:
    from autoprune.search.runtime.explaining import easiest_and_hardest
    from autoprune.search.runtime.pictures import easy_and_hard

    easy, hard = easiest_and_hardest(judged, losses, count)
    lines = [
        [name, str(i), str(int(split.y[i])), f"{float(judged.actions[i].double().mean()):.2f}", f"{losses[i]:.4f}"]
        for name, places in (("easy", easy), ("hard", hard))
        for i in places
    ]
    heads = ["", "image", "class", "mean groups", "dense loss"]
    show_table("Images for which least and most is run", heads, lines)
    write_csv(folder / "images.csv", heads, lines)
    if split.x.ndim == 4:
        told = [[f"{line[2]}: {line[3]}" for line in lines if line[0] == name] for name in ("easy", "hard")]
        pictures = [[_scaled(split.x[i]) for i in places] for places in (easy, hard)]
        easy_and_hard(pictures[0], pictures[1], told, folder / "images.png")
    return {"easy": easy, "hard": hard}


def _scaled(image: Tensor) -> Tensor:
    """``[C, H, W]`` in [0, 1]."""
    image = image.cpu()
    low, high = image.min(), image.max()
    scaled: Tensor = (image - low).double() / max(float(high - low), 1e-12)
    return scaled


def write_csv(path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as CSV, written whole or not at all."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heads, *rows])
    write_text(path, buffer.getvalue())
