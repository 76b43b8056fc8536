"""One person's session of labelling: what is asked next, what was said, and the film of an episode.

The labels of others are read again before every question, so that two people may label at the same time.

Shape legend: N episodes, D numbers that describe an episode, T frames, H W pixels.
"""

import dataclasses
import functools
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from worldsim.arrays import Bytes, Float64s
from worldsim.data.guess import check_outcomes, describe_episodes
from worldsim.data.labels import SOURCES, Label, LabelFile, Outcome, agree, by_episode, compare, is_source
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.dreams import chance_of_judges
from worldsim.label.choose import order_episodes
from worldsim.progress import Progress, silent
from worldsim.rollout.judge import WorldJudge
from worldsim.video import encode_mp4, side_by_side
from worldsim.worlds.latent import LatentWorld

_LOG = logging.getLogger(__name__)
_KEPT_FILMS = 4
_SMALLEST_PX = 256
"""Films less high than this are enlarged."""
_TRUST: dict[Outcome, float] = {"solved": 0.9, "failed": 0.1, "unclear": 0.5}
"""Probability of success where a source says so: it may be wrong."""
_OVERLAP = 0.25
"""Share of a person's questions that others have answered too, so that they can be compared."""


class Recorded(Protocol):
    """Episodes that can be looked at."""

    digest: str
    lengths: tuple[int, ...]
    rate_hz: float

    def frames(self, index: int) -> Bytes:
        """All cameras of an episode beside each other, uint8 [T, H, W, 3]."""

    def task(self, index: int) -> str:
        """What the episode was to achieve; empty where that is not known."""


class RecordedDataset:
    """The episodes of a dataset folder."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.digest, self.rate_hz = dataset.digest, dataset.rate_hz
        self.lengths = tuple(dataset.length(i) for i in range(dataset.episodes))
        self._tasks: dict[int, str] = {}

    def frames(self, index: int) -> Bytes:
        """All cameras of an episode beside each other, uint8 [T, H, W, 3]."""
        episode = self._dataset.episode(index)
        self._tasks[index] = episode.task
        return join_frames([episode.frames[camera.key] for camera in self._dataset.cameras])

    def task(self, index: int) -> str:
        """The sentence of an episode that was looked at, else of the dataset; some recordings hold only separators."""
        found = self._tasks.get(index) or self._dataset.task
        return found if any(map(str.isalnum, found)) else ""


def join_frames(videos: Sequence[Bytes]) -> Bytes:
    """Put videos uint8 [T, H, W, 3] of any heights beside each other; less high ones get black below."""
    height = max(v.shape[1] for v in videos)
    padded = [np.pad(v, ((0, 0), (0, height - v.shape[1]), (0, 0), (0, 0))) for v in videos]
    return side_by_side(padded) if len(padded) > 1 else padded[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What the page shows.

    Attributes:
        episode: Which episode; None where all are labelled.
        frames: How many it has.
        rate_hz: Frames per second.
        task: What it was to achieve.
        again: It is asked again, since people disagree.
        dream: A learned world drew it.
        said: What this person said of it before; None where they did not.
        frame: The frame that they marked.
        labelled: How many episodes this person has labelled.
        episodes: How many there are to label.
        counts: How many episodes have each outcome.
        agreements: How far people agree, one line for every two.
        disputed: Episodes on which people disagree.
        worth: What the labels say of each other so far, a sentence; empty while too few tell both outcomes.
    """

    episode: int | None
    frames: int = 0
    rate_hz: float = 1.0
    task: str = ""
    again: bool = False
    dream: bool = False
    said: Outcome | None = None
    frame: int | None = None
    labelled: int
    episodes: int
    counts: dict[str, int]
    agreements: tuple[str, ...]
    disputed: tuple[int, ...]
    worth: str = ""


