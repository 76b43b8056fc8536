"""The critic: a vision-language model as a `Judge` of episodes.

It is shown some frames of an episode and asked what the outcome task asks, in the same words; its answer is read off the
probabilities of the options, and nothing is generated unless it is to think first. `worldsim.reason.calibration` calibrates it.

Shape legend: B episodes, T frames, F frames shown, H W image, S pixels, O options.
"""

import dataclasses
import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim import storage
from worldsim.core import Rollout, Rows, Verdict
from worldsim.errors import InvalidInputError, StorageError
from worldsim.protocols import World, require_drawable
from worldsim.reason.frame_source import DecodedFrames, FrameSource, RecordedFrames
from worldsim.reason.items.item import Item
from worldsim.reason.items.video import Provenance, Video, resize_frames, spread_frames
from worldsim.reason.settings import CRITIC, CriticSettings, infer_settings, read_settings
from worldsim.reason.tasks.outcome import BINS, OPTIONS, About, OutcomeTask, wording
from worldsim.reason.vlm.load import model_digest, save_model, trained_shown
from worldsim.reason.vlm.model import VLM, score_options

_LOG = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent / "shipped" / "critic"
SHIPPED_NAME = "reason"
_CODE = "worldsim-reason-critic-1"
"""Changes whenever this code judges the same frames otherwise."""
_GAIN = 0.05
"""Progress counts as better from here on: a quarter of a bin of the progress question."""
YES, NO = OPTIONS.index("yes"), OPTIONS.index("no")
BIN_CENTRES = tuple(sum(map(int, b.split("-"))) / 200 for b in BINS)
"""Progress in the middle of each bin: what an answer counts as."""
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment(Rows):
    """A model's answers about B episodes, before any calibration."""

    logodds: Tensor  # float64 [B], of yes against no
    progress: Tensor  # float32 [B], expected over the bins' middles: 0.1..0.9
    unsaid: Tensor  # float32 [B], probability of replies in other words than the options, the larger of both questions


def assess(vlm: VLM, frames: Sequence[Tensor], *, task: str, think: int = 0) -> Assessment:
    """Ask whether the robot succeeded and how far it got.

    Args:
        vlm: The model.
        frames: uint8 [F, S, S, 3] of each episode.
        task: As in `OutcomeConfig`.
        think: As in `CriticSettings`.

    Raises:
        InvalidInputError: The model's probabilities are not numbers.
    """
    rows = [[_item(i, f, about, task) for about in ("success", "progress")] for i, f in enumerate(frames)]
    thinks = generate_thoughts(vlm, frames, task=task, most=think) if think else None
    success_BO, progress_BO = (_finite(found) for found in score_options(vlm, rows, thinks=thinks))
    said = torch.stack([success_BO.logsumexp(1), progress_BO.logsumexp(1)]).exp().amin(0)
    return Assessment(
        logodds=success_BO[:, YES].double() - success_BO[:, NO].double(),
        progress=_expected(progress_BO),
        unsaid=(1 - said).clamp(0, 1),
    )


def assess_progress(vlm: VLM, frames: Sequence[Tensor], *, task: str, think: int = 0) -> Tensor:
    """Ask only how far the robot got, float32 [B]; arguments and errors as `assess`."""
    rows = [[_item(i, f, "progress", task)] for i, f in enumerate(frames)]
    thinks = generate_thoughts(vlm, frames, task=task, most=think) if think else None
    return _expected(_finite(score_options(vlm, rows, thinks=thinks)[0]))


def generate_thoughts(vlm: VLM, frames: Sequence[Tensor], *, task: str, most: int = 64) -> list[str]:
    """What the model says it sees in frames uint8 [T, H, W, 3] before it says whether the robot succeeded, `most` tokens."""
    items = [_item(i, f, "success", task) for i, f in enumerate(frames)]
    found = [_THOUGHT.search(reply) for reply in vlm.generate(items, max_new_tokens=most, batch=len(items))]
    return ["" if m is None else " ".join(m.group(1).split()) for m in found]


