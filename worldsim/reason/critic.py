"""The critic: a vision-language model as a `Judge` of whole episodes.

It is shown some frames of an episode and asked what the outcome task asks, in the same words; what it would answer is
read off its probabilities, and nothing is generated unless it is to think first. Calibrating it is `worldsim.reason.calibrate`.

Shape legend: B episodes, T frames, F frames shown, H W image.
"""

import dataclasses
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim import storage
from worldsim.core import Rollout, Verdict
from worldsim.errors import InvalidInputError, StorageError
from worldsim.protocols import World, require_drawable
from worldsim.reason import pretrained
from worldsim.reason.opinion import Opinion, opinion, progress, rationale, thoughts
from worldsim.reason.reel import Dreamt, Filmed, Reel
from worldsim.reason.settings import CRITIC, CriticSettings, read_settings, settings_of
from worldsim.reason.tasks.outcome import spread, wording
from worldsim.reason.video import Video, fitted
from worldsim.reason.vlm import VLM

_LOG = logging.getLogger(__name__)
SHIPPED = Path(__file__).parent / "shipped" / "critic"
SHIPPED_NAME = "reason"
_CODE = "worldsim-reason-critic-1"
"""Changes whenever this code judges the same frames otherwise."""
_GAIN = 0.05
"""Progress counts as better from here on: a quarter of a bin of the progress question."""


