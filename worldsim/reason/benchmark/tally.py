"""How often answers are right: by dataset and task, with intervals, beside guessing and beside a blindfolded model.

Questions are counted as if they were independent; several about one clip are not quite, and their interval is then
somewhat too narrow. Not for asking (`asking`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered to one question.

    Attributes:
        name: The question's.
        dataset: Its dataset.
        task: Its task.
        digest: Of all that was asked and shown.
        options: How many there were.
        answer: Letter of the right one.
        given: Letter of the model's, None where none could be read from its reply.
        reply: Its words; empty where options were weighed.
        logprobs: Log-probability of each option; empty where it replied in words.
        frames: Numbers of the frames that were shown.
        blind: As `given`, with the frames of another question; None too where that was not asked.
        blind_with: Whose frames those were; empty where that was not asked.
    """

    name: str
    dataset: str
    task: str
    digest: str
    options: int
    answer: str
    given: str | None
    reply: str = ""
    logprobs: tuple[float, ...] = ()
    frames: tuple[int, ...] = ()
    blind: str | None = None
    blind_with: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Figures of some questions.

    Attributes:
        dataset: Which; empty for all.
        task: Which; empty for all.
        items: How many questions.
        accuracy: Share of right answers; what cannot be read is wrong.
        low: Lower end of the exact (Clopper-Pearson) 95 % interval.
        high: Upper end.
        chance: What guessing reaches: the mean of 1 / options.
        unparsable: Share of replies from which no option could be read.
        blind: Accuracy with the frames of other questions; None where that was not asked.
        blind_low: Lower end of its interval.
        blind_high: Upper end.
    """

    dataset: str
    task: str
    items: int
    accuracy: float
    low: float
    high: float
    chance: float
    unparsable: float
    blind: float | None = None
    blind_low: float | None = None
    blind_high: float | None = None

    @property
    def sees(self) -> bool:
        """Surely better than guessing."""
        return self.low > self.chance


def tally(answers: Sequence[Answer]) -> tuple[Line, ...]:
    """Count.

    Args:
        answers: At least one.

    Returns:
        A line per dataset and task, a line per dataset that has several tasks, and last one for all questions.

    Raises:
        InvalidInputError: No answers.
    """
    if not answers:
        raise InvalidInputError("There are no answers to count. Ask something first.")
    lines: list[Line] = []
    for dataset in dict.fromkeys(a.dataset for a in answers):
        own = [a for a in answers if a.dataset == dataset]
        tasks = list(dict.fromkeys(a.task for a in own))
        lines += [_line(dataset, task, [a for a in own if a.task == task]) for task in tasks]
        if len(tasks) > 1:
            lines.append(_line(dataset, "", own))
    return (*lines, _line("", "", answers))


def mean_of_datasets(answers: Sequence[Answer]) -> float:
    """Mean accuracy of the datasets, each of the same weight, as published tables average them."""
    names = dict.fromkeys(a.dataset for a in answers)
    return float(np.mean([np.mean([a.given == a.answer for a in answers if a.dataset == n]) for n in names]))


def _line(dataset: str, task: str, answers: Sequence[Answer]) -> Line:
    low, high = _interval(sum(a.given == a.answer for a in answers), len(answers))
    blindfolded = [a for a in answers if a.blind_with]
    blind: tuple[float | None, ...] = (None, None, None)
    if blindfolded:
        right = sum(a.blind == a.answer for a in blindfolded)
        blind = (right / len(blindfolded), *_interval(right, len(blindfolded)))
    return Line(
        dataset=dataset,
        task=task,
        items=len(answers),
        accuracy=sum(a.given == a.answer for a in answers) / len(answers),
        low=low,
        high=high,
        chance=float(np.mean([1 / a.options for a in answers])),
        unparsable=sum(a.given is None for a in answers) / len(answers),
        blind=blind[0],
        blind_low=blind[1],
        blind_high=blind[2],
    )


def _interval(right: int, count: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval."""
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(method="exact")
    return float(found.low), float(found.high)
