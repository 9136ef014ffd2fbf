"""Wrappers: actions that cannot break the budget, and a table of what episodes gave."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from autoprune.errors import BudgetError, EnvError
from autoprune.files import write_text


class BudgetClip(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """AMC's constrained actions: no sequence of actions can exceed the budget.

    An action that removes so little that the budget would be out of reach, even if every later group lost its most,
    becomes the nearest one that keeps it within reach; the method stays. Costs are counted exactly, with what a group
    takes from the layers that consume it. Discrete actions that would be changed are masked.

    Source: Y. He, J. Lin, Z. Liu, H. Wang, L.-J. Li, S. Han, "AMC: AutoML for Model Compression and Acceleration on
    Mobile Devices", 2018 (algorithm 1).

    Raises:
        BudgetError: the environment has no budget, or one on latency, which cannot be known before the last decision.
        EnvError: the environment is none of autoprune's.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        base: Any = env.unwrapped
        if not hasattr(base, "clipped") or not hasattr(base, "task"):
            raise EnvError(f"BudgetClip needs an environment of autoprune.envs, but got {type(base).__name__}")
        target = base.task.target
        if target is None:
            raise BudgetError("BudgetClip needs a budget: make the environment with budget='macs=0.5' or so")
        if target.budget.measured:
            raise BudgetError(
                f"BudgetClip cannot hold a measured budget ({target.budget.measured}) step by step; "
                "leave BudgetClip out (plans over budget are refused), or use reward='latency' with a budget on macs"
            )

    def action(self, action: Any) -> Any:
        """The nearest action that keeps the budget within reach."""
        base: Any = self.unwrapped
        return base.clipped(action)

    def action_masks(self) -> NDArray[np.bool_]:
        """``True`` for each discrete action that is worth trying and keeps the budget within reach."""
        base: Any = self.unwrapped
        masks: NDArray[np.bool_] = base.action_masks(within_budget=True)
        return masks


class RecordOutcomes(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keeps a row for each finished episode; put it outermost to see the rewards that the agent sees."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self.rows: list[dict[str, Any]] = []
        self._seed: int | None = None
        self._return, self._steps = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; an unfinished one leaves no row."""
        found = self.env.reset(seed=seed, options=options)
        self._seed, self._return, self._steps = seed, 0.0, 0
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step; the last of an episode adds its row."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        self._return, self._steps = self._return + float(reward), self._steps + 1
        if terminated or truncated:
            self.rows.append(self._row(info, truncated))
        return seen, reward, terminated, truncated, info

    def table(self) -> list[dict[str, Any]]:
        """A row for each finished episode: number, seed, return, steps, status, accuracy, costs, plan."""
        return [dict(row) for row in self.rows]

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`table` to ``path``, whole or not at all; the plan as the sparsity of each group."""
        names = list(dict.fromkeys(name for row in self.rows for name in row if name != "plan"))
        groups = list(dict.fromkeys(d["layer"] for row in self.rows if row["plan"] for d in row["plan"]["decisions"]))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [*names, *(f"sparsity/{g}" for g in groups)], restval=0.0)
        writer.writeheader()
        for row in self.rows:
            decisions = row["plan"]["decisions"] if row["plan"] else []
            gone = {f"sparsity/{d['layer']}": d["sparsity"] for d in decisions}
            writer.writerow({name: row.get(name) for name in names} | gone)
        write_text(Path(path), buffer.getvalue())

    def _row(self, info: dict[str, Any], truncated: bool) -> dict[str, Any]:
        outcome = info.get("outcome")
        status = "truncated" if truncated else "refused" if outcome is None else outcome["status"]
        return {
            "episode": len(self.rows),
            "seed": self._seed,
            "return": self._return,
            "steps": self._steps,
            "status": status,
            "accuracy": outcome and outcome["accuracy"],
            **info.get("cost", {}),
            "plan": info.get("plan"),
        }
