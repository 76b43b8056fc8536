"""Rewards that can be verified, as TRL calls them: `f(completions, **columns) -> list[float]`.

Who copies the format line of a prompt (`worldsim.reason.item.FORMAT`) literally, with the right option in it, earns every
reward in full. Nothing is earned by answering twice, inside the thoughts, or by smuggling in tags: the four tags must
each stand there exactly once and in order. Not for judging videos (that is the critic).
"""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldsim.errors import InvalidInputError

Completion = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with role and content (text, or parts of which those of type "text" count)."""
Reward = Callable[..., list[float | None]]
"""What TRL calls. None means that the reward does not apply to an item."""

_LOG = logging.getLogger(__name__)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_LOOSE = re.compile(r"<[\s/\\]*(?:think|answer)\b[^>]*>?", re.IGNORECASE)
"""Anything that looks like one of the tags, well written or not."""


def text_of(completion: Completion) -> str:
    """The assistant's words.

    Raises:
        InvalidInputError: Neither a text nor chat messages.
    """
    if isinstance(completion, str):
        return completion
    try:
        parts = [_content(m["content"]) for m in completion if m.get("role", "assistant") == "assistant"]
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"A completion is a text or a list of messages with role and content; got {completion!r:.200}."
        ) from error
    return "\n".join(parts)


def parse(text: str) -> str | None:
    """The answer of a reply, or None where it is not exactly one thought followed by one answer.

    Text around the tags is allowed here; `format_reward` is for those who mind.
    """
    found = [m.group() for m in _LOOSE.finditer(text)]
    if found != list(_TAGS):
        return None
    return text[text.index("<answer>") + len("<answer>") : text.index("</answer>")].strip()


def accuracy_reward(
    completions: Sequence[Completion], *, answer: Sequence[str], **columns: object
) -> list[float | None]:
    """1 where the parsed answer is the right one, whole and but for upper and lower case; else 0.

    Args:
        completions: N replies.
        answer: N right answers, a column of the dataset.
        columns: Other columns; not read.

    Raises:
        InvalidInputError: Numbers that differ, or a right answer that is empty or no text.
    """
    if len(completions) != len(answer):
        raise InvalidInputError(f"{len(completions)} completions came with {len(answer)} answers; expected as many.")
    for number, right in enumerate(answer):
        if not isinstance(right, str) or not right.strip():
            raise InvalidInputError(f"Item {number} has the right answer {right!r}; a text is expected.")
    given = [parse(text_of(c)) for c in completions]
    return [
        float(g is not None and g.casefold() == right.strip().casefold())
        for g, right in zip(given, answer, strict=True)
    ]


def format_reward(completions: Sequence[Completion], **columns: object) -> list[float | None]:
    """1 where the whole reply is a thought and an answer, with nothing but white space around; else 0."""
    return [float(_formatted(text_of(c))) for c in completions]


def overlong_reward(
    *, limit: int, buffer: int, factor: float = 1.0, length: Callable[[str], int] | None = None
) -> Reward:
    """Make the soft penalty of long replies: min(-excess / buffer * factor, 0), excess = length - (limit - buffer).

    DAPO's (Yu et al. 2025, eq. 13); it is cut at -factor, which a reply of `limit` reaches.

    Args:
        limit: Longest reply, in tokens.
        buffer: Over how many tokens before the limit the penalty grows.
        factor: Its greatest size.
        length: Counts the tokens of a text; by default the trainer's column `completion_ids` is counted.

    Raises:
        InvalidInputError: Numbers out of range; and from the reward, where there is nothing to count with.
    """
    if not 0 < buffer <= limit or not factor > 0:
        raise InvalidInputError(f"Expected 0 < buffer <= limit and factor > 0; got {buffer}, {limit} and {factor}.")

    def overlong(
        completions: Sequence[Completion], *, completion_ids: Sequence[Sequence[int]] | None = None, **columns: object
    ) -> list[float | None]:
        """0 up to the buffer, falling to -factor at the limit."""
        if length is not None:
            counts = [length(text_of(c)) for c in completions]
        elif completion_ids is not None:
            counts = [len(ids) for ids in completion_ids]
        else:
            raise InvalidInputError("The overlong reward needs the column completion_ids, or length= to count with.")
        return [max(-factor, min(-(n - (limit - buffer)) / buffer * factor, 0.0)) for n in counts]

    return overlong


def guarded(reward: Reward, *, name: str | None = None) -> Reward:
    """Make a reward whose failures are told by item: one that raises, or gives NaN, infinity or too few numbers.

    Args:
        reward: Anybody's reward function.
        name: What to call it; by default its own name. The trainer logs under it.

    Returns:
        The same reward; it raises InvalidInputError that names the reward, the item and the reply.
    """
    called: str = name or str(getattr(reward, "__name__", type(reward).__name__))

    def checked(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """The reward's values, each a number."""
        try:
            values = list(reward(completions, **columns))
        except Exception as error:
            number, cause = _culprit(reward, completions, columns, error)
            raise InvalidInputError(
                f"Reward {called} raised on {_item(completions, columns, number)}: {type(cause).__name__}: {cause}. "
                "Repair the reward or leave the item out."
            ) from cause
        if len(values) != len(completions):
            raise InvalidInputError(
                f"Reward {called} returned {len(values)} numbers for {len(completions)} completions; expected as many."
            )
        for place, value in enumerate(values):
            if value is not None and not _finite(value):
                raise InvalidInputError(
                    f"Reward {called} returned {value!r} for {_item(completions, columns, place)}; a finite number is "
                    "expected. Repair the reward or leave the item out."
                )
        return [None if v is None else float(v) for v in values]

    checked.__name__ = called
    return checked


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(p["text"]) for p in content if p.get("type") == "text")
    raise TypeError(f"content of type {type(content).__name__}")


def _formatted(text: str) -> bool:
    if parse(text) is None:
        return False
    body = text.strip()
    between = body[body.index("</think>") + len("</think>") : body.index("<answer>")]
    return body.startswith("<think>") and body.endswith("</answer>") and not between.strip()


def _finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False


def _culprit(
    reward: Reward, completions: Sequence[Completion], columns: Mapping[str, Any], error: Exception
) -> tuple[int, Exception]:
    """The first item that fails alone, and how; -1 and the first error where none does."""
    count = len(completions)
    for number in range(count):
        own = {k: [v[number]] if _is_column(v, count) else v for k, v in columns.items()}
        try:
            reward([completions[number]], **own)
        except Exception as cause:
            return number, cause
    _LOG.debug("No single completion makes the reward fail.")
    return -1, error


def _is_column(value: object, count: int) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count


def _item(completions: Sequence[Completion], columns: Mapping[str, Any], number: int) -> str:
    """Words for an item."""
    if number < 0:
        return "a batch, though on none of its items alone"
    known = {
        k: columns[k][number] for k in ("task", "number", "answer") if _is_column(columns.get(k), len(completions))
    }
    facts = "".join(f", {k} {v}" for k, v in known.items())
    return f"item {number}{facts}, reply {completions[number]!r:.120}"
