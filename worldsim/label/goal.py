"""Success by likeness to a goal picture: an episode is solved where its last frame looks enough like it.

How far a frame is from the goal is measured in what describes a frame (the mean colours of its parts, or a world's latent),
each number by how much it varies in the data, and in units of how far episodes begin from it: 0 is the goal, 1 is where most
episodes begin. How near is near enough follows from labels of people, or is said.

Shape legend: F frames, X numbers that describe one, L labelled episodes, H W pixels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.arrays import Bools, Bytes, Float32s, Float64s
from worldsim.data.episode import Episode
from worldsim.data.guess import mean_colours
from worldsim.data.labels import LabelFile, agree
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.label.sources import Said, said_of, source_name
from worldsim.stats.judge_rates import JudgeRates
from worldsim.video import decode_image

Look = Callable[[Bytes], Float32s]
"""Frames of the main camera, uint8 [F, H, W, 3] -> what describes them, [F, X]."""
_SAMPLE = 48
"""Episodes from which the scales are taken, beside the labelled ones."""
_QUIET = 0.1
"""Numbers that vary less than so much of the most varying one count as noise."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GoalSource:
    """Says solved where a frame is within a distance of the goal.

    Attributes:
        who: Its name.
        camera: Whose frames are looked at.
        success_at: Whether an episode is solved at its last frame or at any.
        within: The distance.
        look: What describes frames.
        goal_X: What describes the goal, scaled.
        scale_X: The scales.
        unit: Distance at which most episodes begin, before it is 1.
        rates: How the distance was found: each labelled episode judged by one that the others gave; None where it was said.
    """

    who: str
    camera: str
    success_at: str
    within: float
    look: Look
    goal_X: Float64s
    scale_X: Float64s
    unit: float
    rates: JudgeRates | None = None

    def __call__(self, index: int, episode: Episode) -> Said:
        """Solved where it ends, or at any frame is, near enough."""
        near_F = self.distance(episode.frames[self.camera]) <= self.within
        return said_of(near_F.astype(np.float64), success_at=self.success_at)

    def distance(self, frames_FHWC: Bytes) -> Float64s:
        """How far frames are from the goal, [F]."""
        rows_FX = self.look(frames_FHWC) / self.scale_X
        return np.asarray(np.linalg.norm(rows_FX - self.goal_X, axis=1) / self.unit)

    def __str__(self) -> str:
        near = (
            f"Solved is what ends within {self.within:.3g} of the goal (0 is the goal, 1 is where most episodes begin)"
        )
        if self.rates is None or (balanced := self.rates.balanced) is None:
            return f"{near}."
        return f"{near}, as labels say; labelled episodes that did not set it: balanced accuracy {balanced}."


def goal_source(
    picture: Path, dataset: Dataset, file: LabelFile, *, within: float | None = None, look: Look = mean_colours
) -> GoalSource:
    """Find the scales, and the distance where it is not said.

    Args:
        picture: A PNG or JPEG of the main camera, as it sees the solved task.
        dataset: The episodes.
        file: Their labels.
        within: The distance from which on an episode is solved; None finds it from labels of people.
        look: What describes frames.

    Raises:
        StorageError: The picture cannot be read.
        InvalidInputError: It is of another shape than the camera's, or labels of people do not tell both outcomes.
    """
    camera = dataset.cameras[0]
    people = _people(dataset, file) if within is None else {}
    if within is not None and not 0 < within < np.inf:
        raise InvalidInputError(f"--within is a distance above 0; got {within}.")
    ends = _ends(dataset, camera.key, look, people)
    spread_X = np.concatenate(list(ends.values())).astype(np.float64).std(axis=0)
    scale_X = np.maximum(spread_X, max(_QUIET * float(spread_X.max()), 1e-9))
    goal_X = look(_read_picture(picture, camera.size)[None])[0] / scale_X
    far = {i: np.linalg.norm(rows / scale_X - goal_X, axis=1) for i, rows in ends.items()}
    unit = float(np.median([begin for begin, _ in far.values()])) or 1.0
    labelled = [i for i in people if i in far]
    far_L = np.array([far[i][1] / unit for i in labelled])
    solved_L = np.array([people[i] for i in labelled])
    return GoalSource(
        who=source_name("goal", picture.name),
        camera=camera.key,
        success_at=dataset.success_at,
        within=best_distance(far_L, solved_L) if within is None else within,
        look=look,
        goal_X=goal_X,
        scale_X=scale_X,
        unit=unit,
        rates=_leave_one_out(far_L, solved_L) if within is None else None,
    )


