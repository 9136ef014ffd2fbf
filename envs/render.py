"""What an episode looks like: bars of what each group keeps, the budget, the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.envs.episode import Episode
from autoprune.envs.task import Task
from autoprune.outcome import Outcome

_WIDTH = 24  # characters of a bar


@dataclass(frozen=True)
class View:
    """What is drawn: an episode as far as it went, its rewards, and the outcome once it has one."""

    task: Task
    episode: Episode
    rewards: tuple[float, ...]
    outcome: Outcome | None

    @property
    def costs(self) -> list[tuple[str, float, float | None]]:
        """(metric, share of the dense cost, limit as such a share) of macs, params and what the budget limits."""
        target = self.task.target
        limits = {} if target is None else {m: v / target.dense.value(m) for m, v in target.limits.items()}
        ratios = self.episode.ratios
        return [(m, ratios[m], limits.get(m)) for m in ratios if m in limits or m != "bytes"]

    @property
    def summary(self) -> str:
        """One line: how far it is, the reward, the accuracy."""
        done, total = len(self.episode.decisions), len(self.task)
        parts = [f"{self.task.name}: {done} of {total} groups decided", f"return {sum(self.rewards):.4f}"]
        if self.outcome is not None and self.outcome.accuracy is not None:
            parts.append(f"accuracy {self.outcome.accuracy:.4f} (dense {self.task.dense_accuracy:.4f})")
        elif self.episode.done:
            parts.append("failed" if self.outcome is not None else "refused")
        return ", ".join(parts)


def text(view: View) -> str:
    """A table with a line for each group, then the costs and the reward."""
    groups, decisions = view.task.space.groups, view.episode.decisions
    name_width = max(len(g.name) for g in groups)
    size_width = max(len(str(g.size)) for g in groups)
    lines = []
    for place, group in enumerate(groups):
        kept = group.size - view.episode.removed.get(group.name, 0)
        filled = round(_WIDTH * kept / group.size)
        bar = "#" * filled + "." * (_WIDTH - filled) if place < len(decisions) else " " * _WIDTH
        method = view.task.space.methods[decisions[place].method] if place < len(decisions) else "to be decided"
        lines.append(
            f"{group.name:<{name_width}}  {kept:>{size_width}} of {group.size:>{size_width}}  [{bar}]  {method}"
        )
    for metric, share, limit in view.costs:
        lines.append(
            f"{metric:<{name_width}}  {share:.1%} of dense" + ("" if limit is None else f", limit {limit:.1%}")
        )
    return "\n".join([*lines, view.summary])


def picture(view: View) -> NDArray[np.uint8]:
    """An image ``[H, W, 3]``: a bar for each group above, costs with their limits below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from autoprune.plots import ACCENT, BAD, INK, KEPT, QUIET, REMOVED

    groups, decided = view.task.space.groups, len(view.episode.decisions)
    kept = [1 - view.episode.removed.get(g.name, 0) / g.size for g in groups]
    width = max(6.0, 0.22 * len(groups) + 1.5)
    figure = Figure(figsize=(width, 4.8), dpi=100)
    canvas: Any = FigureCanvasAgg(figure)
    edges = {"left": 0.7 / width, "right": 1 - 0.6 / width, "top": 0.93, "bottom": 0.1}  # solving for them is slow
    above, below = figure.subplots(2, 1, height_ratios=(5, 2), gridspec_kw={**edges, "hspace": 0.75})
    above.bar(range(len(groups)), [1.0] * len(groups), color=REMOVED, width=0.8)
    shades = [KEPT if place < decided else QUIET for place in range(len(groups))]
    above.bar(range(len(groups)), kept, color=shades, width=0.8)
    above.set_xticks(range(len(groups)), [_short(g.name) for g in groups], rotation=90, fontsize=7)
    above.set_ylabel("units kept (grey: undecided)", fontsize=8)
    above.set_ylim(0, 1)
    above.set_title(view.summary.replace("$", r"\$"), loc="left", fontsize=9, color=INK)
    costs = view.costs[::-1]
    over = [view.episode.done and limit is not None and share > limit for _, share, limit in costs]
    colors = [BAD if bad else KEPT for bad in over]
    below.barh(range(len(costs)), [share for _, share, _ in costs], color=colors, height=0.6)
    for place, (_, share, limit) in enumerate(costs):
        below.text(1.01, place, f"{share:.1%}", va="center", fontsize=8)
        if limit is not None:
            below.plot([limit, limit], [place - 0.42, place + 0.42], color=ACCENT, linewidth=2)
    below.set_yticks(range(len(costs)), [metric for metric, _, _ in costs], fontsize=8)
    below.set_xlim(0, 1)
    below.set_xlabel("share of the dense network's cost; the mark is the budget", fontsize=8)
    for axes in (above, below):
        axes.tick_params(axis="both", labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else "..." + name[-most + 3 :]
