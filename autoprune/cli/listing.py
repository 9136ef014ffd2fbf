"""``autoprune list``: what can be named."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.errors import reported

app = typer.Typer(help="List methods, models, datasets and controllers.", no_args_is_help=True, add_completion=False)


@app.command("methods")
def methods() -> None:
    """What ranks the units of a group."""
    with reported():
        from autoprune.methods import METHODS
        from autoprune.reconstruction import RECONSTRUCTIONS

        rows = [
            (name, ", ".join(sorted(p.value for p in m.patterns)), ", ".join(sorted(m.needs)) or "-", m.source)
            for name, m in sorted(METHODS.items())
        ]
        show_table(
            "Methods (--method, --methods)", ("name", "removes", "needs", "source"), rows, left=range(4), fold=(3,)
        )
        repairs = [(n, ", ".join(sorted(r.needs)) or "-", r.source or "-") for n, r in RECONSTRUCTIONS.items()]
        show_table("Reconstructions (--reconstruction)", ("name", "needs", "source"), repairs, left=range(3), fold=(2,))


@app.command("models")
def models() -> None:
    """Networks by name."""
    with reported():
        from autoprune.models import LIBRARIES, MODELS

        rows = [(name, first_sentence(factory)) for name, factory in sorted(MODELS.items())]
        show_table("Models (--model)", ("name", "what it is"), rows, left=range(2), fold=(1,))
        say(f"Also: package.module:factory, and {', '.join(f'{name}:NAME' for name in LIBRARIES)} where installed.")


@app.command("datasets")
def datasets() -> None:
    """Data by name."""
    with reported():
        from autoprune.data import DATASETS

        rows = [(name, ", ".join(s.options) or "-", s.description) for name, s in sorted(DATASETS.items())]
        show_table("Datasets (--data)", ("name", "options", "what it is"), rows, left=range(3), fold=(1, 2))
        say("Also: package.module:factory, a function that returns training, validation and test samples.")


@app.command("controllers")
def controllers() -> None:
    """What decides, and learns from outcomes."""
    with reported():
        from autoprune.search import CONTROLLERS

        rows = [(n, first_sentence(c), ", ".join(c.options) or "-") for n, c in CONTROLLERS.items()]
        heads = ("name", "what it does", "options")
        show_table("Controllers (--controller)", heads, rows, left=range(3), fold=(1, 2))
        for name, controller in CONTROLLERS.items():
            for option, text in controller.options.items():
                say(f"  {name} {option}: {text}")


def first_sentence(value: Any) -> str:
    """The description of a registry's entry: its own, or the first line of its docstring."""
    text = getattr(value, "description", None) or inspect.getdoc(value) or ""
    return str(text).strip().split("\n")[0]
