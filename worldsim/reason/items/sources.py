"""Where videos come from: datasets, folders of video files, lists; joining, subsetting, holding out, skipping bad ones."""

import dataclasses
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from worldsim.decode import read_video
from worldsim.errors import InvalidInputError, StorageError, WorldsimError
from worldsim.reason.items.item import KeyedChoices
from worldsim.reason.items.video import Provenance, StateLayout, Video, layout_of

_LOG = logging.getLogger(__name__)
_ENDINGS = {".mp4", ".mkv", ".webm", ".mov", ".avi"}


class Source(Protocol):
    """Videos by number. The same number always gives the same video."""

    def __len__(self) -> int:
        """How many videos there are."""

    def video(self, index: int) -> Video:
        """One video.

        Raises:
            WorldsimError: It cannot be read or is no video; the item is named.
        """


def provenance_of(source: Source, index: int) -> Provenance:
    """Where a video of a source came from, without its frames if the source knows it (it has a `provenance`)."""
    known = getattr(source, "provenance", None)
    found: Provenance = known(index) if callable(known) else source.video(index).provenance
    return found


class VideoList:
    """Videos that are already in memory."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self._videos = tuple(videos)

    def __len__(self) -> int:
        return len(self._videos)

    def video(self, index: int) -> Video:
        """One video."""
        return self._videos[_check_index(index, len(self))]


class JoinedSource:
    """Several sources, one after the other. A split by seed or policy holds across all of them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._places = [(source, i) for source in sources for i in range(len(source))]

    def __len__(self) -> int:
        return len(self._places)

    def video(self, index: int) -> Video:
        """One video."""
        source, own = self._places[_check_index(index, len(self))]
        return source.video(own)

    def provenance(self, index: int) -> Provenance:
        """Where a video came from."""
        source, own = self._places[_check_index(index, len(self))]
        return provenance_of(source, own)


class SourceSubset:
    """Some videos of a source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source = source
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def video(self, index: int) -> Video:
        """One video."""
        return self._source.video(self.indices[_check_index(index, len(self))])


class DatasetVideos:
    """The episodes of a LeRobotDataset folder: of kind "dream" where it says that a world dreamed them, else "dataset".

    Args:
        path: The folder.
        camera: Which of several cameras, by its full name or the last part of it.
        layout: Where vectors hold places; by default as known for the dataset's task, see `worldsim.reason.items.video`.

    Raises:
        WorldsimError: As `open_dataset`; StorageError where the dataset holds no episode.
    """

    def __init__(self, path: str | Path, *, camera: str | None = None, layout: StateLayout | None = None) -> None:
        from worldsim.data.lerobot.read import open_dataset  # brings pyarrow, which file and world sources do without

        self._data = open_dataset(path, cameras=None if camera is None else [camera])
        self._camera = self._data.only_camera.key
        if not self._data.episodes:
            raise StorageError(f"{path} holds no episode. Record some, or name another dataset.")
        self._layout = layout or layout_of(self._data.task_id)

    def __len__(self) -> int:
        return self._data.episodes

    def provenance(self, index: int) -> Provenance:
        """Where an episode came from; no frame is read."""
        return Provenance(
            kind="dream" if self._data.dreamed_by else "dataset",
            episode=str(_check_index(index, len(self))),
            seed=self._data.seeds[index],
            policy=self._data.behaviours[index] or "unknown",
            rate_hz=self._data.rate_hz,
        )

    def video(self, index: int) -> Video:
        """One episode; solved if it was at its end, or at any step where the task is judged so."""
        episode = self._data.episode(index)
        known = episode.success[np.isfinite(episode.success)]
        success = None
        if np.isfinite(episode.success[-1]):
            success = float(known.max() if self._data.success_at == "any" else episode.success[-1])
        return Video(
            frames=torch.from_numpy(episode.frames[self._camera]),
            provenance=self.provenance(index),
            action=torch.from_numpy(episode.action.copy()),
            proprio=torch.from_numpy(episode.proprio.copy()),
            true_state=None if episode.true_state is None else torch.from_numpy(episode.true_state.copy()),
            progress=torch.from_numpy(episode.progress) if np.isfinite(episode.progress).any() else None,
            success=success,
            layout=self._layout,
        )


class LabelledVideos:
    """The episodes of a dataset that people have labelled, with the outcome that they gave; others have none.

    Where the data does not say what acted, the labelled episodes count as those of two policies, solved and failed ones shared
    out evenly, so that a critic can be fitted on one part and tested on the other.

    Args:
        path: The dataset folder.
        labels: The file of labels.
        layout: As for `DatasetVideos`.

    Raises:
        WorldsimError: As `DatasetVideos` and `worldsim.data.labels.LabelFile`.
    """

    def __init__(self, path: str | Path, labels: str | Path, *, layout: StateLayout | None = None) -> None:
        from worldsim.data.labels import LabelFile, agree
        from worldsim.data.lerobot.read import open_dataset

        dataset = open_dataset(path)
        self._videos = DatasetVideos(path, camera=dataset.features[0], layout=layout)
        if not Path(labels).is_file():
            raise StorageError(f"There is no file of labels at {labels}. Make one: worldsim label {path}")
        said = agree(LabelFile.of(Path(labels), dataset).labels)
        sides = [sorted(e for e, a in said.items() if a.outcome == outcome) for outcome in ("failed", "solved")]
        self._success = {e: float(side) for side, episodes in enumerate(sides) for e in episodes}
        self._part = {e: f"part {rank % 2 + 1}" for episodes in sides for rank, e in enumerate(episodes)}

    def __len__(self) -> int:
        return len(self._videos)

    def provenance(self, index: int) -> Provenance:
        """Where an episode came from; no frame is read."""
        found = self._videos.provenance(index)
        part = self._part.get(index)
        return found if part is None or found.policy != "unknown" else dataclasses.replace(found, policy=part)

    def video(self, index: int) -> Video:
        """One episode, with its label."""
        video, success = self._videos.video(index), self._success.get(index)
        return dataclasses.replace(video, success=success, progress=None, provenance=self.provenance(index))


class FolderVideos:
    """The video files under a folder, by name; the subfolder a file lies in counts as its policy.

    Args:
        path: The folder.

    Raises:
        StorageError: There is no such folder, or no video file in it.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        files = self._path.rglob("*") if self._path.is_dir() else []
        self._files = sorted(p for p in files if p.suffix.lower() in _ENDINGS and p.is_file())
        if not self._files:
            raise StorageError(
                f"{self._path} holds no video file ({', '.join(sorted(_ENDINGS))}). Name another folder."
            )

    def __len__(self) -> int:
        return len(self._files)

    def video(self, index: int) -> Video:
        """One file."""
        file = self._files[_check_index(index, len(self))]
        frames, rate_hz = read_video(file)
        inside = file.relative_to(self._path)
        return Video(
            frames=torch.from_numpy(frames),
            provenance=Provenance(
                kind="file", episode=inside.as_posix(), policy=inside.parent.as_posix(), rate_hz=rate_hz
            ),
        )


