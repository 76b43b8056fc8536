"""Reading a benchmark folder: datasets, entries, video files, and its questions as items; bad ones are named and counted.

Nothing is unpacked or downloaded. No path that a file names may lead out of its folder; links that lie in the folder are
followed, since the owner of the folder made them.

Shape legend: F frames, S pixels.
"""

import dataclasses
import hashlib
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import torch
from torch import Tensor

from worldsim import storage
from worldsim.decode import sample_video
from worldsim.errors import InvalidInputError, StorageError, WorldsimError, unknown_name
from worldsim.reason.benchmark.format import CLIPS, ENDING, BenchmarkQuestion, parse_question
from worldsim.reason.items.item import FORMAT, Item, KeyedChoices, format_prompt
from worldsim.reason.items.video import Provenance, resize_frames

_LOG = logging.getLogger(__name__)
_SETS = ("_benchmark_", "_rl_", "_sft_", "_")
"""What is between a dataset's name and the ending of its file."""


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
    questions: tuple[BenchmarkQuestion, ...]
    bad: dict[str, str]
    digests: dict[str, str]

    def drawn(self, *, limit: int | None, seed: int) -> tuple[BenchmarkQuestion, ...]:
        """Questions in the order in which they are asked: by dataset and task, within a task drawn.

        Args:
            limit: Most questions of each dataset; None for all. A smaller limit gives a prefix of a larger one.
            seed: Of the order.

        Raises:
            InvalidInputError: A limit below 1.
        """
        if limit is not None and limit < 1:
            raise InvalidInputError(f"limit must be at least 1; got {limit}.")
        found: list[BenchmarkQuestion] = []
        for dataset in dict.fromkeys(q.dataset for q in self.questions):
            own = [q for q in self.questions if q.dataset == dataset]
            mixed = [own[i] for i in KeyedChoices("benchmark", dataset, seed).order(len(own))][:limit]
            found += sorted(mixed, key=lambda q: q.task)
        return tuple(found)


