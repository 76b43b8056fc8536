"""Faults: none in worldsim's own recordings; each kind that is planted is found, in its episode and at its frames."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.motions import keep_rows
from worldsim.arrays import Bytes, Float64s
from worldsim.core import IMAGE
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.episode import Episode
from worldsim.data.faults import Fault, Signals, find_faults, idle_shares, picture_changes, signals_of
from worldsim.data.faults.fault import EXPLANATIONS
from worldsim.data.faults.lag import measure_lag
from worldsim.data.faults.signals import fill_gaps
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.evaluate.behaviours import named_behaviours
from worldsim.evaluate.environments import MakeEnv
from worldsim.storage import to_json

BAD = 2
"""The episode that faults are planted in."""


def robot(seed: int, *, steps: int = 60) -> Episode:
    """An arm of two joints that follows smooth velocities; its camera shows a textured patch that moves with it."""
    r = np.random.default_rng(seed)
    velocity = np.zeros((steps, 2))
    for t in range(1, steps):
        velocity[t] = 0.9 * velocity[t - 1] + 0.35 * r.normal(size=2)
    velocity += 1.2
    place = np.concatenate([[[0.0, 0.0]], np.cumsum(velocity, axis=0)]) + 8
    coarse = r.integers(110, 140, (50, 50, 3))
    texture = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1).astype(np.uint8)
    rows = [texture[int(y) : int(y) + 24, int(x) : int(x) + 32] for y, x in place]
    known = np.zeros(steps + 1, np.float32)
    return Episode(
        frames={IMAGE: np.stack(rows)},
        proprio=(place / 100).astype(np.float32),
        action=velocity.astype(np.float32),
        success=known,
        progress=known,
        reward=known[1:],
    )


def with_frames(episode: Episode, change: Callable[[Bytes], None]) -> Episode:
    frames = episode.frames[IMAGE].copy()
    change(frames)
    return dataclasses.replace(episode, frames={IMAGE: frames})


def with_state(episode: Episode, change: Callable[[Any], None]) -> Episode:
    proprio = episode.proprio.copy()
    change(proprio)
    return dataclasses.replace(episode, proprio=proprio)


def freeze(frames: Bytes) -> None:
    frames[21:29] = frames[20]


def repeat(frames: Bytes) -> None:
    frames[31] = frames[30]


def halve_the_rate(frames: Bytes) -> None:
    frames[1::2] = frames[:-1:2]


def cut(frames: Bytes) -> None:
    frames[33:] += 90


def spike(proprio: Any) -> None:
    proprio[40, 1] += 0.9


def shift(proprio: Any) -> None:
    proprio[25:, 0] += 0.9


def stop(proprio: Any) -> None:
    proprio[:, 0] = proprio[0, 0]


def wait(episode: Episode) -> Episode:
    held = keep_rows(episode, [*range(15), *[15] * 30])
    action = held.action.copy()
    action[15:] = 0
    return dataclasses.replace(held, action=action)


PLANTED: dict[str, tuple[Callable[[Episode], Episode], str, tuple[int, int] | None, str]] = {
    "freeze": (lambda e: with_frames(e, freeze), "frozen_frames", (20, 28), IMAGE),
    "repeat": (lambda e: with_frames(e, repeat), "repeated_frames", (30, 31), IMAGE),
    "halve the rate": (lambda e: with_frames(e, halve_the_rate), "repeated_frames", None, IMAGE),
    "drop": (lambda e: keep_rows(e, [t for t in range(61) if not 30 < t < 36]), "dropped_frames", (30, 31), ""),
    "cut": (lambda e: with_frames(e, cut), "picture_jump", (32, 33), IMAGE),
    "spike": (lambda e: with_state(e, spike), "joint_jump", (39, 41), "state elbow"),
    "shift": (lambda e: with_state(e, shift), "joint_jump", (24, 25), "state shoulder"),
    "stop": (lambda e: with_state(e, stop), "constant", None, "state shoulder"),
    "wait": (wait, "idle", None, ""),
    "one frame": (lambda e: keep_rows(e, [0]), "one_frame", None, ""),
    "short": (lambda e: keep_rows(e, list(range(5))), "short_episode", None, ""),
}


@pytest.fixture(scope="module")
def recordings() -> list[Episode]:
    return [robot(seed) for seed in range(6)]


def faults_of(recordings: list[Episode]) -> tuple[Fault, ...]:
    signals = [signals_of(i, e, rate_hz=10, idle=(0, 0)) for i, e in enumerate(recordings)]
    return find_faults(signals, action_names=("a", "b"), proprio_names=("shoulder", "elbow"))


def test_sound_recordings_have_no_fault(recordings: list[Episode]) -> None:
    assert faults_of(recordings) == ()
    assert faults_of(recordings[:1]) == ()


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_where_it_is(recordings: list[Episode], name: str) -> None:
    plant, kind, frames, where = PLANTED[name]
    faulty = [plant(e) if i == BAD else e for i, e in enumerate(recordings)]
    [fault] = faults_of(faulty)
    assert (fault.kind, fault.episode, fault.frames, fault.where) == (kind, BAD, frames, where)
    below = kind in ("one_frame", "short_episode")
    assert fault.value < fault.threshold if below else fault.value >= fault.threshold
    assert (fault.meaning, fault.remedy) == EXPLANATIONS[fault.kind]
    json.dumps(to_json(fault), allow_nan=False)


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("faults") / "push"
    options = RecordingOptions(steps=45)
    collect(MakeEnv("push"), named_behaviours("auto", "push"), episodes=6, out=out, seed=5, options=options)
    return open_dataset(out)


def read(dataset: Dataset) -> list[Signals]:
    spec = dataset.action_spec
    return [signals_of(i, dataset.episode(i), rate_hz=dataset.rate_hz, idle=spec.idle) for i in range(dataset.episodes)]


def test_own_recordings_have_no_fault(push: Dataset) -> None:
    signals = read(push)
    assert find_faults(signals) == ()
    assert set(idle_shares(signals)) == set(range(6)) and max(idle_shares(signals).values()) < 0.5


@pytest.mark.parametrize("rows", [2, -2, 5])
def test_video_that_is_late_or_early(push: Dataset, rows: int) -> None:
    """Positive where the video comes after the actions."""
    late = [dataclasses.replace(s, changes={k: np.roll(c, rows) for k, c in s.changes.items()}) for s in read(push)]
    [fault] = find_faults(late)
    assert (fault.kind, fault.episode, fault.where, fault.value) == ("time_skew", None, IMAGE, rows)
    assert fault.confidence > 0.999


def test_one_late_episode(recordings: list[Episode]) -> None:
    signals = [signals_of(i, e, rate_hz=10, idle=(0, 0)) for i, e in enumerate(recordings)]
    r = np.random.default_rng(0)
    moving = [
        np.abs(r.normal(size=60)) + 0.1 for _ in signals
    ]  # how far the patch moves, and how much the picture changes
    signals = [
        dataclasses.replace(s, action=np.stack([x, x], 1), changes={IMAGE: 3 * x + r.random(60) / 10})
        for s, x in zip(signals, moving, strict=True)
    ]
    signals[BAD] = dataclasses.replace(signals[BAD], changes={IMAGE: np.roll(signals[BAD].changes[IMAGE], 4)})
    found = [(f.kind, f.episode, f.value) for f in find_faults(signals) if f.kind == "time_skew"]
    assert found == [("time_skew", BAD, 4)]


def test_skew_is_silent_where_it_cannot_be_known() -> None:
    r = np.random.default_rng(1)
    noise: Callable[[], Float64s] = lambda: r.random(50)  # noqa: E731
    lag = measure_lag([(noise(), noise()) for _ in range(8)], most=10)
    assert lag is not None and (lag.correlation < 0.35 or lag.confidence < 0.999)
    assert measure_lag([(noise()[:20], noise()[:20])], most=10) is None
    assert measure_lag([(np.ones(50), noise())], most=10) is None


def test_nan_is_found_by_channel_and_row(recordings: list[Episode]) -> None:
    """Episodes refuse NaN; raw columns say where it is."""
    signals = [signals_of(i, e, rate_hz=10, idle=(0, 0)) for i, e in enumerate(recordings)]
    proprio = signals[BAD].proprio.copy()
    proprio[[7, 9], 1] = np.nan
    signals[BAD] = dataclasses.replace(signals[BAD], proprio=proprio)
    [fault] = find_faults(signals, proprio_names=("shoulder", "elbow"))
    assert (fault.kind, fault.episode, fault.frames, fault.where) == ("not_finite", BAD, (7, 9), "state elbow")
    assert fault.value == 2
    assert fill_gaps(signals[BAD]).proprio[[7, 9], 1].tolist() == proprio[[6, 8], 1].tolist()


def test_dead_channels_and_cameras_of_a_dataset(recordings: list[Episode]) -> None:
    dead = [dataclasses.replace(e, action=e.action * np.float32([1, 0])) for e in recordings]
    dead = [with_frames(e, lambda frames: frames.fill(9)) for e in dead]
    assert [(f.kind, f.where) for f in faults_of(dead)] == [("constant", "action b"), ("constant", IMAGE)]


def test_a_wrapping_angle_is_reported_once(recordings: list[Episode]) -> None:
    def wrap(proprio: Any) -> None:
        proprio[:, 0] = (proprio[:, 0] * 10 + 0.1 + np.pi) % (2 * np.pi) - np.pi

    [fault] = faults_of([with_state(e, wrap) for e in recordings])
    assert (fault.kind, fault.where, fault.episode) == ("angle_wrap", "state shoulder", 0)


def test_glitches_in_half_of_the_episodes_are_no_habit(recordings: list[Episode]) -> None:
    found = faults_of([with_state(e, spike) if i % 2 else e for i, e in enumerate(recordings)])
    assert [(f.kind, f.episode, f.frames) for f in found] == [("joint_jump", i, (39, 41)) for i in (1, 3, 5)]


def test_a_robot_that_creeps_is_no_frozen_camera(recordings: list[Episode]) -> None:
    """Steps too small to be seen, however many."""

    def creep(e: Episode) -> Episode:
        held = keep_rows(e, [*range(20), *[20] * 41])
        proprio = held.proprio.copy()
        proprio[20:] += np.linspace(0, 0.1, 41, dtype=np.float32)[:, None]
        return dataclasses.replace(held, proprio=proprio)

    assert faults_of([creep(e) if i == BAD else e for i, e in enumerate(recordings)]) == ()


def test_waiting_where_the_task_stands_solved_is_no_pause(recordings: list[Episode]) -> None:
    waiting = wait(recordings[BAD])
    solved = np.where(np.arange(45) >= 15, 1, 0).astype(np.float32)
    done = dataclasses.replace(waiting, success=solved)
    assert faults_of([done if i == BAD else e for i, e in enumerate(recordings)]) == ()


def test_a_gripper_that_snaps_in_every_episode_is_no_fault(recordings: list[Episode]) -> None:
    def grip(proprio: Any) -> None:
        proprio[:, 1] = np.linspace(0, 0.01, 61)
        proprio[30:, 1] += 1

    assert faults_of([with_state(e, grip) for e in recordings]) == ()


def test_velocities_and_pushed_things_leap_by_nature(recordings: list[Episode]) -> None:
    """An object that lies still and is kicked in one episode, and its velocity."""
    r = np.random.default_rng(3)
    kicked = []
    for i, e in enumerate(recordings):
        place, speed = np.zeros(61), 0.01 * r.normal(size=61)
        if i == BAD:
            place[30:], speed[30:33] = 0.4, (9, 4, 2)
        state = np.column_stack([e.proprio, place, speed]).astype(np.float32)
        kicked.append(dataclasses.replace(e, proprio=state))
    assert faults_of(kicked) == ()


@pytest.mark.parametrize(("unknown", "share"), [(6, 1.0), (3, 0.5)])
def test_missing_labels(recordings: list[Episode], unknown: int, share: float) -> None:
    nothing = np.full(61, np.nan, np.float32)
    found = faults_of(
        [
            dataclasses.replace(e, success=nothing, progress=nothing) if i < unknown else e
            for i, e in enumerate(recordings)
        ]
    )
    assert {(f.kind, f.episode, f.value) for f in found} == {("missing_labels", None, share)}


def test_progress_alone_is_label_enough(recordings: list[Episode]) -> None:
    nothing = np.full(61, np.nan, np.float32)
    assert faults_of([dataclasses.replace(e, success=nothing) for e in recordings]) == ()


def test_picture_changes() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1] = 255
    frames[2, 0] = 255
    assert picture_changes(frames).tolist() == [255.0, 127.5]
    assert picture_changes(frames[:1]).shape == (0,)


def test_no_episode_at_all(tmp_path: Path) -> None:
    assert find_faults([]) == () and idle_shares([]) == {}
