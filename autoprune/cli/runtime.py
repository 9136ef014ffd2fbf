"""``autoprune runtime``: networks that decide for each input how much of themselves to run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoprune.cli.console import say, show_table
from autoprune.cli.options import command
from autoprune.errors import ArtifactError, SettingsError
from autoprune.report.format import percent
from autoprune.settings import RuntimeEvaluateSettings, RuntimeExportSettings, RuntimeTrainSettings

if TYPE_CHECKING:
    from autoprune.data import DataSplits
    from autoprune.runtime import RuntimePrunedNetwork

app = typer.Typer(
    help="Networks that decide for each input how much of themselves to run.",
    no_args_is_help=True,
    add_completion=False,
)


def train(settings: RuntimeTrainSettings) -> None:
    """Train a controller and its network in turns, calibrate the knob, and store both.

    Without a base network, the small one on digits that comes with the package is taken. A training that was stopped
    goes on with the same command.
    """
    from autoprune.cli.meter import Meter
    from autoprune.cli.record import made_with
    from autoprune.envs.runtime_task import open_runtime_task
    from autoprune.locking import folder_lock
    from autoprune.opening import default_folder, use_threads
    from autoprune.search.runtime.settings import RuntimeSettings
    from autoprune.search.runtime.training import Store, train_runtime

    engine = RuntimeSettings(**{name: getattr(settings, name) for name in RuntimeSettings.__dataclass_fields__})
    use_threads(settings.threads)
    task, opened = open_runtime_task(settings, settings.data or "digits")
    out = settings.out or default_folder("runs", opened).with_name(f"{opened.name}-runtime")
    how = f"{len(task)} stages of {settings.groups} groups, {settings.rounds} rounds with {settings.agent}"
    say(f"Training {opened.spec.factory} on {opened.data.name}: {how}")
    with folder_lock(out, "training", ArtifactError):
        settings.save(out / "config.toml", made_with())
        with Meter("Turn", engine.turns + 1) as meter:

            def show(line: dict[str, Any], total: int) -> None:
                del total
                judged = f"{line['turn']}: validation {percent(line['accuracy'])} with {line['macs']:.1%} of the MACs"
                place = ("prepare", "controller", "backbone").index(line["turn"]) + bool(engine.prepare_steps)
                done = 2 * line["round"] + max(place, 1)
                meter.update(done, judged, news=True)
                if done == engine.turns:
                    meter.line("Estimating the statistics of norms at settings of the knob, calibrating the knob")

            store = Store(opened.spec, opened.described())
            network = train_runtime(task, engine, folder=out, store=store, progress=show)
            meter.update(engine.turns + 1, "calibrated")
    assert network.table is not None
    rows = [(f"{r.knob:.4g}", f"{r.share:.1%}", percent(r.accuracy)) for r in network.table.rows]
    show_table("What the knob gives (validation split)", ("knob", "MACs", "accuracy"), rows)
    say(f"Stored in {out}")
    say(f"Next:  autoprune runtime evaluate {out}")


def evaluate(settings: RuntimeEvaluateSettings, network: Path) -> None:
    """Accuracy against mean MACs with the knob swept, what is run for whom, as tables and pictures."""
    from autoprune.cli.runtime_report import report
    from autoprune.opening import use_threads

    use_threads(settings.threads)
    module, data = open_runtime(network, settings.data, settings.data_dir, settings.device)
    report(module, data, settings, settings.out or network / "evaluation")


def export(settings: RuntimeExportSettings, network: Path) -> None:
    """Write the plain network of constant actions as safetensors, torch.export or ONNX.

    What decides at run time cannot be written as a fixed graph; name the actions, or a budget.
    """
    import torch

    from autoprune.cli.export import write

    module, data = open_runtime(network, None, settings.data_dir)
    if settings.budget is not None:
        from autoprune.search.runtime.explaining import at_knob

        judged = at_knob(module, data.validation, module.use(budget=settings.budget).knob)
        actions = judged.actions.mode(0).values
    elif settings.actions:
        actions = torch.tensor(settings.actions if len(settings.actions) > 1 else settings.actions[0])
    else:
        raise SettingsError(
            "a network that decides at run time cannot be written as a fixed graph: name the actions to write it with "
            "(--actions 2, or once for each stage), or a share of the MACs whose most frequent actions are taken "
            "(--budget 0.5)"
        )
    row = module.chain.checked(actions, 1)[0]
    share = int(module.chain.macs(row)) / module.chain.dense_macs
    say(f"Actions {' '.join(map(str, row.tolist()))}: {share:.1%} of the dense MACs")
    write(module.at(row), data.example(2), settings.format, settings.out or network / "exported")


def open_runtime(
    folder: Path, data: str | None, data_dir: Path | None, device: str = "cpu"
) -> tuple[RuntimePrunedNetwork, DataSplits]:
    """The network in ``folder`` and the data that it was trained on, or others, both on ``device``.

    Raises:
        ArtifactError: another kind of network.
        SettingsError: the network does not say what it was trained on.
    """
    import json

    from autoprune.artifacts import MODEL_JSON, load
    from autoprune.opening import open_data
    from autoprune.runtime import RuntimePrunedNetwork

    module = load(folder)
    if not isinstance(module, RuntimePrunedNetwork):
        raise ArtifactError(
            f"the network in {str(folder)!r} does not decide at run time; 'autoprune runtime train --base {folder}' "
            "makes one that does"
        )
    options = json.loads((folder / MODEL_JSON).read_text(encoding="utf-8"))["data"].get("options")
    if data is None and not (isinstance(options, dict) and {"data", "seed", "options"} <= set(options)):
        raise SettingsError(f"the network in {str(folder)!r} does not say what data it was trained on; give --data")
    asked = {n: options[n] for n in ("data", "seed", "options")} if data is None else {"data": data, "seed": 0}
    found = open_data({"options": {}, **asked}, data_dir, device)[0]
    return module.to(found.train.device), found


command(app, RuntimeTrainSettings, train, name="train")
command(app, RuntimeEvaluateSettings, evaluate, name="evaluate", arguments={"network": (Path, "Its folder.")})
command(app, RuntimeExportSettings, export, name="export", arguments={"network": (Path, "Its folder.")})
