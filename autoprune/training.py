"""Base networks: trained in epochs, validated after each, the best kept, and continued after a kill.

The folder of a training holds ``log.jsonl`` (a line an epoch), while it runs ``checkpoint/`` (safetensors and JSON,
written after each epoch), and at the end the stored network (:mod:`autoprune.artifacts`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from autoprune.artifacts import MODEL_JSON, NetworkSpec, read_network, save_network
from autoprune.deploy import deployed
from autoprune.errors import ArtifactError, TrainingDiverged
from autoprune.evaluation import EvalSet, Evaluation, NotFinite
from autoprune.files import write_text
from autoprune.locking import folder_lock
from autoprune.recipes import TrainSettings
from autoprune.seeding import seeded
from autoprune.tensors import named_tensors, put_tensors, read_tensors, tensors_digest, write_tensors
from autoprune.train_loop import TrainLoop

if TYPE_CHECKING:
    from autoprune.data import DataSplits

__all__ = ["Epoch", "TrainSettings", "train_network"]

CHECKPOINT = "checkpoint"
STATE = "state.json"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training brought; a line of the log.

    Attributes:
        epoch: counted from 1; ``epochs`` at most.
        step: optimizer steps so far.
        train_loss: mean over the epoch's batches, as they were trained on.
        accuracy, loss: on the validation split.
        best_accuracy: the best so far, kept at ``best_epoch``.
        images_per_s: speed of the training steps.
        wall_s: seconds of the whole training so far, interruptions aside.
    """

    epoch: int
    epochs: int
    step: int
    lr: float
    train_loss: float
    accuracy: float
    loss: float
    best_accuracy: float
    best_epoch: int
    images_per_s: float
    wall_s: float


Progress = Callable[[Epoch], object]