def read_benchmark(folder: str | Path, *, datasets: Sequence[str] | None = None, bad_share: float = 0.05) -> Benchmark:
    """Read every question of a folder; bad ones are skipped and named, up to a share.

    Args:
        folder: Holds datasets as `worldsim.reason.benchmark.format` says, or is one itself.
        datasets: Which ones; all by default.
        bad_share: Most bad questions, as a share of all, before reading fails.

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
    good: list[BenchmarkQuestion] = []
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


def _dataset(name: str, file: Path) -> tuple[list[BenchmarkQuestion], dict[str, str]]:
    """Good questions, and what is wrong with the others."""
    try:
        entries = storage.read_json(file)
    except RecursionError as error:
        raise StorageError(f"{file} is nested too deeply to be a list of questions. Restore it.") from error
    if not isinstance(entries, list) or not entries:
        raise StorageError(f"{file} must hold a list of clips with their questions; got {entries!r:.60}. Restore it.")
    good: list[BenchmarkQuestion] = []
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


def _question(name: str, dataset: str, pair: object, entry: object, folder: Path) -> BenchmarkQuestion:
    if not isinstance(entry, Mapping):
        raise InvalidInputError(f"{name}: an entry must be an object with video and qa_pairs; got {entry!r:.80}.")
    return parse_question(name, dataset, pair, entry=entry, video=_video(name, entry, folder))


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


def _grouped(questions: list[BenchmarkQuestion]) -> list[BenchmarkQuestion]:
    """Tasks that hardly two questions share are descriptions, not kinds: such questions are counted together."""
    if 2 * len({q.task for q in questions}) <= len(questions):
        return questions
    return [dataclasses.replace(q, task=q.dataset) for q in questions]


Wording = Literal["letters", "words"]
WORDINGS = ("letters", "words")
_ALL_FRAMES = 256
"""Most frames of a clip of which all frames must be shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How questions are put.

    Attributes:
        frames: Most frames of a clip, at even distances; all of a shorter clip, or of one whose question
            asks for it.
        size: Side S to which frames are fitted, in pixels.
        wording: "letters" lists lettered options and wants a letter, as vision-language models are used to; "words" is
            the wording of worldsim's own tasks and wants an option's text.

    Raises:
        InvalidInputError: A number out of range.
        UnknownNameError: No such wording.
    """

    frames: int = 8
    size: int = 256
    wording: Wording = "letters"

    def __post_init__(self) -> None:
        if self.frames < 1 or not 8 <= self.size <= 4096:
            raise InvalidInputError(f"frames must be >= 1 and size in 8..4096; got {self.frames} and {self.size}.")
        if self.wording not in WORDINGS:
            raise unknown_name("wording", self.wording, WORDINGS)


class QuestionItems:
    """Items of questions; the frames of recent clips are kept.

    Args:
        view: How to put questions.
        cache_mb: Memory for frames, in units of 2**20 bytes.
    """

    def __init__(self, view: View, *, cache_mb: int = 512) -> None:
        self.view, self._room = view, cache_mb << 20
        self._kept: OrderedDict[tuple[Path, int], tuple[Tensor, tuple[int, ...]]] = OrderedDict()
        self._bad: dict[Path, str] = {}
        self._digests: dict[Path, str] = {}

    def item(self, question: BenchmarkQuestion) -> Item:
        """The question with its frames.

        Raises:
            StorageError: The clip cannot be read; the question is named.
        """
        frames, taken = self._frames(question)
        letters = self.view.wording == "letters"
        right = next(o for o in question.options if o.letter == question.answer)
        return Item(
            task=question.task,
            group=question.group,
            number=0,
            prompt=self.prompt(question),
            frames=frames,
            options=tuple(o.letter if letters else o.text for o in question.options),
            answer=right.letter if letters else right.text,
            difficulty=question.difficulty,
            think="",
            provenance=Provenance(kind="file", episode=question.name),
            taken=taken,
        )

    def prompt(self, question: BenchmarkQuestion) -> str:
        """What is asked, in the view's wording; a copy of the last line with an option in it is a well-formed answer."""
        if self.view.wording == "words":
            return format_prompt(question.question, [o.text for o in question.options])
        listed = "\n".join(f"({o.letter}) {o.text}" for o in question.options)
        wish = "Answer with the option's letter from the given choices."
        return f"{question.question}\n{listed}\n{wish}\n{FORMAT}"

    def source(self, question: BenchmarkQuestion) -> str:
        """Digest of the clip's file.

        Raises:
            StorageError: It cannot be read; the question is named.
        """
        if question.video not in self._digests:
            try:
                self._digests[question.video] = storage.digest_file(question.video)
            except OSError as error:
                raise StorageError(f"{question.name}: {question.video} cannot be read ({error.strerror}).") from error
        return self._digests[question.video]

    def digest(self, question: BenchmarkQuestion) -> str:
        """Digest of all that is asked: wording, options, right answer, file.

        Raises:
            StorageError: The file cannot be read.
        """
        asked = [self.prompt(question), [[o.letter, o.text] for o in question.options], question.answer]
        return hashlib.sha256(json.dumps([*asked, self.source(question)]).encode()).hexdigest()

    def _frames(self, question: BenchmarkQuestion) -> tuple[Tensor, tuple[int, ...]]:
        path, most = question.video, _ALL_FRAMES if question.all_frames else self.view.frames
        if (path, most) not in self._kept and path not in self._bad:
            try:
                frames, taken = sample_video(path, frames=most)
            except WorldsimError as error:
                self._bad[path] = str(error)
            else:
                self._kept[path, most] = (resize_frames(torch.from_numpy(frames), self.view.size), taken)
                self._forget()
        if path in self._bad:
            raise StorageError(f"{question.name}: {self._bad[path]}")
        self._kept.move_to_end((path, most))
        return self._kept[path, most]

    def _forget(self) -> None:
        """Drop the clips that have not been shown for longest."""
        while sum(f.numel() for f, _ in self._kept.values()) > self._room and len(self._kept) > 1:
            self._kept.popitem(last=False)
