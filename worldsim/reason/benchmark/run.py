"""A run: a benchmark folder, a model folder, and eval.json with the answers and figures."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from worldsim import __version__, storage
from worldsim.compute import find_device, find_dtype
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.progress import Progress, silent
from worldsim.reason.benchmark.ask import AskSettings, BenchmarkResult, ask_all, dry_run
from worldsim.reason.benchmark.format import BenchmarkQuestion
from worldsim.reason.benchmark.read import Benchmark, QuestionItems, View, Wording, read_benchmark
from worldsim.reason.benchmark.tally import Ledger
from worldsim.reason.items.item import Item
from worldsim.reason.vlm.model import VLM

_PACKAGES = ("torch", "transformers", "torchvision", "safetensors", "av", "numpy", "scipy")
_USUAL_PX = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What to evaluate, and how.

    Attributes:
        folder: Benchmark folder, as `worldsim.reason.benchmark.read.read_benchmark` reads it.
        model: Model folder, as `worldsim.reason.vlm.model.VLM.from_pretrained` reads it.
        datasets: Which datasets of the folder; all by default.
        limit: Most questions of each dataset; None for all.
        seed: Chooses the questions of a limit, and whose frames the blind control shows.
        frames: Most frames of a clip.
        size: Side of the frames in pixels; 0 for what the model was trained with, 256 where that is not known.
        wording: As `View`; empty for "words" where worldsim trained or saved the model, else "letters".
        fast: As `AskSettings`; so are blind, max_new_tokens, batch and bad_share.
        device: Where the model runs; empty for an accelerator where there is one.
        dtype: Of the weights: float32, bfloat16 or float16; empty for float32 on a CPU, else bfloat16.
    """

    folder: str
    model: str
    datasets: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    frames: int = 8
    size: int = 0
    wording: Wording | None = None
    fast: bool = False
    blind: bool = True
    max_new_tokens: int = 1024
    batch: int = 16
    bad_share: float = 0.05
    device: str = ""
    dtype: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that has been read and loaded.

    Attributes:
        request: What was wanted.
        benchmark: The folder's questions.
        questions: Those to ask, in order.
        vlm: The model, on its device.
        how: How to ask.
    """

    request: EvalRequest
    benchmark: Benchmark
    questions: tuple[BenchmarkQuestion, ...]
    vlm: VLM
    how: AskSettings

    def preview(self, count: int = 4) -> list[Item]:
        """The first few readable questions of each dataset as the model is shown them, each with its own name.

        Raises:
            InvalidInputError: No clip can be read.
        """
        clips = QuestionItems(self.how.view)
        found: dict[str, list[Item]] = {q.dataset: [] for q in self.questions}
        for one in self.questions:
            if len(found[one.dataset]) < count:
                with suppress(WorldsimError):
                    item = clips.item(one)
                    found[one.dataset].append(dataclasses.replace(item, group=one.name.rpartition("/")[2]))
        items = [i for own in found.values() for i in own]
        if not items:
            raise InvalidInputError(f"No clip in {self.request.folder} can be read. Restore them.")
        return items

    def dry_run(self, *, progress: Progress = silent) -> tuple[float, dict[str, str]]:
        """Open every clip and ask one question; nothing is written. As `worldsim.reason.benchmark.ask.dry_run`."""
        return dry_run(self.vlm, self.questions, self.how, progress=progress)

    def run(self, out: str | Path, *, command: str = "", progress: Progress = silent) -> BenchmarkResult:
        """Ask what `out`/eval.json lacks; one process at a time.

        Args:
            out: Run folder, begun or continued.
            command: What the user typed, to be kept.
            progress: Called after each batch.

        Raises:
            WorldsimError: As `Ledger` and `ask_all`.
        """
        settings = self.settings()
        ledger = Ledger(out, settings=settings, facts=self._facts(command, digest=settings["model"]))
        return ask_all(self.vlm, self.questions, self.how, ledger=ledger, bad=self.benchmark.bad, progress=progress)

    def settings(self) -> dict[str, Any]:
        """What decides an answer, as JSON values."""
        how, model = self.how, self.vlm.model
        return {
            **storage.to_json(how.view),
            "model": storage.folder_digest(Path(self.request.model)),
            "dtype": str(model.dtype).removeprefix("torch."),
            "fast": how.fast,
            "blind": how.blind,
            "max_new_tokens": None if how.fast else how.max_new_tokens,
            "seed": self.request.seed,
        }

    def _facts(self, command: str, *, digest: str) -> dict[str, Any]:
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        return {
            "command": command,
            "versions": {"python": platform.python_version(), "worldsim": __version__, **versions},
            "model": {
                "folder": self.request.model,
                "type": str(self.vlm.model.config.model_type),
                "digest": digest,
            },
            "benchmark": {
                "folder": self.request.folder,
                "digests": self.benchmark.digests,
                "limit": self.request.limit,
            },
        }


def prepare(request: EvalRequest) -> Prepared:
    """Read the folder, then load the model.

    Raises:
        WorldsimError: The folder or the model cannot be read, or a number is out of range.
    """
    benchmark = read_benchmark(request.folder, datasets=request.datasets, bad_share=request.bad_share)
    questions = benchmark.drawn(limit=request.limit, seed=request.seed)
    device, dtype = _device_and_dtype(request)
    vlm = VLM.from_pretrained(request.model, dtype=dtype)
    vlm.model.to(device)
    trained = _manifest(request.model)
    how = AskSettings(
        view=View(
            frames=request.frames,
            size=request.size or _size(trained, vlm),
            wording=request.wording or ("letters" if trained is None else "words"),
        ),
        fast=request.fast,
        blind=request.blind,
        max_new_tokens=request.max_new_tokens,
        batch=request.batch,
        bad_share=request.bad_share,
    )
    return Prepared(request=request, benchmark=benchmark, questions=questions, vlm=vlm, how=how)


def _device_and_dtype(request: EvalRequest) -> tuple[torch.device, torch.dtype]:
    """Those asked for; else an accelerator where there is one, and the dtype that is usual there."""
    device = find_device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, find_dtype(request.dtype) or (torch.float32 if device.type == "cpu" else torch.bfloat16)


def _manifest(model: str) -> dict[str, Any] | None:
    """The manifest that worldsim wrote beside the weights, or None where it did not write the folder."""
    path = Path(model) / storage.MANIFEST
    found = storage.read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def _size(trained: dict[str, Any] | None, vlm: VLM) -> int:
    """Frame size that the model knows: what it was trained with, or the grid that its tower has places for."""
    config = _part(trained, "config")
    known = (config if config.get("model") else _part(config, "tiny")).get("size")
    if isinstance(known, int) and known > 0:
        return known
    vision = vlm.model.config.vision_config
    places = getattr(vision, "num_position_embeddings", None)
    return min(_USUAL_PX, int(places**0.5) * int(vision.patch_size)) if places else _USUAL_PX


def _part(value: object, key: str) -> Mapping[str, Any]:
    """A mapping within a mapping; empty where there is none."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
