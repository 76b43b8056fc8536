"""Screening: faults are named, and what would teach something wrong leaves its episode out where that is asked for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.train import toy
from worldsim import storage
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.faults import Fault
from worldsim.data.faults.screen import Screening, sample_episodes, screen
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError


def freeze(episode: Episode) -> Episode:
    frames = episode.frames[IMAGE].copy()
    frames[3:11] = frames[3]
    return dataclasses.replace(episode, frames={IMAGE: frames})


def wait(episode: Episode) -> Episode:
    """Nothing moves in most of it, which is said."""
    hold = np.array([0, 1, 2, 3, *[4] * 9])
    frames = {IMAGE: episode.frames[IMAGE][hold]}
    action = np.where(np.arange(12)[:, None] < 4, episode.action, 0).astype(np.float32)
    labels = {name: getattr(episode, name)[hold] for name in ("proprio", "success", "progress")}
    return dataclasses.replace(episode, frames=frames, action=action, **labels)


def dataset_with(path: Path, change: Callable[[Episode], Episode], bad: range, *, episodes: int = 8) -> Dataset:
    with episode_writer(path, toy.spec()) as writer:
        for i in range(episodes):
            writer.write(change(toy.episode(i)) if i in bad else toy.episode(i))
    return open_dataset(path)


def cut_file(dataset: Dataset, number: int) -> None:
    """The data file of an episode breaks off."""
    file = sorted((dataset.path / "data").glob("*/*.parquet"))[number]
    file.write_bytes(file.read_bytes()[:200])


def test_a_frozen_episode_is_left_out_named_and_kept_in_json(tmp_path: Path) -> None:
    dataset = dataset_with(tmp_path / "d", freeze, range(3, 4))
    found = screen(dataset, rule="leave_out")
    assert [(o.episode, o.why) for o in found.left_out] == [(3, "frozen frames")]
    assert "frozen frames of observation.image, episode 3 (frames 3 to 10): left out." in str(found)
    assert storage.from_json(Screening, storage.to_json(found)) == found
    left = dataset.without(found.indices)
    assert (left.used, left.left_out, left.episodes) == ([0, 1, 2, 4, 5, 6, 7], [3], 8)
    assert dataset.left_out == []


def test_rules_other_than_leaving_out(tmp_path: Path) -> None:
    dataset = dataset_with(tmp_path / "d", freeze, range(3, 4))
    said = screen(dataset)
    assert str(said).startswith("Faults, looked for in all: in 1 of 8 episodes\n")
    assert said.left_out == () and "(frames 3 to 10): only said." in str(said)
    assert "1 episode is used all the same;" in str(said) and "faults=leave_out." in str(said)
    with pytest.raises(InvalidInputError, match=r"1 episodes of .* episode 3: frozen frames.* use faults=leave_out"):
        screen(dataset, rule="refuse")


def test_what_many_episodes_have_is_how_they_were_recorded(tmp_path: Path) -> None:
    found = screen(dataset_with(tmp_path / "d", freeze, range(3)), rule="leave_out")
    assert found.left_out == () and "used all the same, since too few other episodes would be left" in str(found)


def test_enough_is_left_to_learn_from(tmp_path: Path) -> None:
    found = screen(dataset_with(tmp_path / "d", freeze, range(1), episodes=2), rule="leave_out")
    assert found.faults and found.left_out == ()


def test_pauses_are_only_said(tmp_path: Path) -> None:
    found = screen(dataset_with(tmp_path / "d", wait, range(5, 6)), rule="leave_out")
    assert found.left_out == () and "idle, episode 5: only said." in str(found)
    screen(open_dataset(tmp_path / "d"), rule="refuse")


def test_unreadable_episodes_are_left_out_up_to_a_fifth(tmp_path: Path) -> None:
    dataset = dataset_with(tmp_path / "d", wait, range(0))
    cut_file(dataset, 2)
    for rule in ("leave_out", "say"):
        found = screen(dataset, rule=rule)
        assert found.indices == {2} and "episode 2 cannot be read (" in str(found)
    with pytest.raises(InvalidInputError, match="episode 2: cannot be read"):
        screen(dataset, rule="refuse")
    cut_file(dataset, 4)
    with pytest.raises(StorageError, match=r"2 of 8 episodes are unreadable\. The last: episode 4: "):
        screen(dataset)


def test_of_large_datasets_evenly_spread_episodes_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_with(tmp_path / "d", freeze, range(7, 8))
    one = 13 * 3 * toy.SIZE * toy.SIZE
    assert sample_episodes(dataset, most_bytes=3 * one) == [0, 4, 7]
    assert sample_episodes(dataset, most_bytes=1) == [0]
    assert sample_episodes(dataset, most_bytes=99 * one, most=2) == [0, 7]
    monkeypatch.setattr("worldsim.data.faults.screen.SCREENED_BYTES", 3 * one)
    found = screen(dataset)
    assert "looked for in 3 of 8 episodes, evenly spread" in str(found)


def test_an_episode_with_two_faults_counts_once() -> None:
    faults = tuple(
        Fault(kind=kind, episode=3, frames=(3, 10), where="", value=7, threshold=3)
        for kind in ("frozen_frames", "joint_jump")
    )
    said = str(Screening(episodes=8, looked_at=8, rule="say", faults=faults))
    assert said.startswith("Faults, looked for in all: in 1 of 8 episodes\n")