class ReadableVideos:
    """The readable videos of a source; made by `skip_unreadable`."""

    def __init__(self, source: Source, share: float, shortest: int) -> None:
        self._source, self._share, self._shortest = source, share, shortest

    @cached_property
    def _sorted(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Numbers of the good videos, and what is wrong with the others."""
        good, bad = [], []
        for index in range(len(self._source)):
            try:
                length = len(self._source.video(index))
                if length < self._shortest:
                    raise InvalidInputError(f"Video {index} has {length} frames; at least {self._shortest} are needed.")
                good.append(index)
            except WorldsimError as error:
                bad.append(f"{index}: {error}")
                _LOG.warning("Skipped video %s", bad[-1])
        if len(bad) > self._share * len(self._source) or not good:
            raise InvalidInputError(
                f"{len(bad)} of {len(self._source)} videos are bad, more than the share of {self._share} that may be "
                f"skipped: {'; '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}. Repair them, or raise the share."
            )
        return tuple(good), tuple(bad)

    @property
    def bad(self) -> tuple[str, ...]:
        """What was skipped and why."""
        return self._sorted[1]

    def __len__(self) -> int:
        return len(self._sorted[0])

    def video(self, index: int) -> Video:
        """One good video."""
        return self._source.video(self._sorted[0][_check_index(index, len(self))])


def subsample(source: Source, most: int) -> Source:
    """At most `most` videos of a source, at even distances; all of them for 0."""
    count = len(source)
    if not most or most >= count:
        return source
    return SourceSubset(source, [i * count // most for i in range(most)])


def skip_unreadable(source: Source, *, share: float = 0.05, shortest: int = 2) -> ReadableVideos:
    """Skip and count videos that cannot be used.

    Every video is opened once, when the length is first asked for.

    Args:
        source: Any source.
        share: Most bad videos, as a share of all, before reading fails.
        shortest: Fewest frames of a good video.

    Returns:
        A source of the good ones. Reading it raises InvalidInputError, with the first bad items by name, where they
        exceed the share.

    Raises:
        InvalidInputError: A share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise InvalidInputError(f"share must be in 0..1; got {share}.")
    return ReadableVideos(source, share, shortest)


def _check_index(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise InvalidInputError(f"Video {index} given; there are {length}, numbered from 0.")
    return index


By = Literal["episode", "seed", "policy"]


def split(
    source: Source, *, by: By = "episode", share: float = 0.2, seed: int = 0
) -> tuple[SourceSubset, SourceSubset]:
    """Split a source into one to train on and one held out.

    Args:
        source: Any source. For "seed" and "policy" every video is read once, unless the source knows without.
        by: What the two parts must not share. Videos without a seed count as seeds of their own.
        share: Of the groups, to hold out; at least one group stays on each side.
        seed: Chooses the groups.

    Returns:
        The training and the held-out part.

    Raises:
        InvalidInputError: A share outside 0..1, or fewer than two groups.
    """
    origins = [None if by == "episode" else provenance_of(source, i) for i in range(len(source))]
    groups = [f"{i:09d}" if origin is None else group_of(origin, by, number=i) for i, origin in enumerate(origins)]
    train, held = split_groups(groups, by=by, share=share, seed=seed)
    return SourceSubset(source, train), SourceSubset(source, held)


def split_groups(groups: Sequence[str], *, by: By, share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Split rows by the group that each belongs to; arguments and errors as `split`.

    Returns:
        The rows to train on and those held out, each in order.
    """
    if not 0 < share < 1:
        raise InvalidInputError(f"share must lie between 0 and 1; got {share}.")
    names = sorted(set(groups))
    if len(names) < 2:
        raise InvalidInputError(f"Holding out by {by} needs two groups at least; this source has {names}.")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = {names[i] for i in KeyedChoices("split", by, seed).order(len(names))[:count]}
    train, out = ([i for i, g in enumerate(groups) if (g in held) == wanted] for wanted in (False, True))
    return train, out


def group_of(origin: Provenance, by: By, *, number: int) -> str:
    """What a video shares with others; `number` is its own, for where nothing else is known."""
    if by == "policy":
        return origin.policy
    if by == "episode":
        return origin.episode
    return str(origin.seed) if origin.seed >= 0 else f"video {number}"
