"""What both trainings of a critic share: a folder of results, exact resume, figures at every evaluation.

The trainers themselves are TRL's.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from worldsim import __version__, storage
from worldsim.errors import StorageError, TrainingError
from worldsim.json_values import parse_json
from worldsim.progress import Progress, silent
from worldsim.reason.items.item import Item
from worldsim.reason.train.evaluation import evaluate_items
from worldsim.reason.vlm.load import KIND, quiet_transformers
from worldsim.reason.vlm.model import VLM
from worldsim.runs import open_run, require_same_request
from worldsim.text import command_text

SPENT = "core_seconds.json"
"""Written last into a checkpoint, so that one without it counts for nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """Models that are kept during training.

    Attributes:
        steps: After which steps.
        manifest: What is written beside them.
    """

    steps: tuple[int, ...] = ()
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class TrainingRun:
    """A run's folder: config.json, metrics.jsonl, checkpoints/, and model/ when it is done.

    Attributes:
        folder: Where.
        stage: Name for logs.
        items: Held-out items for evaluations during training.
        max_new_tokens: Longest reply in evaluations.
        progress: Called as it advances.
    """

    folder: Path
    stage: str
    items: list[Item]
    max_new_tokens: int
    progress: Progress = silent
    begun: float = 0.0
    before: float = 0.0

    @property
    def model(self) -> Path:
        """Where the trained model goes."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the trainer's checkpoints go."""
        return self.folder / "checkpoints"

    def start(self) -> str | None:
        """The newest complete checkpoint; the clock continues from there, and later lines of the metrics are dropped."""
        complete = [p.parent for p in self.checkpoints.glob(f"checkpoint-*/{SPENT}")]
        newest = max(complete, key=_step, default=None)
        for path in self.checkpoints.glob("checkpoint-*"):
            if path not in complete:
                shutil.rmtree(path)  # a kill caught it half written
        self.before = 0.0 if newest is None else float(storage.read_json(newest / SPENT)["core_seconds"])
        self.begun = time.process_time()
        self._forget(after=0 if newest is None else _step(newest))
        return None if newest is None else str(newest)

    def spent(self) -> float:
        """Core-seconds of the training so far, earlier runs included."""
        return self.before + time.process_time() - self.begun

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"stage": self.stage, "step": step, "core_s": round(self.spent(), 1), **values}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")

    def quick_eval(self, vlm: VLM, step: int) -> dict[str, float]:
        """Evaluate during training, and log."""
        figures = evaluate_items(vlm, self.items, max_new_tokens=self.max_new_tokens).figures()
        self.log(step, figures)
        return figures

    def first(self, vlm: VLM, items: list[Item]) -> dict[str, float]:
        """Figures of the initial model, evaluated once and kept in start.json."""
        path = self.folder / "start.json"
        if not path.exists():
            storage.write_json(path, evaluate_items(vlm, items, max_new_tokens=self.max_new_tokens).figures())
        found: dict[str, float] = storage.read_json(path)
        return found

    def finish(self, vlm: VLM, items: list[Item], manifest: Mapping[str, Any], *, step: int) -> Path:
        """Evaluate at the end and write the model's folder."""
        spent = self.spent()
        figures = evaluate_items(vlm, items, max_new_tokens=self.max_new_tokens).figures()
        self.log(step, {f"final/{k}": v for k, v in figures.items()})
        self.write(vlm, self.model, {**manifest, "figures": figures}, step=step, spent=spent)
        return self.model

    def write(self, vlm: VLM, folder: Path, manifest: Mapping[str, Any], *, step: int, spent: float) -> None:
        """Write a model and what it cost."""
        costs = {**manifest.get("core_seconds", {}), self.stage: round(spent, 1)}
        vlm.save_pretrained(folder, manifest={**manifest, **made_with(), "core_seconds": costs, "steps": step})

    def _forget(self, *, after: int) -> None:
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf8").splitlines()
            keep = [n for n in lines if _read(n).get("stage") != self.stage or 0 < _read(n).get("step", 0) <= after]
            storage.write_bytes(path, "".join(f"{n}\n" for n in keep).encode())


@contextmanager
def claim_run(folder: str, config: Any, *, digest: str, items_digest: str = "") -> Iterator[Path]:
    """Lock a folder of results for one run of one config, one start (by its digest) and one set of items.

    Raises:
        StorageError: Another run holds it.
        InvalidInputError: It was begun with another config, or with others of these.
    """
    path = Path(folder)
    items = {"items": items_digest} if items_digest else {}
    if (path / "start.json").exists() or any((path / "checkpoints").glob("checkpoint-*")):
        storage.write_bytes(path / ".training/begun", b"")  # what is there belongs to the request it was made for
    with open_run(path / ".training", {"config": config, "data_digest": digest, **items}):
        storage.write_json(path / storage.CONFIG, storage.to_json(config))
        yield path