class ReasonCritic:
    """Judges episodes by their frames.

    **The first frame.** Training shows the frames of an episode from its start on, T + 1 of them. A rollout holds the T
    frames after its steps and not the start, so a rollout alone is judged by those, the first of them in the start's
    place; with `first=` the start is shown and judging is exactly as in training, as it is for videos that begin with it.

    **Failures.** With `locate` the critic judges, for each failure, the episode up to each frame shown. `failed_at` is the
    first of these frames after which the judged progress never gets better again by more than a twentieth: from there on
    nothing was achieved. It is a step of the rollout, 0 for the start; for videos it is the number of the frame. Frames
    between those shown are not looked at, so it is good to T / F steps.

    Args:
        vlm: The model.
        settings: What it is shown and how its answers are read.
        world: Draws the frames of rollouts; only `decode` is used. None judges videos only.
        locate: Look for the first failing step; costs F - 1 more looks per failure.
        explain: Let the model say what it sees, as text beside the numbers; it is generated, and decides nothing.
        batch: Episodes per pass; verdicts do not depend on it beyond rounding.
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
    ) -> None:
        if batch < 1:
            raise InvalidInputError(f"A batch holds an episode at least; got batch={batch}.")
        self.vlm, self.settings, self.world = vlm, settings or CriticSettings(), world
        self.locate, self.explain, self.batch = locate, explain, batch

    @classmethod
    def from_pretrained(cls, folder: str | Path = SHIPPED_NAME, **options: Any) -> "ReasonCritic":
        """Load a critic offline.

        Args:
            folder: A critic's folder, ``"reason"`` for the shipped one, or any image-text-to-text model's (Qwen2.5-VL,
                Qwen3-VL, cosmos3_omni): without a `critic.json` it judges uncalibrated, and says so.
            options: As the class takes them.

        Raises:
            StorageError: There is no such folder, or a part of it cannot be read.
            MissingExtraError: transformers is not installed.
        """
        path = critic_folder(folder)
        vlm = VLM.from_pretrained(path, shown="images")
        if pretrained.shown(path) == "video":
            _LOG.warning("%s learned from videos; a critic shows it pictures, so calibrate it as it is used.", path)
        settings = read_settings(path)
        if settings is None:
            settings = settings_of(path, vlm.processor)
            _LOG.warning("%s holds no %s: its verdicts are not calibrated.", path, CRITIC)
        return cls(vlm, settings, **options)

    def save_pretrained(self, folder: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write model, processor and `critic.json` as one folder, whole or not at all.

        Raises:
            StorageError: It cannot be written.
        """
        files = {CRITIC: self.settings.written()}
        pretrained.save(Path(folder), self.vlm.model, self.vlm.processor, manifest=manifest or {}, files=files)

    def watching(self, world: World) -> "ReasonCritic":
        """The same critic for the rollouts of a world."""
        return self._like(world=world)

    def with_settings(self, settings: CriticSettings) -> "ReasonCritic":
        """The same model with other settings."""
        return self._like(settings=settings)

    def _like(self, **changed: Any) -> "ReasonCritic":
        options = {k: getattr(self, k) for k in ("vlm", "settings", "world", "locate", "explain", "batch")}
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
            pretrained.digest(self.vlm.model, self.vlm.processor),
        ]
        digest = storage.digest_bytes(repr(decides).encode())
        return f"reason/{digest[:16]}{'' if self.settings.calibration else '/uncalibrated'}"

    def __call__(self, rollout: Rollout, *, first: Tensor | None = None) -> Verdict:
        """Judge B episodes; see `worldsim.protocols.Judge`.

        Args:
            rollout: In the world that the critic watches.
            first: uint8 [B, H, W, 3], the frames they started from; see the class.

        Raises:
            InvalidInputError: The critic watches no world, or the model cannot tell (NaN).
        """
        if self.world is None:
            raise InvalidInputError(
                "A rollout holds latents, and this critic has no world to draw them. Use critic.watching(world), or judge "
                "frames: critic.frames(uint8 [B, T, H, W, 3])."
            )
        return self.reel(Dreamt(rollout.latent, require_drawable(self.world).decode, first=first))

    def videos(self, videos: Sequence[Video]) -> Verdict:
        """Judge videos, each from its first to its last frame."""
        return self.reel(Filmed([v.frames for v in videos]))

    def frames(self, frames: Tensor | Sequence[Tensor]) -> Verdict:
        """Judge frames uint8 [B, T, H, W, 3], or [T, H, W, 3] each, of any size."""
        return self.reel(Filmed(frames))

    def reel(self, reel: Reel) -> Verdict:
        """Judge all episodes of a reel."""
        seen = self.opinions(reel)
        probability, abstain = self.read(seen)
        failed_at = torch.full((seen.batch,), -1, dtype=torch.int64)
        failures = [int(r) for r in (probability < 0.5).nonzero()[:, 0]]
        if self.locate and failures:
            failed_at[failures] = self._located(reel, failures, seen.progress[failures])
        verdict = Verdict(success=probability, progress=seen.progress, abstain=abstain, failed_at=failed_at)
        thought = self._thoughts(reel) if self.explain else [""] * seen.batch
        text = rationale(verdict, seen, thought, calibrated=self.settings.calibration is not None)
        return dataclasses.replace(verdict, text=text)

    def opinions(self, reel: Reel) -> Opinion:
        """What the model thinks of all episodes, before calibration."""
        rows = range(len(reel.lengths))
        parts = [
            opinion(self.vlm, self._shown(reel, part, [reel.lengths[r] for r in part]), **self._asked)
            for part in self._parts(rows)
        ]
        return Opinion.cat(parts)

    def read(self, seen: Opinion) -> tuple[Tensor, Tensor]:
        """Success probability float32 [B], and whether the critic declines to say, bool [B]."""
        probability = torch.from_numpy(self.settings.platt(seen.logodds.numpy())).float()
        close = (probability - 0.5).abs() < self.settings.band
        return probability, close | (seen.unsaid > self.settings.unsaid)

    @property
    def _asked(self) -> dict[str, Any]:
        return {"task": self.settings.task, "think": self.settings.think}

    def _located(self, reel: Reel, failures: Sequence[int], final: Tensor) -> Tensor:
        """First failing steps, int64 [n]; `final` is the progress [n] of the whole episodes."""
        ends = {r: sorted({*spread(reel.lengths[r], self.settings.frames)}) for r in failures}
        asked = [(r, e + 1) for r in failures for e in ends[r][:-1]]
        found: list[float] = []
        for part in self._parts(asked):
            frames = self._shown(reel, [r for r, _ in part], [length for _, length in part])
            found += progress(self.vlm, frames, **self._asked).tolist()
        at, place = [], 0
        for r, last in zip(failures, final.tolist(), strict=True):
            count = len(ends[r]) - 1
            at.append(ends[r][stalled([*found[place : place + count], last])])
            place += count
        return (torch.tensor(at) - reel.before).clamp_min(0)

    def _thoughts(self, reel: Reel) -> list[str]:
        parts = self._parts(range(len(reel.lengths)))
        shown = (self._shown(reel, part, [reel.lengths[r] for r in part]) for part in parts)
        return [text for frames in shown for text in thoughts(self.vlm, frames, task=self.settings.task)]

    def _shown(self, reel: Reel, rows: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
        """Frames spread over the first `lengths` frames of episodes, uint8 [F, S, S, 3] each."""
        numbers = [spread(length, self.settings.frames) for length in lengths]
        return [fitted(f, self.settings.size) for f in reel.shown(rows, numbers)]

    def _parts[T](self, rows: Sequence[T]) -> list[Sequence[T]]:
        return [rows[first : first + self.batch] for first in range(0, len(rows), self.batch)]


def stalled(progress: Sequence[float]) -> int:
    """The first place after which progress never gets better again by more than a twentieth."""
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
