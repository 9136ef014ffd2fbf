"""Whether a run folder of the main job holds what the README promises."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MOST_SECONDS = 300
FILES = ("best/model.safetensors", "best/plan.json", "best/plan.png", "report.html", "study.db", "config.toml")


def main(folder: Path) -> None:
    """Check the budget, the table, the time and the files."""
    import autoprune

    result = json.loads((folder / "result.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["dense", "uniform", "global", "greedy", "best found"], list(rows)
    best, dense = rows["best found"], rows["dense"]
    assert best["macs"] <= 0.5 * dense["macs"], f"budget missed: {best['macs']} of {dense['macs']} MACs"
    assert best["accuracy"] >= max(row["accuracy"] or 0 for row in rows.values() if row["fits"]), rows
    assert result["wall_s"] <= MOST_SECONDS, f"the main job took {result['wall_s']} s"
    missing = [name for name in FILES if not (folder / name).is_file()]
    assert not missing, f"missing: {missing}"
    params = sum(p.numel() for p in autoprune.load(folder / "best").parameters())
    assert params == best["params"], (params, best["params"])
    print(f"{best['macs'] / dense['macs']:.1%} of the MACs, accuracy {best['accuracy']:.4f}, {result['wall_s']} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