def describe_verdicts(
    verdict: Verdict, found: Assessment, thought: Sequence[str], *, calibrated: bool
) -> tuple[str, ...]:
    """One line per episode: the numbers that decided, and what the model says it sees where it was asked."""
    lines = []
    for row in range(verdict.batch):
        p, abstain, failed_at = float(verdict.success[row]), bool(verdict.abstain[row]), int(verdict.failed_at[row])
        verdict_word = "undecided" if abstain else "solved" if p >= 0.5 else "not solved"
        parts = [f"{verdict_word}: success {p:.2f}, progress {float(verdict.progress[row]):.2f}"]
        if float(found.unsaid[row]) >= 0.1:
            parts.append(f"other words {float(found.unsaid[row]):.2f}")
        if failed_at >= 0:
            parts.append(f"no progress after {failed_at}")
        if not calibrated:
            parts.append("uncalibrated")
        lines.append(", ".join(parts) + (f"; sees {thought[row]}" if thought[row] else ""))
    return tuple(lines)


def _item(number: int, frames: Tensor, about: About, task: str) -> Item:
    """The outcome task's question; its answer is not known and not read."""
    prompt, options = wording(about, task)
    return Item(
        task=OutcomeTask.name,
        group=about,
        number=number,
        prompt=prompt,
        frames=frames,
        options=options,
        answer=options[0],
        difficulty=0.5,
        think="",
        provenance=Provenance(kind="dream", episode=str(number)),
        taken=tuple(range(len(frames))),
    )


def _expected(logprob_BO: Tensor) -> Tensor:
    return logprob_BO.softmax(1) @ torch.tensor(BIN_CENTRES)


