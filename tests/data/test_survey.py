"""A look at the data says what moves, what stays, what proprioception tells and what is missing, before anything is trained."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.train import toy
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.survey import Survey, survey_dataset, survey_episodes
from worldsim.errors import StorageError

SIDE, STEPS = 48, 24
PATTERN = np.random.default_rng(0).integers(90, 160, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)


def scene(seed: int, *, contact: bool = True, still: bool = False) -> Episode:
    """A bright square that is the robot, where proprioception says; a dark one that it drives along, on a pattern."""
    generator = np.random.default_rng(seed)
    spot, thing = generator.uniform(8, 40, 2), generator.uniform(10, 38, 2)
    frames, spots, actions = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for t in range(STEPS + 1):
        picture = PATTERN.copy()
        for at, size, color in ((thing, 6, (20, 20, 60)), (spot, 3, (250, 250, 230))):
            y, x = (round(float(v)) for v in at)
            picture[max(0, y - size) : y + size, max(0, x - size) : x + size] = color
        frames.append(picture.astype(np.uint8))
        spots.append(spot)
        if t == STEPS:
            break
        action = np.zeros(2) if still else generator.uniform(-3, 3, 2) + (0.3 * (thing - spot) if contact else 0)
        action = action.clip(-3, 3) if contact else action / 3
        actions.append(action)
        near = contact and np.abs(thing - spot).max() < 9
        spot, thing = (spot + action).clip(6, 42), (thing + near * action).clip(8, 40)
    made = toy.episode(seed, steps=STEPS)
    proprio, action_ = np.stack(spots).astype(np.float32), np.stack(actions).astype(np.float32)
    return dataclasses.replace(made, frames={IMAGE: np.stack(frames)}, proprio=proprio, action=action_)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [scene(seed) for seed in range(24)]


def look(episodes: Sequence[Episode]) -> Survey:
    return survey_episodes(episodes, IMAGE, toy.ACTION)


def repainted(episodes: Sequence[Episode], change: object) -> list[Episode]:
    """The same with other frames, by a function of seed, moment and picture."""
    return [
        dataclasses.replace(
            one,
            frames={IMAGE: np.stack([change(one.seed, t, x) for t, x in enumerate(one.frames[IMAGE])])},  # type: ignore[operator]
        )
        for one in episodes
    ]


def test_a_fixed_camera_and_a_robot_that_moves_a_thing_leave_nothing_to_say(episodes: list[Episode]) -> None:
    found = look(episodes)
    assert found.unstructured == "" and not found.camera_moves and not found.still
    assert found.explained > 0.2 and found.moving > 0.3 and found.background < 0.2
    assert all(share == 1 for share in found.covered.values())
    assert not any("explains" in said or "contact" in said or "range" in said for said in found.advise())


def test_contact_that_is_missing_is_said(episodes: list[Episode]) -> None:
    alone = look([scene(seed, contact=False) for seed in range(24)])
    assert alone.moving < 0.05 < look(episodes).moving
    said = next(said for said in alone.advise() if "little is learned of contact" in said)
    assert said.endswith("worldsim collect --like DATASET")


def test_repeated_starts_change_nothing(episodes: list[Episode]) -> None:
    once, twice = look(episodes[:12]), look([*episodes[:12], *episodes[:12]])
    assert (twice.moving, twice.out_of_view) == (once.moving, once.out_of_view)
    assert twice.explained == pytest.approx(once.explained, abs=0.01)


def test_a_camera_that_moves_and_a_background_that_differs_speak_against_one_canvas(episodes: list[Episode]) -> None:
    def shake(seed: int, t: int, x: np.ndarray) -> np.ndarray:
        path = np.random.default_rng(seed).integers(-1, 2, (STEPS + 1, 2)).cumsum(0)
        return np.roll(x, tuple(2 * path[t]), (0, 1))

    def tint(seed: int, t: int, x: np.ndarray) -> np.ndarray:
        return (x * np.random.default_rng(seed).uniform(0.3, 1, 3)).astype(np.uint8)

    def elsewhere(seed: int, t: int, x: np.ndarray) -> np.ndarray:
        other = np.random.default_rng(seed).integers(90, 160, PATTERN.shape)
        return np.where((x == PATTERN).all(-1, keepdims=True), other, x).astype(np.uint8)

    moved, tinted, others = (look(repainted(episodes, how)) for how in (shake, tint, elsewhere))
    assert moved.camera_moves and "the camera seems to move" in moved.unstructured
    assert (
        not tinted.camera_moves and tinted.background > 0.5 and tinted.few_backgrounds > 0.8 and not tinted.unstructured
    )
    assert not others.camera_moves and "the background differs between episodes" in others.unstructured


def test_proprioception_that_is_missing_or_says_nothing_is_said(episodes: list[Episode]) -> None:
    none = look([dataclasses.replace(one, proprio=np.zeros((STEPS + 1, 1), np.float32)) for one in episodes])
    assert "no proprioception" in none.unstructured and math.isnan(none.explained) and math.isnan(none.moving)
    assert not any("explains" in said for said in none.advise())
    others = [*episodes[1:], episodes[0]]
    mixed = look([dataclasses.replace(a, proprio=b.proprio) for a, b in zip(episodes, others, strict=True)])
    assert any("it does not say where the robot is" in said for said in mixed.advise())


def test_pictures_in_which_nothing_moves_are_named(episodes: list[Episode]) -> None:
    still = look(repainted(episodes, lambda seed, t, x: np.full_like(x, 90)))
    assert still.still and still.advise()[0].startswith("Nothing moves in the pictures")


def test_narrow_actions_and_one_sided_outcomes_are_named_and_a_gripper_is_no_narrow_one(
    episodes: list[Episode],
) -> None:
    def changed(one: Episode) -> Episode:
        action = np.stack([one.action[:, 0] * 0.1, np.sign(one.action[:, 1]) * 3], 1).astype(np.float32)
        return dataclasses.replace(one, action=action, success=np.zeros(STEPS + 1, np.float32))

    found = look([changed(one) for one in episodes])
    assert found.covered == {"x": pytest.approx(0.2), "y": 1.0}
    said = " ".join(found.advise())
    assert (
        "x (20%)" in said and "y (" not in said and "0% of the episodes end solved: record more that end solved" in said
    )


def test_what_is_out_of_view_at_the_start_is_counted() -> None:
    episodes = [scene(seed, contact=False) for seed in range(24)]

    def hide(seed: int, t: int, x: np.ndarray) -> np.ndarray:
        dark = (x == np.array([20, 20, 60])).all(-1, keepdims=True)
        return np.where(dark & (seed % 4 == 0), PATTERN, x).astype(np.uint8)

    assert look(episodes).out_of_view < 0.1
    assert look(repainted(episodes, hide)).out_of_view == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_short_and_few_episodes_are_looked_at_too(tmp_path: Path, steps: int) -> None:
    found = look([toy.episode(seed, steps=max(1, steps)) for seed in range(1 if steps < 2 else 12)])
    assert found.episodes and isinstance(found.advise(), tuple)
    dataset = open_dataset(toy.write(tmp_path / "d", episodes=3))
    found = survey_dataset(dataset.without([1]))
    assert found.episodes == 2 and found.command == f"worldsim collect --like {dataset.path} --env ENV"
    with pytest.raises(StorageError, match="can be read"):
        survey_dataset(dataset.without([0, 1, 2]))
