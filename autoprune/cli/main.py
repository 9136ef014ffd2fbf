"""``autoprune``: the commands, and what each is for. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autoprune._version import __version__

COMMANDS = {
    "search": ("autoprune.cli.search", "Search the best smaller network within a budget. The main job."),
    "train": ("autoprune.cli.train", "Train a base network and store it."),
    "inspect": ("autoprune.cli.inspect", "Show layers, costs, groups, and how sensitive each group is."),
    "prune": ("autoprune.cli.prune", "Prune by one method, or by a plan file."),
    "predictor": ("autoprune.cli.predictor", "Learn from studies what pruning costs; judge what was learned."),
    "reproduce": ("autoprune.cli.reproduce", "Published experiments, each as one command."),
    "study": ("autoprune.cli.study", "Look into studies; take networks out of them."),
    "runtime": ("autoprune.cli.runtime", "Networks that decide for each input how much of themselves to run."),
    "evaluate": ("autoprune.cli.evaluate", "Judge and measure a stored network."),
    "export": ("autoprune.cli.export", "Write a stored network as safetensors, torch.export or ONNX."),
    "list": ("autoprune.cli.listing", "List methods, models, datasets and controllers."),
}


class LazyGroup(TyperGroup):
    """Knows every command's name and sentence; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its entry, then resolve as usual."""
        if args and args[0] in COMMANDS:
            name = args[0]
            module = importlib.import_module(COMMANDS[name][0])
            command = typer.main.get_command(module.app)
            command.name = name
            self.commands[name] = command
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    name="autoprune",
    help="Neural network pruning as a search: say how small or fast it must get, and come away with the network.",
    epilog="Start with: autoprune search",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoprune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def _entry(name: str) -> Callable[[], None]:
    def entry() -> None:
        """Stands for a command until it is called."""

    entry.__name__ = name
    return entry


for _name, (_module, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_entry(_name))


def main() -> None:
    """The ``autoprune`` command."""
    app()
