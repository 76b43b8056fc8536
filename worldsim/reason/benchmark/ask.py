"""Asking a model every question of a benchmark, with its own frames and with those of another question."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.progress import Progress, silent
from worldsim.reason.benchmark.format import BenchmarkQuestion, read_reply
from worldsim.reason.benchmark.read import QuestionItems, View, check_share
from worldsim.reason.benchmark.tally import Ledger, Response
from worldsim.reason.items.item import Item
from worldsim.reason.vlm.model import VLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskSettings:
    """How a benchmark is asked.

    Attributes:
        view: How questions are put.
        fast: Score the options after an empty think, without generation; else greedy replies are read.
        blind: Ask a second time with the frames of another question, which shows what the wording alone gives away.
        max_new_tokens: Longest reply.
        batch: Questions per call of the model, and at most so many are lost to a kill.
        bad_share: Most clips that may be unreadable, as a share of all questions.

    Raises:
        InvalidInputError: A number out of range.
    """

    view: View = dataclasses.field(default_factory=View)
    fast: bool = False
    blind: bool = True
    max_new_tokens: int = 1024
    batch: int = 16
    bad_share: float = 0.05

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.batch) < 1 or not 0 <= self.bad_share <= 1:
            raise InvalidInputError(
                f"max_new_tokens and batch must be >= 1, bad_share in 0..1; got {self.max_new_tokens}, {self.batch} and "
                f"{self.bad_share}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The answers to a benchmark.

    Attributes:
        responses: One per question that could be asked, in the order of the questions.
        bad: What is wrong with the others, by their names.
        asked: How many were asked now and not in an earlier run.
    """

    responses: tuple[Response, ...]
    bad: dict[str, str]
    asked: int