def _finite(logprob_BO: Tensor) -> Tensor:
    if not bool(logprob_BO.isfinite().all()):
        bad = (~logprob_BO.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        raise InvalidInputError(
            f"The model gives no number for episodes {bad[:5]} of {len(logprob_BO)}: its weights are broken, or the number "
            "format is too small. Train it again, or load it in float32."
        )
    return logprob_BO


class ReasonCritic:
    """Judges episodes by their frames.

    **The first frame.** Training shows the frames of an episode from its start on, T + 1 of them. A rollout holds the T
    frames after its steps and not the start, so a rollout alone is judged by those, the first of them in the start's
    place; with `first=` the start is shown and judging is exactly as in training, as it is for videos that begin with it.

    **Failures.** With `locate` the critic judges, for each failure, the episode up to each frame shown. `failed_at` is the
    first of these frames after which the judged progress never rises again by more than a twentieth: nothing was achieved
    from there on. It is a step of the rollout, 0 for the start; for videos it is the number of the frame. Frames
    between those shown are not looked at, so it is good to T / F steps.

    Args:
        vlm: The model.
        settings: What it is shown and how its answers are read.
        world: Decodes the frames of rollouts; only `decode` is used. None judges videos only.
        locate: Look for the first failing step; costs F - 1 more passes per failure.
        explain: Let the model say what it sees, as text beside the numbers; it is generated, and decides nothing.
        batch: Episodes per pass; verdicts do not depend on it beyond rounding.
        beyond: Watch rollouts to their end, also where the world is not valid for so long. Else they are watched as far as it
            is, and the critic abstains where they are not solved by then, and says so.
    """

    def __init__(
        self,
        vlm: VLM,
        settings: CriticSettings | None = None,
        *,
        world: World | None = None,
        locate: bool = False,
        explain: bool = False,
        batch: int = 16,
        beyond: bool = False,
    ) -> None:
        if batch < 1:
            raise InvalidInputError(f"A batch holds an episode at least; got batch={batch}.")
        self.vlm, self.settings, self.world = vlm, settings or CriticSettings(), world
        self.locate, self.explain, self.batch, self.beyond = locate, explain, batch, beyond

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path = SHIPPED_NAME,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> "ReasonCritic":
        """Load a critic offline.

        Args:
            folder: A critic's folder, ``"reason"`` for the shipped one, or any image-text-to-text model's (Qwen2.5-VL,
                Qwen3-VL, cosmos3_omni): without a `critic.json` it judges uncalibrated, and says so.
            device: Where its model computes.
            dtype: Of its weights in memory; None takes float32.
            options: As the class takes them.

        Raises:
            StorageError: There is no such folder, or a part of it cannot be read.
            MissingExtraError: transformers is not installed.
        """
        path = critic_folder(folder)
        vlm = VLM.from_pretrained(path, device=device, dtype=dtype or torch.float32, shown="images")
        if trained_shown(path) == "video":
            _LOG.warning("%s learned from videos; a critic shows it pictures, so calibrate it as it is used.", path)
        settings = read_settings(path)
        if settings is None:
            settings = infer_settings(path, vlm.processor)
            _LOG.warning("%s holds no %s: its verdicts are not calibrated.", path, CRITIC)
        return cls(vlm, settings, **options)

    def save_pretrained(self, folder: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write model, processor and `critic.json` as one folder, atomically.

        Raises:
            StorageError: It cannot be written.
        """
        files = {CRITIC: self.settings.to_bytes()}
        save_model(Path(folder), self.vlm.model, self.vlm.processor, manifest=manifest or {}, files=files)

    def with_world(self, world: World) -> "ReasonCritic":
        """The same critic for the rollouts of a world."""
        return self._like(world=world)

    def with_settings(self, settings: CriticSettings) -> "ReasonCritic":
        """The same model with other settings."""
        return self._like(settings=settings)

    def _like(self, **changed: Any) -> "ReasonCritic":
        options = {k: getattr(self, k) for k in ("vlm", "settings", "world", "locate", "explain", "batch", "beyond")}
        return ReasonCritic(**{**options, **changed})

    @cached_property
    def version(self) -> str:
        """Changes whenever the same frames could be judged otherwise: with the model, the words or the settings."""
        asked = [wording(about, self.settings.task)[0] for about in ("success", "progress")]
        decides = [
            _CODE,
            asked,
            self.settings.deciding,
            self.locate,
            self.explain,
            model_digest(self.vlm.model, self.vlm.processor),
        ]
        digest = storage.digest_bytes(repr(decides).encode())
        return f"reason/{digest[:16]}{'' if self.settings.calibration else '/uncalibrated'}"

    def __call__(self, rollout: Rollout, *, first: Tensor | None = None) -> Verdict:
        """Judge B episodes; see `worldsim.protocols.Judge`.

        Args:
            rollout: Of the critic's world.
            first: uint8 [B, H, W, 3], the frames they started from; see the class.

        Raises:
            InvalidInputError: The critic has no world, or the model's answers are not numbers (NaN).
        """
        if self.world is None:
            raise InvalidInputError(
                "A rollout holds latents, and this critic has no world to decode them. Use critic.with_world(world), or judge "
                "frames: critic.frames(uint8 [B, T, H, W, 3])."
            )
        spec, steps = self.world.spec, rollout.latent.shape[1]
        played, validity = steps * spec.actions_per_step, None if self.beyond else spec.validity
        valid = None if validity is None else validity.steps(played, per_step=spec.actions_per_step)
        watched = rollout.latent if valid is None else rollout.latent[:, : valid // spec.actions_per_step]
        frames = DecodedFrames(watched, require_drawable(self.world).decode, first=first)
        return self.judge(
            frames, cut="" if valid is None else f"watched {valid} of {played} actions: the world is valid no longer"
        )

    def videos(self, videos: Sequence[Video]) -> Verdict:
        """Judge videos, each from its first to its last frame."""
        return self.judge(RecordedFrames([v.frames for v in videos]))

    def frames(self, frames: Tensor | Sequence[Tensor]) -> Verdict:
        """Judge frames uint8 [B, T, H, W, 3], or [T, H, W, 3] each, of any size."""
        return self.judge(RecordedFrames(frames))

    def judge(self, source: FrameSource, *, cut: str = "") -> Verdict:
        """Judge all episodes of a source of frames.

        Args:
            source: The frames.
            cut: Why the episodes end early, where they do: it is said of those that are not solved, and the critic abstains.
        """
        found = self.assess(source)
        probability, abstain = self.decide(found)
        undecided = (probability < 0.5) & bool(cut)
        abstain = abstain | undecided
        failed_at = torch.full((found.batch,), -1, dtype=torch.int64)
        failures = [int(r) for r in (probability < 0.5).nonzero()[:, 0]]
        if self.locate and failures:
            failed_at[failures] = self._locate(source, failures, found.progress[failures])
        verdict = Verdict(success=probability, progress=found.progress, abstain=abstain, failed_at=failed_at)
        thought = self._thoughts(source) if self.explain else [""] * found.batch
        text = describe_verdicts(verdict, found, thought, calibrated=self.settings.calibration is not None)
        said = (f"{line}, {cut}" if open_ else line for line, open_ in zip(text, undecided.tolist(), strict=True))
        return dataclasses.replace(verdict, text=tuple(said))

    def assess(self, source: FrameSource) -> Assessment:
        """The model's answers about all episodes, before calibration."""
        rows = range(len(source.lengths))
        parts = [
            assess(self.vlm, self._frames(source, part, [source.lengths[r] for r in part]), **self._asked)
            for part in self._batches(rows)
        ]
        return Assessment.cat(parts)

    def decide(self, found: Assessment) -> tuple[Tensor, Tensor]:
        """Success probability float32 [B], and whether the critic declines to say, bool [B]."""
        probability = torch.from_numpy(self.settings.platt(found.logodds.numpy())).float()
        close = (probability - 0.5).abs() < self.settings.band
        return probability, close | (found.unsaid > self.settings.unsaid)

    @property
    def _asked(self) -> dict[str, Any]:
        return {"task": self.settings.task, "think": self.settings.think}

    def _locate(self, source: FrameSource, failures: Sequence[int], final: Tensor) -> Tensor:
        """First failing steps, int64 [n]; `final` is the progress [n] of the full episodes."""
        ends = {r: sorted({*spread_frames(source.lengths[r], self.settings.frames)}) for r in failures}
        asked = [(r, e + 1) for r in failures for e in ends[r][:-1]]
        found: list[float] = []
        for part in self._batches(asked):
            frames = self._frames(source, [r for r, _ in part], [length for _, length in part])
            found += assess_progress(self.vlm, frames, **self._asked).tolist()
        at, place = [], 0
        for r, last in zip(failures, final.tolist(), strict=True):
            count = len(ends[r]) - 1
            at.append(ends[r][first_stall([*found[place : place + count], last])])
            place += count
        return (torch.tensor(at) - source.before).clamp_min(0)

    def _thoughts(self, source: FrameSource) -> list[str]:
        parts = self._batches(range(len(source.lengths)))
        batches = (self._frames(source, part, [source.lengths[r] for r in part]) for part in parts)
        return [text for frames in batches for text in generate_thoughts(self.vlm, frames, task=self.settings.task)]

    def _frames(self, source: FrameSource, rows: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
        """Frames spread over the first `lengths` frames of episodes, uint8 [F, S, S, 3] each."""
        numbers = [spread_frames(length, self.settings.frames) for length in lengths]
        return [resize_frames(f, self.settings.size) for f in source.frames(rows, numbers)]

    def _batches[T](self, rows: Sequence[T]) -> list[Sequence[T]]:
        return [rows[first : first + self.batch] for first in range(0, len(rows), self.batch)]


def first_stall(progress: Sequence[float]) -> int:
    """The first place after which progress never rises again by more than a twentieth."""
    best = float("-inf")
    place = len(progress) - 1
    for here in reversed(range(len(progress))):
        if best <= progress[here] + _GAIN:
            place = here
        best = max(best, progress[here])
    return place


def critic_folder(name: str | Path) -> Path:
    """Folder of a critic; ``"reason"`` is the shipped one.

    Raises:
        StorageError: No critic is shipped with this installation.
    """
    if str(name) != SHIPPED_NAME:
        return Path(name)
    if not SHIPPED.is_dir():
        raise StorageError(
            f"This version of worldsim ships no critic ({SHIPPED} is not there). Train one with `worldsim train reason-sft`, "
            "calibrate it with `worldsim reason calibrate` and give its folder. (A folder called reason is ./reason.)"
        )
    return SHIPPED