class Session:
    """What one person is asked, and what they say.

    Args:
        recorded: The episodes.
        file: Their labels.
        who: The person.
        features_ND: What is known of each episode, [N, D] (`worldsim.data.guess`).
        skip: Episodes never to ask about.
        chance_N: Probability of success by a head or judge that exists already, [N].
        dreams: A world drew the episodes, in random order: every second question is the first that is not labelled, so that the
            first labels are of a random sample, by which the run's judge is measured.

    Raises:
        InvalidInputError: The numbers do not fit the episodes, or the name is that of a source.
    """

    def __init__(
        self,
        recorded: Recorded,
        file: LabelFile,
        *,
        who: str,
        features_ND: Float64s,
        skip: Sequence[int] = (),
        chance_N: Float64s | None = None,
        dreams: bool = False,
    ) -> None:
        if is_source(who):
            raise InvalidInputError(
                f"{who!r} is what a source is called ({', '.join(SOURCES)}); give another name: --who."
            )
        if len(features_ND) != len(recorded.lengths):
            raise InvalidInputError(f"Got numbers of {len(features_ND)} episodes for {len(recorded.lengths)}.")
        self.recorded, self.file, self.who = recorded, file, who
        self._features_ND, self._chance_N, self._dreams = features_ND, chance_N, dreams
        self._skip = set(skip)
        self._lock = threading.RLock()  # pages ask from several threads
        self._film = functools.lru_cache(_KEPT_FILMS)(self._draw)

    def ask(self, episode: int | None = None) -> Question:
        """The next question, or the one about an episode.

        Raises:
            StorageError, InvalidInputError: The file of labels is damaged, or there is no such episode.
        """
        with self._lock:
            self.file.refresh()
            labels = self.file.labels
            if episode is None:
                order = self._order(labels)
                episode = order[0] if order else None
            elif not 0 <= episode < len(self.recorded.lengths):
                raise InvalidInputError(
                    f"There is no episode {episode}; there are episodes 0 to {len(self.recorded.lengths) - 1}."
                )
            return self._question(episode, labels)

    def say(self, *, episode: int, outcome: Outcome, frame: int | None) -> None:
        """Keep what the person says; on return it is on the disk.

        Raises:
            InvalidInputError: There is no such episode, frame or outcome.
            StorageError: It could not be written.
        """
        with self._lock:
            self.file.add(episode=episode, outcome=outcome, frame=frame, who=self.who)

    def film(self, episode: int) -> bytes:
        """An episode as mp4; one that cannot be read is not asked about again in this session.

        Raises:
            StorageError, InvalidInputError: It cannot be read, or there is no such episode.
        """
        with self._lock:
            try:
                return self._film(episode)
            except (StorageError, InvalidInputError) as error:
                _LOG.warning("Episode %d cannot be shown: %s", episode, error)
                self._skip.add(episode)
                raise

    def _draw(self, episode: int) -> bytes:
        frames_THWC = self.recorded.frames(episode)
        scale = max(1, -(-_SMALLEST_PX // frames_THWC.shape[1]))
        return encode_mp4(frames_THWC, rate_hz=self.recorded.rate_hz, scale=scale)

    def _order(self, labels: Sequence[Label]) -> list[int]:
        """Disputed ones that others spoke of last, a share of what others labelled, then those that teach most."""
        mine = {label.episode for label in labels if label.who == self.who}
        people = [label for label in labels if not label.automatic]
        agreed, last = agree(people), {label.episode: label.who for label in people}
        again = [e for e in sorted(agreed) if agreed[e].disputed and last[e] != self.who]
        others = [e for e in by_episode(people) if e not in mine and e not in again]
        both = sum(len(given) > 1 for given in by_episode(people).values())
        if others and both < _OVERLAP * (len(mine) + 1):
            again.append(others[0])
        said: dict[int, Outcome] = {e: a.outcome for e, a in agreed.items()}
        if self._dreams and not again and len(mine) % 2 == 0:
            again = [e for e in range(len(self._features_ND)) if e not in said and e not in self._skip][:1]
        chance_N = mean_chance(labels, self._chance_N, episodes=len(self._features_ND))
        return order_episodes(self._features_ND, said, again=again, skip=self._skip, chance_N=chance_N)

    def _worth(self, said: Mapping[int, Outcome]) -> str:
        """How well the labels predict each other."""
        rates = check_outcomes(self._features_ND, {e: o for e, o in said.items() if e not in self._skip})
        if rates is None or rates.balanced is None:
            return ""
        return (
            f"Each labelled episode guessed from the others by its last picture: balanced accuracy {rates.balanced}; "
            "those asked for are the hardest"
        )

    def _question(self, episode: int | None, labels: Sequence[Label]) -> Question:
        said, agreed, recorded = by_episode(labels), agree(labels), self.recorded
        own = said.get(episode, {}).get(self.who) if episode is not None else None
        summary = Question(
            episode=episode,
            said=None if own is None else own.outcome,
            frame=None if own is None else own.frame,
            labelled=sum(self.who in given for given in said.values()),
            episodes=len(recorded.lengths) - len(self._skip),
            counts=dict(Counter(a.outcome for a in agreed.values())),
            agreements=tuple(map(str, compare(labels))),
            disputed=tuple(e for e, a in sorted(agreed.items()) if a.disputed),
            worth=self._worth({e: a.outcome for e, a in agreed.items() if not a.automatic}),
        )
        if episode is None:
            return summary
        shown: dict[str, Any] = {"frames": recorded.lengths[episode], "task": recorded.task(episode)}
        again = episode in agreed and agreed[episode].disputed
        return dataclasses.replace(summary, **shown, rate_hz=recorded.rate_hz, again=again, dream=self._dreams)


def mean_chance(labels: Sequence[Label], chance_N: Float64s | None, *, episodes: int) -> Float64s | None:
    """Probability of success [N] by sources and by heads or a judge together: even where they disagree, or say nothing.

    Args:
        labels: Of which those of sources are read.
        chance_N: By heads or a judge, [N]; None where there are none.
        episodes: N.

    Returns:
        The mean of all that have an estimate; None where there is none at all.
    """
    estimates: dict[int, list[float]] = {}
    for episode, given in by_episode(label for label in labels if label.automatic).items():
        estimates[episode] = [_TRUST[label.outcome] for label in given.values()]
    if not estimates:
        return chance_N
    own = np.full(episodes, np.nan) if chance_N is None else chance_N
    all_N = [[p for p in (*estimates.get(i, ()), own[i]) if np.isfinite(p)] for i in range(episodes)]
    return np.array([np.mean(found) if found else 0.5 for found in all_N])


def open_session(
    data: str | Path,
    out: Path,
    *,
    who: str,
    most: int = 400,
    world: LatentWorld | None = None,
    run: Path | None = None,
    progress: Progress = silent,
) -> Session:
    """Open a dataset, or the dreams of a run, for labelling.

    Args:
        data: The dataset folder.
        out: The file of labels; made with the first label.
        who: Who labels.
        most: Episodes to choose from.
        world: A world of such episodes, whose heads say where they are sure; None where there is none.
        run: The run folder whose dreams they are (`worldsim.evaluate.dreams`); None for recordings.
        progress: Called as episodes are looked at.

    Raises:
        StorageError: The dataset or the file of labels cannot be read.
        InvalidInputError: The file lies in the dataset or holds labels of another one, or no episode can be read.
    """
    dataset, file = open_labels(data, out)
    recorded = RecordedDataset(dataset)
    found = describe_episodes(dataset, most=most, progress=progress)
    skip = tuple(found.left_out)
    chance_N = None if world is None else chance_of_heads(world, dataset, skip=skip, progress=progress)
    if run is not None:
        chance_N = chance_of_judges(run)
    features_ND, dreams = found.ends_ND, run is not None
    return Session(recorded, file, who=who, features_ND=features_ND, skip=skip, chance_N=chance_N, dreams=dreams)


def open_labels(data: str | Path, out: Path) -> tuple[Dataset, LabelFile]:
    """A dataset with all its cameras, and its file of labels.

    Raises:
        StorageError: The dataset or the file cannot be read.
        InvalidInputError: The file lies in the dataset or holds labels of another one.
    """
    dataset = open_dataset(data)
    if out.resolve().is_relative_to(dataset.path.resolve()):
        raise InvalidInputError(
            f"{out} lies inside the dataset, which stays as it was recorded. Name another place: --out."
        )
    return dataset, LabelFile.of(out, dataset)


def chance_of_heads(
    world: LatentWorld, dataset: Dataset, *, skip: Sequence[int] = (), progress: Progress = silent
) -> Float64s | None:
    """Probability of success of every episode by a world's heads, [N], even for those skipped; None where it learned none.

    Args:
        world: A world that sees what the dataset shows.
        dataset: The episodes.
        skip: Episodes that are not looked at.
        progress: Called as it advances.

    Raises:
        InvalidInputError: Its cameras are not the dataset's.
    """
    cameras = world.spec.cameras
    if missing := [c for c in cameras if (c.key, c.size) not in {(d.key, d.size) for d in dataset.cameras}]:
        shown = ", ".join(f"{c.key} of {c.height} x {c.width} pixels" for c in missing)
        raise InvalidInputError(
            f"The world sees {shown}, which {dataset.name} does not have. Name a world of this data."
        )
    if "success" in world.spec.unlabelled:
        return None
    chance_N, judge = np.full(dataset.episodes, np.nan), WorldJudge(success_at=world.spec.success_at)
    for index in sorted(set(range(dataset.episodes)) - set(skip)):
        frames = dataset.episode(index).frames
        z_FCHW = world.encode({c.key: torch.from_numpy(np.ascontiguousarray(frames[c.key])) for c in cameras})
        with torch.no_grad():
            success_F = world.heads.outcome(z_FCHW, z_FCHW[:1].expand_as(z_FCHW))[1].float().cpu()
        chance_N[index] = float(judge.probability(success_F[None, 1:] if len(success_F) > 1 else success_F[None])[0])
        progress("episodes by heads", index + 1, dataset.episodes, {})
    return np.nan_to_num(chance_N, nan=0.5)
