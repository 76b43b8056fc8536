"""What a critic is shown and how its answers are read: `critic.json`, beside the model in its folder."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError, WorldsimError
from worldsim.reason.calibration.metrics import JudgeMetrics
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.tasks.outcome import OutcomeConfig

CRITIC = "critic.json"
FORMAT = "worldsim-critic-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where a critic's calibration comes from, and how it did on other policies' episodes.

    Attributes:
        fitted_on: Policy groups that temperature and bias were fitted on.
        fitted_episodes: How many episodes that were.
        metrics: Figures on the other groups.
        data: Digest of each data folder's description by its name.
        command: As typed.
    """

    fitted_on: tuple[str, ...]
    fitted_episodes: int
    metrics: JudgeMetrics
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    command: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticSettings:
    """Everything but the model that decides a critic's verdicts, and what they are worth.

    Attributes:
        frames: How many frames of an episode are shown, first and last included.
        size: Side of the frames in pixels.
        task: One sentence that says what the robot should do, as in training; empty to leave it out.
        think: Most tokens that the model may think before it answers, once for both questions; 0 lets it answer at once,
            which is many times faster and as good only for a model that was trained to.
        platt: From log-odds to probability.
        band: The critic declines to say where its probability is closer to 1/2 than this.
        unsaid: It declines too where replies in other words than the options have more probability than this.
        calibration: None for a critic that was never calibrated.

    Raises:
        InvalidInputError: A number is out of range.
    """

    frames: int = 8
    size: int = 64
    task: str = ""
    think: int = 0
    platt: Platt = dataclasses.field(default_factory=Platt)
    band: float = 0.1
    unsaid: float = 0.5
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.frames < 2 or self.size < 8 or self.think < 0:
            raise InvalidInputError(
                f"A critic is shown 2 frames of 8 pixels at least and thinks 0 tokens or more; got frames={self.frames}, "
                f"size={self.size} and think={self.think}."
            )
        if not (0 <= self.band < 0.5 and 0 <= self.unsaid <= 1):
            raise InvalidInputError(
                f"band must lie in 0..0.5, without its end, and unsaid in 0..1; got {self.band} and {self.unsaid}."
            )

    @property
    def deciding(self) -> dict[str, Any]:
        """What the same model could judge otherwise with, as JSON values."""
        return {k: v for k, v in storage.to_json(self).items() if k != "calibration"}

    def to_bytes(self) -> bytes:
        """The text of `critic.json`."""
        text = json.dumps({"format": FORMAT, **storage.to_json(self)}, indent=2, sort_keys=True, allow_nan=False)
        return f"{text}\n".encode()


def read_settings(folder: Path) -> CriticSettings | None:
    """The settings in a folder; None where it holds no `critic.json`.

    Raises:
        StorageError: The file is there and cannot be read.
    """
    path = folder / CRITIC
    if not path.is_file():
        return None
    value = storage.read_json(path)
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise StorageError(f"{path} is not of format {FORMAT!r}. Make it again with `worldsim reason calibrate`.")
    try:
        return storage.from_json(CriticSettings, {k: v for k, v in value.items() if k != "format"})
    except WorldsimError as error:
        raise StorageError(f"{path}: {error} Make it again with `worldsim reason calibrate`.") from error


def infer_settings(folder: Path, processor: Any) -> CriticSettings:
    """Settings for a folder without `critic.json`: as its outcome task was trained, else the task's defaults.

    Args:
        folder: A model's folder; one that `worldsim train reason-sft` or `reason-grpo` wrote says how it was trained.
        processor: The model's. Frames are shown in the smallest size that it does not enlarge.
    """
    manifest = storage.read_json(folder / storage.MANIFEST) if (folder / storage.MANIFEST).is_file() else {}
    config = _part(manifest, "config")
    asked = storage.from_json(OutcomeConfig, _part(_part(_part(config, "items"), "options"), "outcome"))
    size = int(config.get("size") or 0) if config.get("model") else 0  # a tiny model made from scratch has its own
    return CriticSettings(frames=asked.frames, task=asked.task, size=size or _smallest(processor))


def _part(value: Any, name: str) -> Mapping[str, Any]:
    """A mapping within a mapping; an empty one where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _smallest(processor: Any) -> int:
    """Side of the smallest square picture that is not enlarged."""
    image = processor.image_processor
    unit = image.patch_size * image.merge_size
    return math.ceil(math.isqrt(int(image.size["shortest_edge"])) / unit) * unit
