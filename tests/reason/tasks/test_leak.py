"""No prompt and no single frame gives away the answer of a task about motion; and the check finds leaks that are there."""

import dataclasses

import pytest

from tests.reason.films import footage
from tests.reason.tasks.leak import frame_leak, text_leak
from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import Item
from worldsim.reason.tasks import TASKS
from worldsim.reason.tasks.base import Items

NAMES = ["arrow", "effect", "order", "permanence", "puzzle"]


def both(name: str, count: int = 512, **config: object) -> tuple[list[Item], list[Item]]:
    train, held = footage()
    task = TASKS.build(name, config)
    return Items(task, train, count=count)[:], Items(task, held, count=count, split="held")[:]


@pytest.mark.parametrize("name", NAMES)
def test_neither_prompt_nor_one_frame_tells(name: str) -> None:
    train, held = both(name)
    for leak in (text_leak(train, held), frame_leak(train, held)):
        assert leak.items == 512
        assert leak.low <= leak.accuracy <= leak.high
        assert not leak.leaks, leak


def test_next_action_hardly_shows_in_one_frame() -> None:
    train, held = both("next_action")
    assert not text_leak(train, held).leaks
    assert frame_leak(train, held).accuracy < 0.45  # what stands where tells something about what the agent wants


def test_leaks_that_are_there_are_found() -> None:
    train, held = both("arrow", 200)

    def worded(item: Item) -> Item:
        return dataclasses.replace(item, prompt=item.prompt + (" now" if item.answer == "forward" else " then"))

    def marked(item: Item) -> Item:
        frames = item.frames.clone()
        frames[2, :6, :6] = 255 if item.answer == "forward" else 0
        return dataclasses.replace(item, frames=frames)

    text = text_leak([worded(i) for i in train], [worded(i) for i in held])
    frame = frame_leak([marked(i) for i in train], [marked(i) for i in held])
    assert text.accuracy == 1.0 and text.leaks
    assert frame.accuracy > 0.95 and frame.leaks and frame.frame == 2
    with pytest.raises(InvalidInputError, match="32 items"):
        text_leak(train[:10], held)


def test_clips_that_are_not_levelled_give_the_arrow_away() -> None:
    train, held = both("arrow", eventful=0.35, level=1.0)
    assert frame_leak(train, held).leaks
