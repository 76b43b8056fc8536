"""A critic that learns from a few labels of people."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.label.conftest import EPISODES
from worldsim.cli import app
from worldsim.errors import InvalidInputError, StorageError
from worldsim.label.session import open_labels
from worldsim.reason.items.sources import LabelledVideos
from worldsim.reason.train.items import open_videos

pytest.importorskip("transformers")


@pytest.fixture
def labels(data: Path, tmp_path: Path) -> Path:
    _, file = open_labels(data, tmp_path / "labels.jsonl")
    for episode in range(EPISODES):
        file.add(episode=episode, outcome="solved" if episode < 3 else "failed", who="ann")
    file.add(episode=5, outcome="unclear", who="ann")
    return file.path


def test_videos_have_the_outcomes_that_people_gave(data: Path, labels: Path) -> None:
    videos = open_videos(str(data), labels=str(labels))
    assert isinstance(videos, LabelledVideos) and len(videos) == EPISODES
    assert [videos.video(i).success for i in range(EPISODES)] == [1, 1, 1, 0, 0, None]
    assert [videos.provenance(i).policy for i in range(EPISODES)] == [
        *("part 1", "part 2", "part 1"),
        *("part 1", "part 2"),
        "unknown",
    ]


def test_a_critic_is_calibrated_on_them(data: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "critic"
    asked = ["reason", "calibrate", "reason", "--data", str(data), "--labels", str(labels), "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert (out / "critic.json").is_file()


def test_labels_of_nothing_and_of_several_datasets_are_refused(data: Path, labels: Path) -> None:
    with pytest.raises(InvalidInputError, match="one dataset"):
        open_videos([str(data), str(data)], labels=str(labels))
    with pytest.raises(StorageError, match="no file of labels"):
        open_videos(str(data), labels="nowhere.jsonl")