def ask_all(
    vlm: VLM,
    questions: Sequence[BenchmarkQuestion],
    how: AskSettings,
    *,
    ledger: Ledger,
    bad: dict[str, str] | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Ask what the ledger lacks.

    Args:
        vlm: The model; it is left in the mode (training or evaluation) it was in.
        questions: In the order of `Benchmark.drawn`.
        how: How to ask. Model, view, fast, blind and max_new_tokens belong to the ledger's settings.
        ledger: Takes the answers, batch by batch.
        bad: Questions that were skipped before, by name; they are kept with the figures.
        progress: Called after each batch.

    Raises:
        InvalidInputError: No questions, too many unreadable clips, not enough memory for a batch, or a model whose
            figures are not numbers.
        StorageError: The ledger cannot be written.
    """
    if not questions:
        raise InvalidInputError("There are no questions to ask. Raise the limit, or name another folder.")
    clips, known = QuestionItems(how.view), dict(bad or {})
    answers: dict[str, Response] = {}
    unreadable: dict[str, str] = {}
    asked = 0
    with _evaluation_mode(vlm):
        for first in range(0, len(questions), how.batch):
            places = range(first, min(first + how.batch, len(questions)))
            fresh: list[tuple[int, str, Item]] = []
            for place in places:
                one = questions[place]
                try:
                    digest = clips.digest(one)
                    before = ledger.answer(one.name, digest)
                    if before is None:
                        fresh.append((place, digest, clips.item(one)))
                    else:
                        answers[one.name] = before
                except WorldsimError as error:
                    unreadable[one.name] = str(error)
                    check_share(unreadable, len(questions), share=how.bad_share)
            if fresh:
                made = _batch(vlm, questions, fresh, how, clips)
                ledger.add(made)
                asked += len(made)
                answers |= {a.name: a for a in made}
                if ledger.due:
                    ledger.write(list(answers.values()), bad=known | unreadable, complete=False)
            progress("questions", places.stop, len(questions), {})
    ordered = tuple(answers[q.name] for q in questions if q.name in answers)
    ledger.write(ordered, bad=known | unreadable, complete=True)
    return BenchmarkResult(responses=ordered, bad=known | unreadable, asked=asked)


def dry_run(
    vlm: VLM,
    questions: Sequence[BenchmarkQuestion],
    how: AskSettings,
    *,
    progress: Progress = silent,
) -> tuple[float, dict[str, str]]:
    """Open every clip, and ask one question without keeping the answer.

    Returns:
        Seconds that asking that question took, and which clips are bad.

    Raises:
        InvalidInputError: As `ask_all`.
    """
    clips = QuestionItems(how.view)
    bad: dict[str, str] = {}
    first: int | None = None
    for place, one in enumerate(questions):
        try:
            clips.item(one)
            first = place if first is None else first
        except WorldsimError as error:
            bad[one.name] = str(error)
        progress("clips", place + 1, len(questions), {})
    check_share(bad, len(questions), share=how.bad_share)
    if first is None:
        raise InvalidInputError("There are no questions to ask. Raise the limit, or name another folder.")
    began = time.perf_counter()
    with _evaluation_mode(vlm):
        _batch(vlm, questions, [(first, "", clips.item(questions[first]))], how, clips)
    return time.perf_counter() - began, bad


def _batch(
    vlm: VLM,
    questions: Sequence[BenchmarkQuestion],
    fresh: Sequence[tuple[int, str, Item]],
    how: AskSettings,
    clips: QuestionItems,
) -> list[Response]:
    """Ask some questions, and once more with the frames of another question."""
    own = [questions[place] for place, _, _ in fresh]
    items = [item for _, _, item in fresh]
    given, replies, weights = _ask(vlm, own, items, how)
    blind: list[str | None] = [None] * len(own)
    others = [_other_clip(questions, place, clips) if how.blind else None for place, _, _ in fresh]
    asked_blind = [row for row, other in enumerate(others) if other is not None]
    if asked_blind:
        swapped = [dataclasses.replace(items[r], frames=others[r][1].frames) for r in asked_blind]  # type: ignore[index]
        found, _, _ = _ask(vlm, [own[r] for r in asked_blind], swapped, how)
        for row, letter in zip(asked_blind, found, strict=True):
            blind[row] = letter
    return [
        Response(
            name=one.name,
            dataset=one.dataset,
            task=one.task,
            digest=digest,
            options=len(one.options),
            answer=one.answer,
            given=given[row],
            reply=replies[row],
            logprobs=weights[row],
            frames=item.taken,
            blind=blind[row],
            blind_with=other[0] if (other := others[row]) is not None else "",
        )
        for row, ((_, digest, item), one) in enumerate(zip(fresh, own, strict=True))
    ]


def _ask(
    vlm: VLM, questions: Sequence[BenchmarkQuestion], items: Sequence[Item], how: AskSettings
) -> tuple[list[str | None], list[str], list[tuple[float, ...]]]:
    """Letters, replies, and log-probabilities of options."""
    try:
        if not how.fast:
            replies = vlm.generate(items, max_new_tokens=how.max_new_tokens, batch=len(items))
            first = how.view.wording == "letters"
            pairs = zip(replies, questions, strict=True)
            return [read_reply(r, q.options, letters_first=first) for r, q in pairs], replies, [()] * len(items)
        weights = [
            tuple(row[: len(q.options)]) for row, q in zip(vlm.option_logprobs(items).tolist(), questions, strict=True)
        ]
    except torch.OutOfMemoryError as error:
        raise InvalidInputError(
            f"There is not enough memory for {len(items)} questions at once. Lower batch, size or frames, and run the same "
            "command again; what was answered is kept."
        ) from error
    for row, one in zip(weights, questions, strict=True):
        if any(value != value for value in row):
            raise InvalidInputError(f"{one.name}: the model scores its options as {row}. Its weights are damaged.")
    letters: list[str | None] = [
        q.options[max(range(len(row)), key=row.__getitem__)].letter for row, q in zip(weights, questions, strict=True)
    ]
    return letters, [""] * len(items), weights


def _other_clip(questions: Sequence[BenchmarkQuestion], place: int, clips: QuestionItems) -> tuple[str, Item] | None:
    """Name and item of the next question about another clip: of the same task, else the same dataset, else any."""
    own = questions[place]
    for other in _candidates(questions, place):
        try:
            if clips.source(other) != clips.source(own):
                return other.name, clips.item(other)
        except WorldsimError:  # it is counted as bad where it is asked
            continue
    return None


def _candidates(questions: Sequence[BenchmarkQuestion], place: int) -> Iterator[BenchmarkQuestion]:
    own = questions[place]
    for near in (2, 1, 0):
        for step in range(1, len(questions)):
            other = questions[(place + step) % len(questions)]
            if near == (other.dataset == own.dataset) + ((other.dataset, other.task) == (own.dataset, own.task)):
                yield other


@contextmanager
def _evaluation_mode(vlm: VLM) -> Iterator[None]:
    """Keep the model in evaluation mode for the length of the block."""
    training = vlm.model.training
    vlm.model.eval()
    try:
        yield
    finally:
        vlm.model.train(training)
