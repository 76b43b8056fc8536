import asyncio
import math

import pytest

from tests.reason.toy import items
from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import FORMAT, PLACEHOLDER, format_prompt, parse_reply
from worldsim.reason.train.rewards import accuracy_reward, check_reward, format_reward, overlong_reward, reward_warnings

GOOD = "<think>object 33 34; agent 21 22</think><answer>forward</answer>"


def accuracy(text: object, answer: str = "forward") -> float | None:
    return accuracy_reward([text], answer=[answer])[0]  # type: ignore[list-item]


@pytest.mark.parametrize("answer", ["forward", "80-100", "132", "top left", "5"])
def test_who_copies_the_prompts_format_literally_scores_in_full(answer: str) -> None:
    prompt = format_prompt("Which?", (answer, "another"))
    reply = prompt.splitlines()[-1].replace(PLACEHOLDER, answer)
    assert reply != FORMAT
    assert accuracy(reply, answer) == 1.0
    assert format_reward([reply]) == [1.0]
    assert overlong_reward(limit=100, buffer=20, length=len)([reply]) == [0.0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "<think></think><answer>FORWARD</answer>",
        "<think>a\nb</think>\n\n<answer> forward\n</answer>\n",
        [{"role": "assistant", "content": GOOD}],
        [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}],
    ],
)
def test_right_answers(text: object) -> None:
    assert accuracy(text) == 1.0
    assert format_reward([text]) == [1.0]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "forward",
        "<answer>forward</answer>",
        "<think>x</think>forward",
        "<think>x</think><answer>forward",
        "<think>x<answer>forward</answer></think>",
        "<think><answer>forward</answer></think><answer>backward</answer>",
        "<think>x</think><answer>backward</answer><answer>forward</answer>",
        "<think>x</think><answer>forward</answer><answer>forward</answer>",
        "<think>x</think><think>y</think><answer>forward</answer>",
        "<answer>forward</answer><think>x</think>",
        "<think>x</think><answer>forward</answer></answer>",
        "<think>x</think><answer><answer>forward</answer></answer>",
        "<think>x</think>< answer >forward</ answer >",
        "<think>x</think><ANSWER>forward</ANSWER>",
        "<think>< Answer>forward</think><answer>forward</answer>",
        "<think>x</think><answer>forward</answer><answer",
        '<think>x</think><answer id="1">forward</answer>',
        "<|im_start|><think>x</think><answer>forward</answer><think>",
    ],
)
def test_what_is_not_one_thought_and_one_answer_scores_nothing(text: str) -> None:
    assert accuracy(text) == 0.0
    assert format_reward([text]) == [0.0]
    assert parse_reply(text) is None


@pytest.mark.parametrize("given", ["forwards", "for", "forward backward", "forward, backward", "not forward", "", "1"])
def test_never_a_partial_match(given: str) -> None:
    assert accuracy(f"<think>x</think><answer>{given}</answer>") == 0.0


@pytest.mark.parametrize(
    "text", [f"Well: {GOOD}", f"{GOOD} done", "<think>x</think> so <answer>forward</answer>", f"{GOOD}."]
)
def test_format_minds_words_around_the_tags_and_accuracy_does_not(text: str) -> None:
    assert format_reward([text]) == [0.0]
    assert accuracy(text) == 1.0


def test_overlong_is_the_soft_penalty() -> None:
    reward = overlong_reward(limit=20, buffer=10, factor=0.5)
    ids = [[0] * n for n in (5, 10, 12, 15, 20, 40)]
    assert reward(["x"] * 6, completion_ids=ids) == pytest.approx([0.0, 0.0, -0.1, -0.25, -0.5, -0.5])
    with pytest.raises(InvalidInputError, match="completion_ids"):
        reward(["x"])
    with pytest.raises(InvalidInputError, match="buffer"):
        overlong_reward(limit=5, buffer=6)


def test_answers_must_fit() -> None:
    with pytest.raises(InvalidInputError, match="1 completions came with 2 answers"):
        accuracy_reward([GOOD], answer=["a", "b"])
    with pytest.raises(InvalidInputError, match="Item 1"):
        accuracy_reward([GOOD, GOOD], answer=["a", ""])
    with pytest.raises(InvalidInputError, match="messages"):
        accuracy_reward([7], answer=["a"])  # type: ignore[list-item]


def test_a_reward_that_fails_is_reported_by_item() -> None:
    def picky(completions, **columns):  # type: ignore[no-untyped-def]
        return [1 / len(c) for c in completions]

    with pytest.raises(InvalidInputError, match=r"picky raised on item 1, task arrow, answer no.*ZeroDivisionError"):
        check_reward(picky)(["a", "", "b"], task=["arrow"] * 3, answer=["yes", "no", "yes"])
    with pytest.raises(InvalidInputError, match="empty returned 0 numbers for 2"):
        check_reward(lambda completions: [], name="empty")(["a", "b"])
    with pytest.raises(InvalidInputError, match="item 1, number 7, reply 'b'"):
        check_reward(lambda completions, **columns: [0.0, math.nan])(["a", "b"], number=[3, 7])
    with pytest.raises(InvalidInputError, match="'much'"):
        check_reward(lambda completions: ["much"])(["a"])
    with pytest.raises(InvalidInputError, match="none of its items alone"):

        def together(completions, **columns):  # type: ignore[no-untyped-def]
            if len(completions) > 1:
                raise KeyError("batch")
            return [0.0]

        check_reward(together)(["a", "b"])


def test_a_guarded_reward_is_the_same_reward() -> None:
    fine = check_reward(accuracy_reward)
    assert fine.__name__ == "accuracy_reward"
    assert fine([GOOD, "x"], answer=["forward", "forward"], task=["arrow"] * 2) == [1.0, 0.0]
    assert check_reward(lambda completions: [None, 1])(["a", "b"]) == [None, 1.0]


@pytest.mark.parametrize(
    ("right", "form", "word"),
    [
        (0.99, 1.0, "little left to teach"),
        (0.52, 1.0, "by chance"),
        (0.1, 1.0, "by chance"),
        (0.75, 1.0, None),
        (0.0, 0.1, None),  # what is missing is the form, which a reward can teach
    ],
)
def test_tasks_that_rewards_cannot_teach_are_named(right, form, word):
    asked = [i for i in items(128) if i.task == "side"]
    assert len(asked) == 64 and {len(i.options) for i in asked} == {2}
    warnings = reward_warnings({"accuracy/side": right, "format/side": form}, asked)
    assert len(warnings) == (word is not None) and all(word in text and "side" in text for text in warnings)


def test_an_asynchronous_reward_is_waited_for() -> None:
    async def later(completions, bad=()):
        await asyncio.sleep(0)
        if bad and bad[0]:
            raise ValueError("slow and wrong")
        return [float(len(c)) for c in completions]

    async def notebook():
        return check_reward(later)(["a", "bcd"])

    assert check_reward(later)(["a", "bcd"]) == asyncio.run(notebook()) == [1.0, 3.0]
    with pytest.raises(InvalidInputError, match="item 0.*slow and wrong"):
        check_reward(later)(["a"], bad=[True])
