"""``autoprune train``: a base network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoprune.cli.console import say
from autoprune.cli.options import command
from autoprune.errors import ArtifactError
from autoprune.report.format import duration, percent
from autoprune.settings import TrainSettings

if TYPE_CHECKING:
    from autoprune.opening import Opened
    from autoprune.training import TrainSettings as Engine

TRAINING = (
    *("epochs", "lr", "optimizer", "momentum", "schedule", "warmup_epochs", "batch_size", "weight_decay"),
    *("label_smoothing", "clip_norm", "patience", "augment", "precision", "seed"),
)
"""Settings that :class:`autoprune.training.TrainSettings` shares with the command."""

app = typer.Typer(add_completion=False)


def run(settings: TrainSettings) -> None:
    """Train a base network and store it.

    The best epoch on the validation split is kept. A training that was stopped goes on with the same command. What is
    not given is chosen to suit the network and the data.
    """
    from autoprune.cli.record import made_with
    from autoprune.locking import folder_lock
    from autoprune.opening import default_folder, open_network, use_threads

    use_threads(settings.threads)
    opened = open_network(settings)
    out = settings.out or default_folder("checkpoints", opened)
    engine = fitting(opened, {name: getattr(settings, name) for name in TRAINING})
    with folder_lock(out, "training", ArtifactError):  # the settings of one that runs there stay
        settings.save(out / "config.toml", {**made_with(), "training": stored_form(engine)})
    train(opened, out, engine, settings.resume)
    say(f"Stored in {out}")
    say(f"Next:  autoprune search --base {out}")
    say(f"       autoprune inspect --base {out} --sensitivity")


def fitting(opened: Opened, given: dict[str, Any]) -> Engine:
    """The engine's settings: those given, and what suits the network and the data for the rest."""
    from autoprune.training import TrainSettings as Engine

    return Engine.fitting(opened.spec.factory, opened.data, **given)


def stored_form(engine: Engine) -> dict[str, Any]:
    """Settings as TOML holds them."""
    return {name: value for name, value in dataclasses.asdict(engine).items() if value is not None}


def train(opened: Opened, out: Path, settings: Engine, resume: bool = True) -> dict[str, Any]:
    """Train the network of ``opened`` into ``out`` with progress; its metrics."""
    from autoprune.cli.meter import Meter
    from autoprune.training import Epoch, train_network

    samples = f"{len(opened.data.train)} samples, {settings.epochs} epochs"
    say(f"Training {opened.spec.factory} on {opened.data.name}: {samples}")
    with Meter("Epoch", settings.epochs) as meter:

        def show(epoch: Epoch) -> None:
            judged = f"validation {percent(epoch.accuracy)}  best {percent(epoch.best_accuracy)}"
            meter.update(epoch.epoch, f"loss {epoch.train_loss:.3f}  {judged}")

        metrics = train_network(
            opened.spec, opened.data, settings, out, resume=resume, progress=show, data_options=opened.data_options
        )
    validation, test = metrics["validation"], metrics["test"]
    say(
        f"Best epoch {metrics['best_epoch']} of {metrics['epochs']}: validation {percent(validation['accuracy'])}, "
        f"test {percent(test['accuracy'])}  ({duration(metrics['wall_s'])})"
    )
    return metrics


command(app, TrainSettings, run)
