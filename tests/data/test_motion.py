"""Numbers that rest until the robot comes are a thing's, and say when it moves; the robot's own, a gripper among them, are not."""

import dataclasses

import numpy as np
import pytest

from tests.train import toy
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.motion import APART, find_moving, things_move
from worldsim.data.survey import survey_episodes

STEPS = 40


def episode(seed: int, *, pushed: bool = True) -> Episode:
    """A robot on a line, a gripper that does as its action says, and a thing that is moved where the robot is."""
    generator = np.random.default_rng(seed)
    action = generator.uniform(-1, 1, (STEPS, 2)).astype(np.float32)
    action[:, 1] = np.sign(np.sin(np.arange(STEPS) / 7 + seed))  # the gripper rests for a while
    arm, grip, thing = [0.0], [0.0], [generator.uniform(-3, 3)]
    for t in range(STEPS):
        arm.append(float(np.clip(arm[-1] + action[t, 0], -4, 4)))
        grip.append(float(np.clip(grip[-1] + 0.5 * action[t, 1], -1, 1)))
        near = pushed and abs(arm[-1] - thing[-1]) < 0.4
        thing.append(thing[-1] + (arm[-1] - arm[-2]) * near)
    made = toy.episode(seed, steps=STEPS)
    proprio = np.stack([arm, grip], 1).astype(np.float32)
    return dataclasses.replace(made, proprio=proprio, action=action, true_state=np.array(thing, np.float32)[:, None])


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [episode(seed) for seed in range(12)]


def test_a_thing_that_rests_says_when_it_moves(episodes: list[Episode]) -> None:
    found = things_move(episodes, steps=APART)
    assert found is not None
    for moves, one in zip(found, episodes, strict=True):
        assert one.true_state is not None
        state = one.true_state[:, 0]
        assert np.array_equal(moves, np.abs(state[APART:] - state[:-APART]) > 0.02 * 2)
    short = things_move(episodes, steps=APART, moments=20)
    assert short is not None and np.array_equal(short[3], found[3][:16])


def test_a_robot_alone_says_nothing(episodes: list[Episode]) -> None:
    assert things_move([dataclasses.replace(one, true_state=None) for one in episodes], steps=APART) is None
    assert things_move([episode(seed, pushed=False) for seed in range(12)], steps=APART) is None
    assert things_move(episodes[:1], steps=APART) is None  # too few moments


def test_surveys_go_by_it_before_they_go_by_pictures(episodes: list[Episode]) -> None:
    found = things_move(episodes, steps=APART)
    assert found is not None
    seen = find_moving(episodes, IMAGE)
    for moves, one in zip(seen, found, strict=True):
        assert np.array_equal(moves[: len(one)].numpy(), one) and not moves[len(one) :].any()
    assert survey_episodes(episodes, IMAGE, toy.ACTION).moving == pytest.approx(np.concatenate(found).mean())
