"""Outcomes that people, or sources such as a reward, gave to recorded episodes: `labels.jsonl`, never inside the recording.

Lines are only ever appended, and are on the disk when `LabelFile.add` returns. The last line of a person about an episode
is what they say of it; people who disagree leave it unclear until more than half of them agree. Sources count only where no
person has spoken.
"""

import dataclasses
import fcntl
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median_low
from typing import IO, Literal, Self, get_args

from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.json_values import from_json, parse_json, shown, to_json
from worldsim.stats.judge_rates import Proportion
from worldsim.storage import MAX_JSON_BYTES

Outcome = Literal["solved", "failed", "unclear"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MAX_NAME = 64
"""Characters that the name of a person or source may have."""
_SHOWN = 8
"""Episodes that a sentence lists at most."""
SOURCES = ("goal", "judge", "reward")
"""Kinds of sources; a source is called ``KIND: NAME``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """What one person or source says of one episode.

    Attributes:
        dataset: Digest of the dataset (`Dataset.digest` of the folder, opened with all its cameras).
        episode: Index of the episode.
        outcome: How it ended.
        frame: First frame at which it shows: where it failed, or from where on it stands solved; None where that was not said.
        who: Name of the person, or ``KIND: NAME`` of a source (`SOURCES`).
        when: ISO 8601, with its offset from UTC.

    Raises:
        InvalidInputError: A value is out of range; it is named.
    """

    dataset: str
    episode: int
    outcome: Outcome
    frame: int | None = None
    who: str
    when: str

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise InvalidInputError(f"Label.outcome must be one of {', '.join(OUTCOMES)}; got {shown(self.outcome)}.")
        if self.episode < 0 or (self.frame is not None and self.frame < 0):
            raise InvalidInputError(f"Label.episode and frame count from 0; got {self.episode} and {self.frame}.")
        if self.frame is not None and self.outcome == "unclear":
            raise InvalidInputError("Label.frame says where an episode failed or was solved; an unclear one has none.")
        if not self.who.strip() or not self.who.isprintable() or len(self.who) > MAX_NAME:
            raise InvalidInputError(
                f"Label.who must be a name of 1 to {MAX_NAME} printable characters; got {shown(self.who)}."
            )
        try:
            datetime.fromisoformat(self.when)
        except ValueError as error:
            raise InvalidInputError(f"Label.when must be a time in ISO 8601; got {shown(self.when)}.") from error

    @property
    def automatic(self) -> bool:
        """Whether a source says it, not a person."""
        return is_source(self.who)


def is_source(who: str) -> bool:
    """Whether a name is that of a source, not of a person."""
    kind, colon, _ = who.partition(":")
    return bool(colon) and kind.strip().lower() in SOURCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreed:
    """What people together say of an episode, or sources where no person has spoken.

    Attributes:
        outcome: What more than half of them say; unclear where there is no such outcome.
        frame: The median of the frames that they marked; None where none was.
        disputed: No outcome has more than half of them.
        automatic: No person has spoken.
    """

    outcome: Outcome
    frame: int | None
    disputed: bool
    automatic: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two people or sources agree on the episodes that both labelled; a source that says unclear says nothing.

    Attributes:
        people: Their names.
        agreement: Episodes with the same outcome among those that both labelled.
        kappa: Cohen's kappa, agreement beyond chance; None where both gave one and the same outcome to all.
        differing: Episodes with different outcomes, ascending.
    """

    people: tuple[str, str]
    agreement: Proportion
    kappa: float | None
    differing: tuple[int, ...]

    def __str__(self) -> str:
        kappa = "" if self.kappa is None else f", Cohen's kappa {self.kappa:.2f}"
        shown = ", ".join(map(str, self.differing[:_SHOWN])) + (" and more" if len(self.differing) > _SHOWN else "")
        differ = f"; they differ on {shown}" if shown else ""
        return f"{self.people[0]} and {self.people[1]} agree on {self.agreement}{kappa}{differ}"


class LabelFile:
    """The labels of one dataset.

    Args:
        path: The file; made when the first label is added.
        digest: Of the dataset.
        lengths: Frames of each of its episodes.

    Raises:
        StorageError: The file cannot be read, or a line of it is damaged; the line is named.
        InvalidInputError: A label belongs to another dataset, or to an episode or frame that does not exist.
    """

    def __init__(self, path: Path, *, digest: str, lengths: Sequence[int]) -> None:
        self.path, self.digest = path, digest
        self._lengths = tuple(lengths)
        self.labels: tuple[Label, ...] = ()
        self.refresh()

    @classmethod
    def of(cls, path: Path, dataset: Dataset) -> Self:
        """The labels of a dataset that was opened with all its cameras; raises as the class does."""
        return cls(path, digest=dataset.digest, lengths=[dataset.length(i) for i in range(dataset.episodes)])

    def refresh(self) -> None:
        """Read what others have added meanwhile; a last line that is still incomplete is left out.

        Raises:
            StorageError, InvalidInputError: As the class.
        """
        self.labels = tuple(self._check(line, n) for n, line in enumerate(_complete_lines(self.path), 1))

    def add(self, *, episode: int, outcome: Outcome, frame: int | None = None, who: str) -> Label:
        """Append a label; on return it is on the disk.

        Raises:
            InvalidInputError: The label is wrong; nothing was written.
            StorageError: It could not be written.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        label = Label(dataset=self.digest, episode=episode, outcome=outcome, frame=frame, who=who, when=when)
        self._require_exists(label)
        _append_line(self.path, json.dumps(to_json(label), sort_keys=True, allow_nan=False))
        self.labels = (*self.labels, label)
        return label

    def _check(self, line: bytes, number: int) -> Label:
        """A line as a label of this dataset."""
        where = f"Line {number} of {self.path}"
        try:
            label = from_json(Label, parse_json(line, source="it"))
            _refuse_repeated(line)
            if label.dataset != self.digest:
                raise InvalidInputError(
                    f"it belongs to another dataset (digest {shown(label.dataset[:12])}, expected {self.digest[:12]!r}). "
                    "Name the dataset that was labelled, or another file"
                )
            self._require_exists(label)
        except StorageError as error:
            raise StorageError(f"{where} is damaged: {error} Delete that line.") from error
        except (InvalidInputError, LookupError) as error:
            raise InvalidInputError(f"{where} is no label: {error}") from error
        return label

    def _require_exists(self, label: Label) -> None:
        if label.episode >= len(self._lengths):
            raise InvalidInputError(
                f"There is no episode {label.episode}; the dataset has episodes 0 to {len(self._lengths) - 1}."
            )
        if label.frame is not None and label.frame >= self._lengths[label.episode]:
            raise InvalidInputError(
                f"Episode {label.episode} has no frame {label.frame}; it has 0 to {self._lengths[label.episode] - 1}."
            )


def by_episode(labels: Iterable[Label]) -> dict[int, dict[str, Label]]:
    """Episode -> person or source -> the last label that they gave to it."""
    found: dict[int, dict[str, Label]] = {}
    for label in labels:
        found.setdefault(label.episode, {})[label.who] = label
    return found


def agree(labels: Iterable[Label]) -> dict[int, Agreed]:
    """What people together, or else sources, say of each labelled episode."""
    return {episode: _agree(list(said.values())) for episode, said in by_episode(labels).items()}


def _agree(said: Sequence[Label]) -> Agreed:
    people = [label for label in said if not label.automatic]
    said = people or [label for label in said if label.outcome != "unclear"]
    if not said:
        return Agreed(outcome="unclear", frame=None, disputed=False, automatic=True)
    outcome, votes = Counter(label.outcome for label in said).most_common(1)[0]
    if 2 * votes <= len(said):
        return Agreed(outcome="unclear", frame=None, disputed=True, automatic=not people)
    frames = [label.frame for label in said if label.outcome == outcome and label.frame is not None]
    return Agreed(outcome=outcome, frame=median_low(frames) if frames else None, disputed=False, automatic=not people)


def compare(labels: Iterable[Label]) -> list[Comparison]:
    """Every two people or sources who labelled an episode in common, people first, by name."""
    said = {
        episode: {who: label for who, label in given.items() if not (label.automatic and label.outcome == "unclear")}
        for episode, given in by_episode(labels).items()
    }
    people = sorted({who for given in said.values() for who in given}, key=lambda who: (is_source(who), who))
    found = []
    for first, second in itertools.combinations(people, 2):
        both = {e: (g[first].outcome, g[second].outcome) for e, g in said.items() if first in g and second in g}
        if both:
            found.append(_compare((first, second), both))
    return found


def _compare(people: tuple[str, str], both: Mapping[int, tuple[Outcome, Outcome]]) -> Comparison:
    n = len(both)
    same = sum(a == b for a, b in both.values())
    counts = [Counter(pair[side] for pair in both.values()) for side in (0, 1)]
    chance = sum(counts[0][o] * counts[1][o] for o in OUTCOMES) / n**2
    return Comparison(
        people=people,
        agreement=Proportion(hits=same, count=n),
        kappa=None if chance == 1 else (same / n - chance) / (1 - chance),
        differing=tuple(sorted(e for e, (a, b) in both.items() if a != b)),
    )


def _refuse_repeated(line: bytes) -> None:
    """Refuse a line that gives a field twice, of which a reader takes one or the other."""

    def check(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise InvalidInputError(f"it gives {shown(twice[0])} twice")
        return dict(pairs)

    json.loads(line, object_pairs_hook=check)


def _complete_lines(path: Path) -> list[bytes]:
    """The lines of a file that end; none where there is no file."""
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise StorageError(f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are read. Is it a file of labels?")
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Could not read {path}: {error.strerror or error}.") from error
    return data[: data.rfind(b"\n") + 1].splitlines()


def _append_line(path: Path, text: str) -> None:
    """Append one line durably; what a kill left of an earlier one is taken off first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_torn_end(file)
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"Could not write {path}: {error.strerror or error}. Free space or choose another place; labels given before "
            "are kept."
        ) from error


def _drop_torn_end(file: IO[bytes]) -> None:
    """Cut a file after its last complete line."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_JSON_BYTES))
    data = file.read()
    if data and not data.endswith(b"\n"):
        file.truncate(size - len(data) + data.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
