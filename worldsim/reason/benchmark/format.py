"""The layout of the public Cosmos-Reason1 benchmark, its questions, and replies read by an option's letter or text.

    FOLDER/robovqa/robovqa_benchmark_qa_pairs.json
    FOLDER/robovqa/clips/NAME.mp4

The JSON file is a list with one entry per clip; `qa_pairs` is one question or a list of them:

    [{"video": "clips/NAME.mp4",
      "qa_pairs": {"question": "...", "index2ans": {"A": "yes", "B": "no"}, "answer": "A"}}]

Where this was found: the runner in github.com/nvidia-cosmos/cosmos-reason1, `examples/benchmark/README.md` and
`examples/benchmark/tools/eval/{evaluate.py, utils/input.py}` (the name of the file, `clips/`, a dictionary or a list,
`answer` or `correct_answer`); the file list and card of huggingface.co/datasets/nvidia/Cosmos-Reason1-Benchmark (folders
agibot, av, bridgev2, holoassist, robofail, robovqa, of which some come as .tar.gz beside the JSON and some without clips).
Other readers of it know a `task` within the question, clips beside the JSON file or in a `clips` folder one level up, and
null for letters that a question does not use, which is what Arrow leaves there. The sister set for training differs in
the name only (`robovqa_rl_qa_pairs.json`). All of that is read.

What worldsim writes besides (`worldsim.reason.benchmark.write`) is in keys that other readers ignore.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import parse_reply

_LETTERED = re.compile(r"\(?(?P<letter>\w+)\s*[):.\]]\s*(?P<text>\S.*)", re.DOTALL)
"""A letter and what follows it: "(A) yes", "A. yes", "A: yes"."""
_AROUND = "()[].: "
"""What may surround a letter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        letter: Its letter, or whatever else the file numbers options with.
        text: Its wording.
    """

    letter: str
    text: str

    @property
    def plain_letter(self) -> str:
        """The letter as it is compared."""
        return normalise(self.letter).strip(_AROUND)

    @property
    def plain_text(self) -> str:
        """The text as it is compared."""
        return normalise(self.text)


def normalise(text: str) -> str:
    """A text as it is compared: without case, form of characters, runs of blanks, brackets around it or a full stop."""
    found = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    found = found.removesuffix(".").rstrip()
    if found[:1] in ("(", "[") and found[-1:] in (")", "]"):
        found = found[1:-1].strip()
    return found


def match_option(given: str, options: Sequence[Option], *, letters_first: bool) -> str | None:
    """Letter of the option that is named.

    Args:
        given: A letter ("B", "(b)", "B."), an option's full text, or both ("B: no"), which must agree.
        options: What there is to choose from; their letters differ, and so do their texts.
        letters_first: What decides where one option's letter is another's text.

    Returns:
        The letter, or None where no option is named.
    """
    by_letter = {o.plain_letter: o.letter for o in options}
    by_text = {o.plain_text: o.letter for o in options}
    found = (by_letter.get(normalise(given).strip(_AROUND)), by_text.get(normalise(given)))
    first, second = found if letters_first else found[::-1]
    if first is not None or second is not None:
        return second if first is None else first
    both = _LETTERED.fullmatch(given.strip())
    if both is None:
        return None
    letter, text = by_letter.get(normalise(both["letter"])), by_text.get(normalise(both["text"]))
    return letter if letter == text else None


def read_reply(reply: str, options: Sequence[Option], *, letters_first: bool) -> str | None:
    """Letter of the option that a reply ends with, as `match_option`; None where it is not one thought and one answer."""
    given = parse_reply(reply)
    return None if given is None else match_option(given, options, letters_first=letters_first)


ENDING = "qa_pairs.json"
"""How the name of a file with questions ends."""
CLIPS = "clips"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_RESERVED = re.compile(r"<\|[^<>]*\|>|<[\s/\\]*(?:think|answer)\b[^>]*>?", re.IGNORECASE)
"""What would be taken for a token of the model or for a part of its reply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkQuestion:
    """One question about one video.

    Attributes:
        name: Names it within the folder, for example "robovqa/17", or "robovqa/17.2" for the third about a clip.
        dataset: Which dataset of the folder it belongs to.
        task: Its kind; the dataset's name where it has none.
        question: What is asked.
        options: What is offered, in order.
        answer: Letter of the right option.
        video: The file.
        group: Kind of clip within the task, of worldsim's own items; else empty.
        difficulty: 0 easy to 1 hard, of worldsim's own items; else 0.
        all_frames: Whether it is about single frames, as worldsim's own items do, so that all of them must be shown.
    """

    name: str
    dataset: str
    task: str
    question: str
    options: tuple[Option, ...]
    answer: str
    video: Path
    group: str = ""
    difficulty: float = 0.0
    all_frames: bool = False


def parse_question(
    name: str, dataset: str, pair: object, *, entry: Mapping[str, Any], video: Path
) -> BenchmarkQuestion:
    """Read one question strictly.

    Args:
        name: What to call it.
        dataset: Its dataset.
        pair: The value of `qa_pairs`, or one of its list.
        entry: The clip's entry.
        video: The clip's file.

    Raises:
        InvalidInputError: Something is missing or contradicts itself; the message begins with `name`.
    """
    if not isinstance(pair, Mapping):
        raise InvalidInputError(f"{name}: qa_pairs must be an object or a list of them; got {pair!r:.80}.")
    asked = _text(pair.get("question"), f"{name}: question")
    options = _options(name, pair.get("index2ans"))
    right = pair.get("answer", pair.get("correct_answer"))
    found = match_option(right, options, letters_first=True) if isinstance(right, str) else None
    if found is None:
        offered = ", ".join(f"{o.letter} ({o.text:.40})" for o in options)
        raise InvalidInputError(f"{name}: the answer {right!r:.80} is none of the options {offered}.")
    task, difficulty = pair.get("task", entry.get("task")), pair.get("difficulty", 0.0)
    return BenchmarkQuestion(
        name=name,
        dataset=dataset,
        task=task.strip() if isinstance(task, str) and task.strip() else dataset,
        question=asked,
        options=options,
        answer=found,
        video=video,
        group=str(pair.get("group", "")),
        difficulty=float(difficulty) if isinstance(difficulty, int | float) and 0 <= difficulty <= 1 else 0.0,
        all_frames=pair.get("whole") is True,
    )


def _options(name: str, value: object) -> tuple[Option, ...]:
    """At least two options, with letters and texts that differ."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}: index2ans must map letters to options; got {value!r:.80}.")
    given = {str(k).strip(): v for k, v in value.items() if v is not None}
    options = tuple(
        Option(letter=_text(k, f"{name}: a letter"), text=_text(v, f"{name}: option {k}")) for k, v in given.items()
    )
    if len(options) < 2:
        raise InvalidInputError(f"{name}: at least two options are needed; got {len(options)}.")
    for what, compared in (("letter", [o.plain_letter for o in options]), ("text", [o.plain_text for o in options])):
        if not all(compared) or len(set(compared)) < len(compared):
            raise InvalidInputError(f"{name}: options must differ in their {what}; got {given!r:.160}.")
    return options


def _text(value: object, what: str) -> str:
    """A text that can be shown to a model; numbers are written out."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{what} must be a text; got {value!r:.80}.")
    found = _RESERVED.search(value)
    if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidInputError(f"{what} holds half a character: {value!r:.80}.")
    if found:
        raise InvalidInputError(f"{what} holds {found.group()!r:.40}, which a model would take for its own tokens.")
    return value.strip()
