"""Missing rows and frames are found where actions or the robot's own motion say what was to come, and nothing else is."""

import dataclasses

import numpy as np
import pytest

from benchmarks import motions
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.faults import find_faults, signals_of

Found = list[tuple[str, int | None, tuple[int, int] | None, str]]


def recordings(motion: str, *, targets: bool = False) -> list[Episode]:
    r = np.random.default_rng(3)
    return [motions.record(motions.MOTIONS[motion](r), r, targets=targets) for _ in range(6)]


def found(episodes: list[Episode]) -> Found:
    return [(f.kind, f.episode, f.frames, f.where) for f in motions.faults_of(episodes)]


def gap_at(episodes: list[Episode], at: int, first: int, count: int, *, rows: bool) -> list[Episode]:
    drop = motions.drop_rows if rows else motions.drop_frames
    return [drop(e, first, count) if i == at else e for i, e in enumerate(episodes)]


@pytest.mark.parametrize("motion", motions.MOTIONS)
@pytest.mark.parametrize("targets", [False, True])
def test_clean_recordings_have_no_gap(motion: str, targets: bool) -> None:
    assert found(recordings(motion, targets=targets)) == []


@pytest.mark.parametrize("targets", [False, True])
def test_rows_that_are_missing_in_jerky_motion(targets: bool) -> None:
    """Whose steps differ tenfold by themselves: the action says how long each was to be."""
    faulty = gap_at(recordings("jerky", targets=targets), 2, 20, 3, rows=True)
    assert found(faulty) == [("dropped_frames", 2, (20, 21), "")]


def test_frames_that_are_missing_beside_full_rows() -> None:
    faulty = gap_at(recordings("jerky"), 2, 20, 3, rows=False)
    [fault] = motions.faults_of(faulty)
    assert (fault.kind, fault.episode, fault.where) == ("dropped_frames", 2, IMAGE)
    assert fault.frames is not None and abs(fault.frames[0] - 20) <= motions.NEAR
    assert "runs ahead of the robot" in fault.meaning and fault.value > fault.threshold


def test_a_channel_that_leaps_while_pictures_do_not_is_no_gap() -> None:
    """Rows are missing only where the picture shows the way that the channel says."""
    clean = recordings("smooth")
    proprio = clean[2].proprio.copy()
    proprio[30:, 0] += 0.05
    bad = [dataclasses.replace(e, proprio=proprio) if i == 2 else e for i, e in enumerate(clean)]
    assert not [f for f in found(bad) if f[0] == "dropped_frames"]


def turned(step: float) -> list[Episode]:
    """Robots whose actions say nothing; one makes a step 3 times as long as those around it, either way."""
    r = np.random.default_rng(0)
    episodes = []
    for i in range(6):
        velocity = 1.0 + 0.05 * r.normal(size=(motions.STEPS, 2))
        velocity[::7] *= 1.5
        if i == 2:
            velocity[30] = step
        episodes.append(
            dataclasses.replace(motions.record(velocity, r, targets=False), action=np.zeros((60, 2), np.float32))
        )
    return episodes


def test_without_actions_a_long_step_on_the_way_is_a_gap_and_one_back_is_the_robots_own() -> None:
    """Up to what no robot can do."""
    assert ("dropped_frames", 2, (30, 31), "") in found(turned(3.2))
    assert not [f for f in found(turned(-3.2)) if f[0] == "dropped_frames"]
    assert ("dropped_frames", 2, (30, 31), "") in found(turned(-6.0))


def test_a_blocked_robot_goes_beyond_nothing() -> None:
    clean = recordings("smooth")
    held = clean[2]
    rows = [*range(25), *[25] * 12, *range(26, 50)]
    action = held.action[[*range(25), *[25] * 12, *range(26, 49)]]
    stuck = dataclasses.replace(
        held, frames={IMAGE: held.frames[IMAGE][rows]}, proprio=held.proprio[rows], action=action
    )
    signals = [signals_of(i, stuck if i == 2 else e, rate_hz=10, idle=(0, 0)) for i, e in enumerate(clean)]
    assert not [f for f in find_faults(signals) if f.kind == "dropped_frames"]
