"""How the benchmark of clean recordings counts."""

import dataclasses
from pathlib import Path

from benchmarks.clean_faults import measure
from tests.train import toy
from worldsim.core import IMAGE
from worldsim.data.lerobot.write import episode_writer


def test_an_episode_that_is_said_to_have_faults_counts_once(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "data", toy.spec()) as writer:
        for number in range(6):
            episode = toy.episode(number, steps=40)
            frames = episode.frames[IMAGE].copy()
            if number == 2:
                for first in (5, 20):
                    frames[first : first + 8] = frames[first]
            writer.write(dataclasses.replace(episode, frames={IMAGE: frames}))
    found = measure(tmp_path / "data")
    assert (found["episodes"], found["named"]) == (6, 1)
    assert found["kinds"] == {"frozen_frames": 1}
