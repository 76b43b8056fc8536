"""Finding the questions of a benchmark folder: datasets, entries, video files; what is bad is named and counted.

Nothing is unpacked or downloaded. No path that a file names may lead out of its folder; links that lie in the folder are
followed, since who keeps it made them. Not for opening videos (`clips`).
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError, WorldsimError, unknown_name
from worldsim.reason.benchmark.layout import CLIPS, ENDING, Question, question
from worldsim.reason.draw import Draw

_LOG = logging.getLogger(__name__)
_SETS = ("_benchmark_", "_rl_", "_sft_", "_")
"""What stands between a dataset's name and the ending of its file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The questions of a folder.

    Attributes:
        folder: Where they are.
        questions: The good ones, in the order of the files.
        bad: What is wrong with the others, by their names.
        digests: Digest of each dataset's file.
    """

    folder: Path
    questions: tuple[Question, ...]
    bad: dict[str, str]
    digests: dict[str, str]

    def drawn(self, *, limit: int | None, seed: int) -> tuple[Question, ...]:
        """Questions in the order in which they are asked: by dataset and task, within a task drawn.

        Args:
            limit: Most questions of each dataset; None for all. Fewer are the beginning of more.
            seed: Of the order.

        Raises:
            InvalidInputError: A limit below 1.
        """
        if limit is not None and limit < 1:
            raise InvalidInputError(f"limit must be at least 1; got {limit}.")
        found: list[Question] = []
        for dataset in dict.fromkeys(q.dataset for q in self.questions):
            own = [q for q in self.questions if q.dataset == dataset]
            mixed = [own[i] for i in Draw("benchmark", dataset, seed).order(len(own))][:limit]
            found += sorted(mixed, key=lambda q: q.task)
        return tuple(found)


def read_benchmark(folder: str | Path, *, datasets: Sequence[str] | None = None, bad_share: float = 0.05) -> Benchmark:
    """Read every question of a folder; bad ones are skipped and named, up to a share.

    Args:
        folder: Holds datasets as `worldsim.reason.benchmark.layout` says, or is one itself.
        datasets: Which ones; all by default.
        bad_share: Most bad questions, as a share of all, before it counts as a failure of the whole.

    Raises:
        StorageError: No such folder, no file with questions in it, or one that is not JSON or empty.
        UnknownNameError: No such dataset.
        InvalidInputError: More questions are bad than may be; the first are named, with what to do.
    """
    path = Path(folder)
    files = _files(path)
    for name in datasets or ():
        if name not in files:
            raise unknown_name(f"dataset in {path}", name, files)
    chosen = {n: f for n, f in files.items() if not datasets or n in datasets}
    good: list[Question] = []
    bad: dict[str, str] = {}
    for name, file in chosen.items():
        own, wrong = _dataset(name, file)
        good += own
        bad |= wrong
    check_share(bad, len(good) + len(bad), share=bad_share)
    for line in bad.values():
        _LOG.warning("Skipped %s", line)
    return Benchmark(
        folder=path,
        questions=tuple(good),
        bad=bad,
        digests={n: storage.digest_file(f) for n, f in chosen.items()},
    )


def check_share(bad: Mapping[str, str], total: int, *, share: float) -> None:
    """Stop where too much is bad.

    Args:
        bad: What is wrong, by the names of questions.
        total: How many questions there are, the bad ones included.
        share: Most of them that may be bad.

    Raises:
        InvalidInputError: More are, or all; or the share lies outside 0..1.
    """
    if not 0 <= share <= 1:
        raise InvalidInputError(f"bad_share must be in 0..1; got {share}.")
    if bad and (len(bad) > share * total or len(bad) == total):
        counts = Counter(name.rpartition("/")[0] for name in bad)
        raise InvalidInputError(
            f"{len(bad)} of {total} questions are bad ({', '.join(f'{n} of {d}' for d, n in counts.items())}), more than "
            f"the share of {share:g} that may be skipped. {' '.join(list(bad.values())[:3])}"
            f"{' ...' if len(bad) > 3 else ''} Repair them, choose other datasets, or raise the share."
        )


def _files(path: Path) -> dict[str, Path]:
    """Files with questions by the name of their dataset."""
    if not path.is_dir():
        raise StorageError(f"There is no folder {path}. Name a folder with DATASET/DATASET_benchmark_{ENDING}.")
    found = sorted(p for pattern in (f"*{ENDING}", f"*/*{ENDING}") for p in path.glob(pattern) if p.is_file())
    if not found:
        raise StorageError(
            f"{path} holds no questions: no *{ENDING} in it or in a folder of it. Unpack the benchmark there, or make one "
            "with `worldsim reason items`."
        )
    names = [_name(p) for p in found]
    twice = {n for n in names if names.count(n) > 1}
    return {
        (p.relative_to(path).with_suffix("").as_posix() if n in twice else n): p
        for n, p in zip(names, found, strict=True)
    }


def _name(file: Path) -> str:
    """The dataset's name: what its file is called, or else its folder."""
    stem = file.name.removesuffix(ENDING)
    return next((stem.removesuffix(s) for s in _SETS if stem.endswith(s)), stem) or file.resolve().parent.name


