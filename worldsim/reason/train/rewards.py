"""Verifiable rewards, as TRL calls them: `f(completions, **columns) -> list[float]`; and those that GRPO knows by name.

A copy of the format line of a prompt (`worldsim.reason.items.item.FORMAT`) with the right option in it earns every reward in
full. Nothing is earned by answering twice, inside the thoughts, or by smuggling in tags: each of the four tags must
occur exactly once and in order.
"""

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import Item, KeyedChoices, parse_reply

Completion = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with role and content (text, or parts of which those of type "text" count)."""
Reward = Callable[..., list[float | None]]
"""What TRL calls. None means that the reward does not apply to an item."""

_LOG = logging.getLogger(__name__)


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


def accuracy_reward(
    completions: Sequence[Completion], *, answer: Sequence[str], **columns: object
) -> list[float | None]:
    """1 where the parsed answer is the right one, in full, ignoring case; else 0.

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
    given = [parse_reply(text_of(c)) for c in completions]
    return [
        float(g is not None and g.casefold() == right.strip().casefold())
        for g, right in zip(given, answer, strict=True)
    ]


def format_reward(completions: Sequence[Completion], **columns: object) -> list[float | None]:
    """1 where the reply is a thought and an answer and nothing but white space besides; else 0."""
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


def check_reward(reward: Reward, *, name: str | None = None) -> Reward:
    """Make a reward whose failures name the item: one that raises, or gives NaN, infinity or too few numbers.

    Args:
        reward: A reward function; an asynchronous one is waited for.
        name: What to call it; by default its own name. The trainer logs under it.

    Returns:
        The same reward; it raises InvalidInputError that names the reward, the item and the reply.
    """
    called: str = name or str(getattr(reward, "__name__", type(reward).__name__))

    def checked(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """The reward's values, each a number."""
        try:
            values = list(_call(reward, completions, columns))
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


def _call(reward: Reward, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Sequence[float | None]:
    """What the reward returns; one that is asynchronous gets an event loop of its own, in a thread."""
    values: Any = reward(completions, **columns)
    if not inspect.isawaitable(values):
        return values

    async def wait(value: Awaitable[Sequence[float | None]]) -> Sequence[float | None]:
        return await value

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait(values)).result()


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(p["text"]) for p in content if p.get("type") == "text")
    raise TypeError(f"content of type {type(content).__name__}")


def _formatted(text: str) -> bool:
    if parse_reply(text) is None:
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
            _call(reward, [completions[number]], own)
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


REWARDS = ("accuracy", "format", "overlong", "random")
"""What can be rewarded; the last is a control that must not teach anything."""

KNOWN = 0.97
"""Share of right answers from which on a group of replies is nearly always all right."""


def reward_warnings(figures: Mapping[str, float], items: Sequence[Item]) -> list[str]:
    """Warn of tasks that a reward for right answers will hardly teach, and say what to do instead.

    Args:
        figures: Of the start, as `worldsim.reason.train.evaluation.Evaluation.figures`.
        items: What it was evaluated on.
    """
    found = []
    for task in sorted({i.task for i in items}):
        asked = [1 / len(i.options) for i in items if i.task == task]
        right, chance = figures[f"accuracy/{task}"], sum(asked) / len(asked)
        text = f"The start answers {100 * right:.0f} % of {task} right"
        if right >= KNOWN:
            found.append(
                f"{text}: rewards have little left to teach. Begin earlier (reason-sft keep=[STEP]), or leave it out."
            )
        elif figures[f"format/{task}"] > 0.5 and right <= chance + 2 * (chance * (1 - chance) / len(asked)) ** 0.5:
            found.append(
                f"{text}, no more than by chance, from which rewards teach nothing. Train it longer with reason-sft first."
            )
    return found


def named_rewards(names: Sequence[str], *, limit: int, seed: int) -> dict[str, Reward]:
    """Rewards by name.

    Args:
        names: Out of REWARDS, in the order wanted.
        limit: Longest reply, in tokens.
        seed: Of the random control.
    """
    known: dict[str, Reward] = {
        "accuracy": _accuracy,
        "format": format_reward,
        "overlong": overlong_reward(limit=limit, buffer=max(1, limit // 4)),
        "random": random_reward(seed),
    }
    return {name: known[name] for name in names}


def random_reward(seed: int) -> Reward:
    """Make the random-reward control: 0 or 1 per reply, whatever it says; keyed by step and place."""

    def random(
        completions: Sequence[Completion], *, trainer_state: Any = None, **columns: object
    ) -> list[float | None]:
        step = getattr(trainer_state, "global_step", 0)
        return [float(s < 0.5) for s in KeyedChoices("random reward", seed, step).uniform(len(completions))]

    return random


def _accuracy(
    completions: Sequence[Completion],
    *,
    answer: Sequence[str],
    task: Sequence[str],
    group: Sequence[str],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: object,
) -> list[float | None]:
    """`accuracy_reward`, logged by task and kind of clip as well."""
    values = accuracy_reward(completions, answer=answer)
    if log_metric is not None:
        logged: dict[str, list[float]] = {}
        for value, t, g in zip(values, task, group, strict=True):
            for name in (f"reward/{t}", f"reward/{t}/{g}"):
                logged.setdefault(name, []).append(float(value or 0.0))
        for name, found in logged.items():
            log_metric(name, sum(found) / len(found))
    return values
