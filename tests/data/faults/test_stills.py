"""Frozen and repeated frames are distinguished from slow motion, by how much each picture should change; every episode counts once."""

import dataclasses

import numpy as np
import pytest

from worldsim.arrays import Bools, Bytes, Float64s
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.faults import Fault, Signals, faulty_episodes, find_faults, group_faults, signals_of
from worldsim.data.faults.signals import measure_usual

STEPS, EPISODES, BAD = 80, 8, 3


def film(place: Float64s) -> Bytes:
    """Frames of a smooth spot at places [N] in pixels, [N, 8, 48, 3]: motion of a tenth of a pixel changes them a little."""
    x = np.exp(-np.square(np.arange(48) - place[:, None]) / 8)
    return np.broadcast_to((200 * x)[:, None, :, None], (len(place), 8, 48, 3)).astype(np.uint8).copy()


def episode(place: Float64s, speed: Float64s, action: Float64s) -> Episode:
    known = np.zeros(len(place), np.float32)
    return Episode(
        frames={IMAGE: film(place)},
        proprio=np.stack([place / 10, speed], axis=1).astype(np.float32),
        action=action.astype(np.float32),
        success=known,
        progress=known,
        reward=known[1:],
    )


def swing(seed: int) -> Episode:
    """A mass on a spring: it stands still to the eye where its velocity changes most."""
    r = np.random.default_rng(seed)
    t, rate = np.arange(STEPS + 1), 0.16 + 0.02 * r.random()
    angle, reach = rate * t + 6 * r.random(), 8 + 8 * r.random()
    return episode(24 + reach * np.sin(angle), reach * rate * np.cos(angle) / 10, r.normal(size=(STEPS, 1)))


def bounce(seed: int) -> Episode:
    """A ball between two walls that throw it back, at a speed that differs between episodes and is slowly lost."""
    r = np.random.default_rng(seed)
    place, speed = [24.0], [float(r.choice([-1, 1]) * r.uniform(0.5, 1.5))]
    for _ in range(STEPS):
        ahead = place[-1] + speed[-1]
        speed.append(0.99 * (-speed[-1] if not 6 < ahead < 42 else speed[-1]))
        place.append(place[-1] + speed[-1])
    return episode(np.array(place), np.array(speed) / 10, r.normal(size=(STEPS, 1)))


def stand(one: Episode, first: int, stop: int) -> Episode:
    """The picture of row `first` up to row `stop`."""
    frames = one.frames[IMAGE].copy()
    frames[first + 1 : stop + 1] = frames[first]
    return dataclasses.replace(one, frames={IMAGE: frames})


def read(episodes: list[Episode]) -> list[Signals]:
    return [signals_of(i, e, rate_hz=20, idle=(0,)) for i, e in enumerate(episodes)]


def faults_of(episodes: list[Episode]) -> list[Fault]:
    return list(find_faults(read(episodes)))


@pytest.fixture(scope="module")
def swings() -> list[Episode]:
    return [swing(seed) for seed in range(EPISODES)]


def test_motion_that_its_picture_does_not_show_is_no_fault(swings: list[Episode]) -> None:
    assert faults_of(swings) == []


def test_a_ball_that_is_thrown_back_is_no_gap_and_no_jump() -> None:
    assert faults_of([bounce(seed) for seed in range(EPISODES)]) == []


def test_velocities_are_known_by_what_they_move(swings: list[Episode]) -> None:
    assert measure_usual(read([bounce(seed) for seed in range(EPISODES)])).rates.tolist() == [False, True]
    same = [dataclasses.replace(e, proprio=e.proprio[:, :1]) for e in swings]
    assert measure_usual(read(same)).rates.tolist() == [False]


def test_a_camera_that_stands_still_is_reported_once(swings: list[Episode]) -> None:
    """Not also as repeated frames where two more stand still, and not as a leap where it goes on."""
    bad = stand(stand(swings[BAD], 30, 38), 60, 61)
    found = faults_of([bad if i == BAD else e for i, e in enumerate(swings)])
    assert [(f.kind, f.episode, f.frames) for f in found] == [("frozen_frames", BAD, (30, 38))]


def test_a_slow_camera_is_named_though_all_episodes_have_it(swings: list[Episode]) -> None:
    slow = list(swings)
    for row in range(0, STEPS, 2):
        slow = [stand(e, row, row + 1) for e in slow]
    assert {(f.kind, f.episode) for f in faults_of(slow)} == {("repeated_frames", i) for i in range(EPISODES)}


def test_stills_that_may_be_either_are_counted_in_no_episode() -> None:
    """Pictures stand still in all slow steps and in some that are not so slow, of every episode."""
    r, found = np.random.default_rng(0), list[Signals]()
    for number in range(EPISODES):
        step = r.random(400)
        stands: Bools = (step < 0.6) | ((step < 0.75) & (r.random(400) < 0.1))
        place = np.concatenate([[0.0], np.cumsum(step * r.choice([-1, 1], 400))])[:, None]
        changes = {IMAGE: np.where(stands, 0.0, 20 * step)}
        found.append(
            Signals(
                episode=number,
                rate_hz=10,
                action=r.normal(size=(400, 1)),
                idle=np.zeros(1),
                proprio=place,
                changes=changes,
                solved=np.zeros(400, bool),
            )
        )
    [fault] = [f for f in find_faults(found) if f.kind != "time_skew"]
    assert (fault.kind, fault.episode, fault.where) == ("unclear_stills", None, IMAGE)
    assert fault.confidence == 0.5 and 0.2 < fault.value < 0.6 and not faulty_episodes([fault])


def test_an_episode_counts_once_however_many_faults_it_has() -> None:
    one = [
        Fault(kind="frozen_frames", episode=4, frames=(n, n + 3), where=IMAGE, value=3, threshold=3)
        for n in range(0, 50, 10)
    ]
    other = Fault(kind="joint_jump", episode=4, frames=(60, 61), where="state 0", value=3, threshold=1)
    more = [dataclasses.replace(one[0], episode=n) for n in range(5, 9)]
    assert faulty_episodes([*one, other, *more]) == [4, 5, 6, 7, 8]
    [(_, places), _] = group_faults([*one, other, *more])
    shown = "4 (frames 0 to 3, 10 to 13, 20 to 23 and 2 more)"
    assert places == f"episodes {shown}, 5 (frames 0 to 3), 6 (frames 0 to 3), 7 (frames 0 to 3) and 1 more"


def test_only_what_spans_a_turn_wraps() -> None:
    """A velocity of up to 9 rad/s may change by about a turn a second without being an angle."""
    wide = []
    for seed in range(EPISODES):
        e = swing(seed)
        extra = 9 * np.sin(0.02 * np.arange(STEPS + 1) + seed)
        extra[40:] -= 6.2 if seed == BAD else 0
        wide.append(dataclasses.replace(e, proprio=np.column_stack([e.proprio, extra]).astype(np.float32)))
    assert not [f for f in faults_of(wide) if f.kind == "angle_wrap"]