def is_done(folder: Path, config: Any, *, items_digest: str = "") -> bool:
    """Whether the same command has finished before.

    Raises:
        InvalidInputError: Another one has.
    """
    if not (folder / "model" / storage.MANIFEST).exists():
        return False
    made = storage.read_manifest(folder / "model", kind=KIND)
    defaults = storage.to_json(type(config)(data=config.data, out=config.out))
    settings = {**defaults, **made.get("config", {})}  # a setting that was added since then had its default
    begun = {**settings, "items_digest": made.get("items_digest", "")}
    require_same_request(folder, begun, {**storage.to_json(config), "items_digest": items_digest})
    return True


def make_callback(run: TrainingRun, vlm: VLM, *, evaluate_every: int, keep: Keep) -> Any:
    """A `TrainerCallback` that writes metrics, examines, watches the loss and marks complete checkpoints."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        """See `make_callback`."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            """Write a line; a loss that is not finite ends the run, and the last checkpoint stays."""
            values = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            bad = [k for k in ("loss", "grad_norm") if not math.isfinite(values.get(k, 0.0))]
            if bad:
                raise TrainingError(
                    f"{bad[0]} of {run.stage} is {values[bad[0]]} at step {state.global_step}. Lower the learning rate "
                    f"or look for bad items; the last checkpoint is in {run.checkpoints}."
                )
            run.log(state.global_step, values)
            run.progress(run.stage, state.global_step, state.max_steps, values)

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            """Keep models where asked for, and evaluate every so many steps; the end has its own, larger evaluation."""
            step = state.global_step
            if step in keep.steps:
                run.write(vlm, run.folder / "kept" / str(step), keep.manifest, step=step, spent=run.spent())
            if evaluate_every and step % evaluate_every == 0 and step < state.max_steps:
                figures = run.quick_eval(vlm, step)
                shown = {k: v for k, v in figures.items() if k.startswith("accuracy/") and k.count("/") == 1}
                run.progress(run.stage, step, state.max_steps, shown)

        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            """The checkpoint is complete."""
            place = run.checkpoints / f"checkpoint-{state.global_step}"
            storage.write_json(place / SPENT, {"core_seconds": round(run.spent(), 2)})

    return Keeper()


def run_trainer(
    make: Callable[[], Any], run: TrainingRun, vlm: VLM, *, evaluate_every: int, keep: Keep | None = None
) -> None:
    """Build a trainer of TRL, let it run from the newest checkpoint, and give `vlm` the plain model back.

    Args:
        make: Builds the trainer; called once, with transformers kept quiet_transformers.
        run: The folder.
        vlm: Trained in place.
        evaluate_every: Steps between evaluations; 0 for none.
        keep: Models to keep during training.
    """
    from transformers.trainer_callback import PrinterCallback

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with quiet_transformers(), torch.random.fork_rng(devices=devices):  # the trainer seeds the global generator
        trainer = make()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(make_callback(run, vlm, evaluate_every=evaluate_every, keep=keep or Keep()))
        vlm.model = trainer.model  # an adapter may wrap it
        trainer.train(resume_from_checkpoint=run.start())
        vlm.model = merge_adapters(trainer.model)


def place_model(vlm: VLM, *, cpu: bool) -> VLM:
    """Put a model where it is going to be trained, so that it is evaluated there too."""
    if not cpu:
        from accelerate import PartialState

        vlm.model.to(PartialState().device)
    return vlm


def merge_adapters(model: Any) -> Any:
    """The model with its adapters merged into the weights, in evaluation mode."""
    merge = getattr(model, "merge_and_unload", None)
    return (model if merge is None else merge()).eval()


def made_with() -> dict[str, Any]:
    """The command and the versions a model was made with."""
    from importlib.metadata import version

    command = command_text()
    versions = {name: version(name) for name in ("transformers", "trl")}
    return {"command": command, "versions": {**versions, "torch": torch.__version__, "worldsim": __version__}}


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _read(line: str) -> dict[str, Any]:
    try:
        found = parse_json(line, source="a line of the metrics")
    except StorageError:  # the last line of a killed run
        return {"step": -1}
    valid = isinstance(found, dict) and isinstance(found.get("step", 0), int)
    return found if valid else {"step": -1}
