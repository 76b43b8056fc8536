"""What a model is shown: a question with frames of its clip, as an item. Not for finding files (`folder`).

Shape legend: F frames, S pixels.
"""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError, WorldsimError, unknown_name
from worldsim.reason.benchmark.layout import Question
from worldsim.reason.item import FORMAT, Item, ask
from worldsim.reason.video import Provenance, fitted
from worldsim.video import sample_video

Wording = Literal["letters", "words"]
WORDINGS = ("letters", "words")
_WHOLE = 256
"""Most frames of a clip that must be shown whole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How questions are put.

    Attributes:
        frames: Most frames of a clip, at even distances; a shorter clip is shown whole, and so is one whose question
            wants it.
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


class Clips:
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

    def item(self, question: Question) -> Item:
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

    def prompt(self, question: Question) -> str:
        """What is asked, in the view's wording; who copies the last line with an option in it answers in form."""
        if self.view.wording == "words":
            return ask(question.question, [o.text for o in question.options])
        listed = "\n".join(f"({o.letter}) {o.text}" for o in question.options)
        wish = "Answer with the option's letter from the given choices."
        return f"{question.question}\n{listed}\n{wish}\n{FORMAT}"

    def source(self, question: Question) -> str:
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

    def digest(self, question: Question) -> str:
        """Digest of all that is asked: wording, options, right answer, file.

        Raises:
            StorageError: The file cannot be read.
        """
        asked = [self.prompt(question), [[o.letter, o.text] for o in question.options], question.answer]
        return hashlib.sha256(json.dumps([*asked, self.source(question)]).encode()).hexdigest()

    def _frames(self, question: Question) -> tuple[Tensor, tuple[int, ...]]:
        path, most = question.video, _WHOLE if question.whole else self.view.frames
        if (path, most) not in self._kept and path not in self._bad:
            try:
                frames, taken = sample_video(path, frames=most)
            except WorldsimError as error:
                self._bad[path] = str(error)
            else:
                self._kept[path, most] = (fitted(torch.from_numpy(frames), self.view.size), taken)
                self._forget()
        if path in self._bad:
            raise StorageError(f"{question.name}: {self._bad[path]}")
        self._kept.move_to_end((path, most))
        return self._kept[path, most]

    def _forget(self) -> None:
        """Drop the clips that have not been shown for longest."""
        while sum(f.numel() for f, _ in self._kept.values()) > self._room and len(self._kept) > 1:
            self._kept.popitem(last=False)
