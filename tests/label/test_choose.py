"""Which episode to ask about next: a pure function of numbers and labels."""

import numpy as np
import pytest

from worldsim.data.guess import check_outcomes, guess_outcomes
from worldsim.data.labels import Outcome
from worldsim.errors import InvalidInputError
from worldsim.label.choose import order_episodes


def plane(n: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2))


def solved(point: np.ndarray) -> Outcome:
    return "solved" if np.hypot(*(point - [0.4, 0.4])) < 0.45 else "failed"


def test_every_episode_comes_once_and_what_was_said_does_not_come_again() -> None:
    found = order_episodes(plane(), {3: "solved", 5: "unclear"}, skip={7})
    assert sorted(found) == [i for i in range(120) if i not in (3, 5, 7)]
    assert order_episodes(plane(), {3: "solved", 5: "unclear"}, skip={7}) == found


def test_disputed_ones_come_first() -> None:
    said: dict[int, Outcome] = {3: "solved", 5: "failed", 8: "unclear"}
    assert order_episodes(plane(), said, again=[8, 5])[:2] == [8, 5]
    assert order_episodes(plane(), said, again=[8, 5], skip={8})[0] == 5


def test_before_any_label_questions_spread_over_the_episodes() -> None:
    groups = np.repeat(np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]]), 25, axis=0)
    points = groups + 0.1 * plane(100)
    front = order_episodes(points, {})[:4]
    assert {i // 25 for i in front} == {0, 1, 2, 3}
    after = order_episodes(points, {0: "failed", 30: "failed"})[:2]
    assert {i // 25 for i in after} == {2, 3}


def test_then_it_asks_at_the_boundary() -> None:
    points = np.linspace(0, 1, 101)[:, None]
    said: dict[int, Outcome] = {i: "failed" if i < 50 else "solved" for i in (0, 10, 20, 30, 40, 60, 70, 80, 90, 100)}
    assert 42 <= order_episodes(points, said)[0] <= 58


def test_a_head_that_exists_already_says_where_to_begin() -> None:
    chance = np.linspace(0, 1, 120)
    assert 55 <= order_episodes(plane(), {}, chance_N=chance)[0] <= 64


def test_active_questions_teach_more_than_random_ones() -> None:
    points = plane(240)
    truth = np.array([solved(p) == "solved" for p in points])

    def missed(order: list[int]) -> int:
        guess = guess_outcomes(points, {i: solved(points[i]) for i in order})
        return len(truth) if guess is None else int(((guess > 0.5) != truth).sum())

    asked: dict[int, Outcome] = {}
    while len(asked) < 30:
        best = order_episodes(points, asked)[0]
        asked[best] = solved(points[best])
    chance = [missed(np.random.default_rng(s).permutation(240)[:30].tolist()) for s in range(10)]
    assert missed(list(asked)) < 0.6 * np.mean(chance)


def test_equal_episodes_and_single_ones_are_no_failure() -> None:
    assert sorted(order_episodes(np.zeros((5, 1)), {0: "solved", 1: "failed"})) == [2, 3, 4]
    assert order_episodes(np.zeros((1, 1)), {}) == [0]
    assert order_episodes(np.zeros((2, 1)), {0: "solved", 1: "failed"}) == []
    assert guess_outcomes(plane(), {0: "solved"}) is None


@pytest.mark.parametrize(
    ("features", "said", "chance"),
    [
        (np.full((3, 2), np.nan), {}, None),
        (np.zeros(3), {}, None),
        (np.zeros((3, 2)), {3: "solved"}, None),
        (np.zeros((3, 2)), {}, np.full(3, 1.5)),
        (np.zeros((3, 2)), {}, np.zeros(2)),
    ],
)
def test_values_that_do_not_fit_are_refused(features, said, chance) -> None:
    with pytest.raises(InvalidInputError):
        order_episodes(features, said, chance_N=chance)


def test_labels_that_predict_each_other_differ_from_those_that_do_not() -> None:
    points = plane(60)
    good = check_outcomes(points, {i: solved(points[i]) for i in range(40)})
    draw = np.random.default_rng(1).random(40) < 0.5
    poor = check_outcomes(points, {i: "solved" if draw[i] else "failed" for i in range(40)})
    assert good is not None and poor is not None and good.balanced is not None and poor.balanced is not None
    assert good.solved + good.unsolved == 40
    assert good.balanced.value > 0.8 > poor.balanced.value + 0.1
    assert check_outcomes(points, {0: "solved", 1: "unclear"}) is None