def _dataset(name: str, file: Path) -> tuple[list[Question], dict[str, str]]:
    """Good questions, and what is wrong with the others."""
    try:
        entries = storage.read_json(file)
    except RecursionError as error:
        raise StorageError(f"{file} is nested too deeply to be a list of questions. Restore it.") from error
    if not isinstance(entries, list) or not entries:
        raise StorageError(f"{file} must hold a list of clips with their questions; got {entries!r:.60}. Restore it.")
    good: list[Question] = []
    bad: dict[str, str] = {}
    for number, entry in enumerate(entries):
        pairs = entry.get("qa_pairs") if isinstance(entry, Mapping) else None
        single = not isinstance(pairs, list) or len(pairs) == 1
        for place, pair in enumerate(pairs if isinstance(pairs, list) and pairs else [pairs]):
            called = f"{name}/{number}" if single else f"{name}/{number}.{place}"
            try:
                good.append(_question(called, name, pair, entry, file.parent))
            except WorldsimError as error:
                bad[called] = str(error)
    return _grouped(good), bad


def _question(name: str, dataset: str, pair: object, entry: object, folder: Path) -> Question:
    if not isinstance(entry, Mapping):
        raise InvalidInputError(f"{name}: an entry must be an object with video and qa_pairs; got {entry!r:.80}.")
    return question(name, dataset, pair, entry=entry, video=_video(name, entry, folder))


def _video(name: str, entry: Mapping[str, Any], folder: Path) -> Path:
    """The clip's file: where the entry says, or by its name in a folder of clips or beside the JSON file."""
    given = entry.get("video")
    if not isinstance(given, str) or not given.strip():
        raise InvalidInputError(f"{name}: video must be a path within {folder}; got {given!r:.80}.")
    inside, either = PurePosixPath(given), PureWindowsPath(given)  # the latter knows both kinds of slashes
    if either.anchor or ".." in either.parts:
        raise InvalidInputError(
            f"{name}: the video {given!r:.80} lies outside {folder}. Only paths within it are read."
        )
    places = [folder / inside, *(f / inside.name for f in (folder / CLIPS, folder, folder.parent / CLIPS))]
    try:
        found = next((p for p in places if p.is_file()), None)
    except OSError as error:  # for example a name that is too long
        raise StorageError(f"{name}: the video {given!r:.80} cannot be looked up ({error.strerror}).") from error
    if found is None:
        packed = sorted(p.name for p in folder.glob("*.tar*"))
        cure = f"Unpack {packed[0]} there." if packed else "Put the clips there, or leave the dataset out."
        raise StorageError(f"{name}: the video {given!r:.80} is not in {folder}. {cure}")
    return found


def _grouped(questions: list[Question]) -> list[Question]:
    """Tasks that hardly two questions share are descriptions, not kinds: such questions are counted together."""
    if 2 * len({q.task for q in questions}) <= len(questions):
        return questions
    return [dataclasses.replace(q, task=q.dataset) for q in questions]
