"""One question about frames, with its checked answer; and the wording that every task shares.

The last line of each prompt is the format of the reply: who copies it literally, with an option in place of the last
words, scores full marks (`worldsim.reason.rewards`). Not for choosing what is asked (`worldsim.reason.tasks`).
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason.video import Provenance

PLACEHOLDER = "one option"
FORMAT = f"<think>what you see</think><answer>{PLACEHOLDER}</answer>"
"""How to reply."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """A question about F frames.

    Attributes:
        task: Name of the task.
        group: Kind of clip within the task, for figures by kind.
        number: Of the item within its task.
        prompt: Question, options and the format of the reply.
        frames: uint8 [F, S, S, 3], to be shown in this order.
        options: The possible answers.
        answer: The right one.
        difficulty: 0 easy to 1 hard, comparable within the task.
        think: The reasons for the answer in a few checkable words, for supervised training; empty where the video has no
            states to tell them from.
        provenance: The video's.
        taken: Numbers of the video's frames that were used, in the order shown.
        readout: What each frame shows in words (`worldsim.reason.seen` reads them), for the vision warm-up.
        places: What each frame shows in numbers, float32 [F, D] as `worldsim.reason.footage.Footage.places` gives them,
            nan where it is not known; for the vision warm-up too.
        clip: Whether the frames are one clip in order of time, forward or backward. Only such may be shown as a video,
            which merges neighbours in time and tells when each was taken.

    Raises:
        InvalidInputError: The answer is not among the options, the frames are none, or a clip is not in order.
    """

    task: str
    group: str
    number: int
    prompt: str
    frames: Tensor
    options: tuple[str, ...]
    answer: str
    difficulty: float
    think: str
    provenance: Provenance
    taken: tuple[int, ...]
    readout: str = ""
    places: Tensor | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        name, shape = f"Item {self.number} of {self.task}", tuple(self.frames.shape)
        if self.answer not in self.options:
            raise InvalidInputError(f"{name}: {self.answer!r} is not among {self.options}.")
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[-1] != 3 or not all(shape):
            raise InvalidInputError(f"{name}: frames must be uint8 [F, S, S, 3]; got {self.frames.dtype} {shape}.")
        ordered = list(self.taken) in (sorted(self.taken), sorted(self.taken, reverse=True))
        if self.clip and not (ordered and len(self.taken) == shape[0]):
            raise InvalidInputError(f"{name}: {shape[0]} frames, taken {self.taken}, are no clip in order of time.")

    @property
    def completion(self) -> str:
        """The ideal reply."""
        return f"<think>{self.think}</think><answer>{self.answer}</answer>"

    @property
    def times_s(self) -> tuple[float, ...]:
        """When each frame comes, in seconds after the first one shown; a clip shown backward counts up too.

        Raises:
            InvalidInputError: The video's frame rate is not known.
        """
        rate_hz = self.provenance.rate_hz
        if not rate_hz > 0:
            raise InvalidInputError(
                f"Item {self.number} of {self.task}: the frame rate of video {self.provenance.episode} is not known, and "
                "it is not guessed. Give Provenance.rate_hz, or show images."
            )
        return tuple(abs(n - self.taken[0]) / rate_hz for n in self.taken)


def ask(question: str, options: Sequence[str]) -> str:
    """The prompt: question, options, format, a line each."""
    return f"{question}\nOptions: {', '.join(options)}\n{FORMAT}"