def _people(dataset: Dataset, file: LabelFile) -> dict[int, bool]:
    """Which episodes people call solved or failed.

    Raises:
        InvalidInputError: They know only one outcome.
    """
    found = agree(file.labels).items()
    people = {e: a.outcome == "solved" for e, a in found if not a.automatic and a.outcome != "unclear"}
    if len(set(people.values())) < 2:
        raise InvalidInputError(
            f"How near the goal is near enough follows from labels of people, and {file.path} has too few: label some solved and "
            f"some failed episodes first (worldsim label {dataset.name}), or say it with --within, for example 0.3 (0 is the goal, "
            "1 is where most episodes begin)."
        )
    return people


def _ends(dataset: Dataset, camera: str, look: Look, people: Mapping[int, bool]) -> dict[int, Float32s]:
    """What describes the first and last frame of labelled episodes and of some others, [2, X] by episode.

    Raises:
        InvalidInputError: None can be read.
    """
    chosen = np.linspace(0, dataset.episodes - 1, min(_SAMPLE, dataset.episodes)).round().astype(int).tolist()
    ends: dict[int, Float32s] = {}
    for index in sorted({*chosen, *people}):
        try:
            ends[index] = look(dataset.episode(index).frames[camera][[0, -1]])
        except (StorageError, InvalidInputError):
            continue  # named when it is to be labelled
    if not people.keys() <= ends.keys() or not ends:
        raise InvalidInputError(
            f"Episodes of {dataset.name} that are labelled, or all that were tried, cannot be read."
        )
    return ends


def best_distance(far_L: Float64s, solved_L: Bools) -> float:
    """The distance with the best balanced accuracy on labelled episodes, in the middle of the widest such gap."""
    order_L = np.sort(far_L)
    cuts = np.concatenate([[order_L[0] / 2], (order_L[1:] + order_L[:-1]) / 2, [order_L[-1] * 1.001 + 1e-9]])
    room = np.concatenate([[order_L[0]], np.diff(order_L), [0.0]])
    near_CL = far_L[None] <= cuts[:, None]
    score_C = near_CL[:, solved_L].mean(axis=1) + (~near_CL[:, ~solved_L]).mean(axis=1)
    best = np.flatnonzero(score_C >= score_C.max() - 1e-9)
    return float(cuts[best[np.argmax(room[best])]])


def _leave_one_out(far_L: Float64s, solved_L: Bools) -> JudgeRates | None:
    """Each labelled episode judged by the distance that the others give; None where an outcome has only one."""
    if min(int(solved_L.sum()), int((~solved_L).sum())) < 2:
        return None
    rest = ~np.eye(len(far_L), dtype=bool)
    judged = [far <= best_distance(far_L[keep], solved_L[keep]) for far, keep in zip(far_L, rest, strict=True)]
    return JudgeRates.of(np.array(judged), solved_L)


def _read_picture(path: Path, size: tuple[int, int]) -> Bytes:
    """A picture in a camera's size, uint8 [H, W, 3]."""
    try:
        frame = decode_image(path.read_bytes(), source=path)
    except OSError as error:
        raise StorageError(f"Could not read the goal picture {path}: {error.strerror or error}.") from error
    height, width = frame.shape[:2]
    if abs(height * size[1] - width * size[0]) > max(height * size[1], width * size[0]) * 0.02:
        raise InvalidInputError(
            f"The goal picture {path} has {height} x {width} pixels, and the main camera {size[0]} x {size[1]}: give one of the "
            "same shape, best a frame of a solved episode."
        )
    if (height, width) == size:
        return frame
    x_1CHW = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    x_1CHW = F.interpolate(x_1CHW, size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return np.asarray(x_1CHW[0].permute(1, 2, 0).to(torch.uint8).numpy())