def train_network(
    spec: NetworkSpec,
    data: DataSplits,
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    data_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the network of ``spec`` on ``data`` and store the best epoch's weights in ``out``.

    A training that was killed goes on after its last whole epoch, and ends in the same weights as a straight one. A
    finished one is not repeated: its metrics come back.

    Args:
        spec: the network.
        data: train, validation and test splits are used; test once, at the end.
        settings: how.
        out: folder of the result, of the log and of the checkpoint.
        resume: go on with what ``out`` holds; ``False`` starts anew.
        progress: called after each epoch.
        data_options: stored with the network, so that the same data can be loaded again.

    Returns:
        The metrics stored with the network: validation and test accuracy and loss, epochs, seconds.

    Raises:
        TrainingDiverged: a loss that is not finite.
        ArtifactError: ``out`` cannot be written, holds another training, or another process works there.
    """
    run = _Run(spec, data, settings, Path(out), dict(data_options or {}))
    with folder_lock(run.out, "training", ArtifactError):
        if not resume:
            run.forget()
        finished = run.finished()
        if finished is not None:
            return finished
        run.restore()
        run.train(progress)
        return run.finish()


class _Run:
    """One training in one folder."""

    def __init__(
        self, spec: NetworkSpec, data: DataSplits, settings: TrainSettings, out: Path, options: dict[str, Any]
    ) -> None:
        self.spec, self.data, self.settings, self.out, self.options = spec, data, settings, out, options
        with seeded(settings.seed, "weights"):
            self.module = spec.build()
        batch = min(settings.batch_size, len(data.train))
        self.loop = TrainLoop(
            self.module,
            data.train,
            settings.steps(max(1, len(data.train) // batch)),
            seed=settings.seed,
            augment=data.augment,
        )
        self.validation = EvalSet(data.validation)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.wall_s = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two trainings the same."""
        return {
            "factory": self.spec.factory,
            "options": self.spec.options,
            "data": self.data.digest,
            "settings": asdict(self.settings),
        }

    def finished(self) -> dict[str, Any] | None:
        if not (self.out / MODEL_JSON).exists():
            return None
        stored = read_network(self.out)
        self._same(stored.metrics.get("training", {}), str(self.out))
        return stored.metrics

    def forget(self) -> None:
        try:
            for path in (self.out / MODEL_JSON, self.out / LOG, self.out / CHECKPOINT / STATE):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot start anew in {str(self.out)!r}: {error.strerror or error}") from error
        shutil.rmtree(self.out / CHECKPOINT, ignore_errors=True)

    def train(self, progress: Progress | None) -> None:
        self._write_log()  # a folder that cannot be written is told before the work, not after an epoch
        per_epoch = self.loop.steps_per_epoch
        with self.loop.running():
            while not self._enough():
                started = time.perf_counter()
                train_loss = self.loop.advance(self.loop.step + per_epoch)
                trained_s = time.perf_counter() - started
                judged = self._judge(self.validation)
                self.wall_s += time.perf_counter() - started
                epoch = self._record(train_loss, judged, per_epoch * self.loop.batch / trained_s)
                self._save_checkpoint()
                if progress is not None:
                    progress(epoch)

    def finish(self) -> dict[str, Any]:
        put_tensors(self.module, self.best)
        best = self.history[-1].best_epoch
        judged = self._judge(EvalSet(self.data.test))
        kept = self.history[best - 1]
        metrics = {
            "validation": {"accuracy": kept.accuracy, "loss": kept.loss, "samples": len(self.data.validation)},
            "test": {"accuracy": judged.accuracy, "loss": judged.loss, "samples": len(self.data.test)},
            "best_epoch": best,
            "epochs": len(self.history),
            "wall_s": round(self.wall_s, 3),
            "training": self.identity,
        }
        described = {"name": self.data.name, "digest": self.data.digest, "options": self.options}
        save_network(self.out, self.module, self.spec, data=described, metrics=metrics)
        shutil.rmtree(self.out / CHECKPOINT, ignore_errors=True)
        return metrics

    def restore(self) -> None:
        """Take up the checkpoint, if there is one."""
        folder = self.out / CHECKPOINT
        if not (folder / STATE).exists():
            return
        try:
            identity, self.history, tensors = _read_checkpoint(folder)
        except (ArtifactError, OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"the checkpoint in {str(folder)!r} cannot be read ({error}); start anew without resuming"
            ) from error
        self._same(identity, str(folder))
        self.wall_s = float(self.history[-1].wall_s)
        put_tensors(self.module, _part(tensors, "network."))
        self.best = _part(tensors, "best.")
        self.loop.load_state(_part(tensors, "loop."))

    def _enough(self) -> bool:
        if len(self.history) >= self.settings.epochs:
            return True
        last = self.history[-1] if self.history else None
        return bool(self.settings.patience and last and last.epoch - last.best_epoch >= self.settings.patience)

    def _judge(self, samples: EvalSet) -> Evaluation:
        """Accuracy and loss in float32; training stops where they are not numbers any more."""
        try:
            return samples.evaluate(deployed(self.module))
        except NotFinite as error:
            raise TrainingDiverged(self.loop.step, str(error)) from None

    def _record(self, train_loss: float, judged: Evaluation, speed: float) -> Epoch:
        accuracy, loss = judged.accuracy, judged.loss
        number = len(self.history) + 1
        earlier = [(e.accuracy, -e.loss, -e.epoch) for e in self.history]
        best_accuracy, _, best_epoch = max([*earlier, (accuracy, -loss, -number)])
        if -best_epoch == number:
            self.best = {name: tensor.clone() for name, tensor in named_tensors(self.module).items()}
        epoch = Epoch(
            epoch=number,
            epochs=self.settings.epochs,
            step=self.loop.step,
            lr=self.loop.learning_rate(self.loop.step - 1),
            train_loss=train_loss,
            accuracy=accuracy,
            loss=loss,
            best_accuracy=best_accuracy,
            best_epoch=-best_epoch,
            images_per_s=round(speed, 1),
            wall_s=round(self.wall_s, 3),
        )
        self.history.append(epoch)
        return epoch

    def _save_checkpoint(self) -> None:
        """The tensors under a new name, then the state that names them: a kill in between leaves the old pair whole."""
        folder = self.out / CHECKPOINT
        tensors = {f"network.{name}": tensor for name, tensor in named_tensors(self.module).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"loop.{name}": tensor for name, tensor in self.loop.state().items()}
        file = f"epoch-{len(self.history)}.safetensors"
        write_tensors(folder / file, tensors)
        state = {
            "identity": self.identity,
            "file": file,
            "digest": tensors_digest(tensors),
            "history": [asdict(epoch) for epoch in self.history],
        }
        write_text(folder / STATE, json.dumps(state, indent=1))
        self._write_log()
        for old in folder.glob("epoch-*.safetensors"):
            if old.name != file:
                old.unlink(missing_ok=True)

    def _write_log(self) -> None:
        write_text(self.out / LOG, "".join(json.dumps(asdict(epoch)) + "\n" for epoch in self.history))

    def _same(self, stored: Mapping[str, Any], place: str) -> None:
        mine = json.loads(json.dumps(self.identity))
        for key in mine:
            if stored.get(key) != mine[key]:
                before, now = _difference(stored.get(key), mine[key])
                raise ArtifactError(
                    f"{place!r} holds another training: {key} was {before}, now {now}; "
                    "choose another folder, or start anew without resuming"
                )


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], list[Epoch], dict[str, Tensor]]:
    """What the training was, its epochs so far, and the tensors of all of it."""
    stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
    tensors = read_tensors(folder / stored["file"])
    if tensors_digest(tensors) != stored["digest"] or not stored["history"]:
        raise ArtifactError(f"{stored['file']!r} was changed")
    return dict(stored["identity"]), [Epoch(**line) for line in stored["history"]], tensors


def _difference(before: Any, now: Any) -> tuple[Any, Any]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        return {k: before.get(k) for k in keys}, {k: now.get(k) for k in keys}
    return before, now


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
