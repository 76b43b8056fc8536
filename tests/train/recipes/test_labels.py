"""Worlds from labels that people gave, and worlds from none."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tokenizers.scenes import SIZE
from tests.train import toy
from worldsim.core import Camera
from worldsim.data.guess import Described
from worldsim.data.labels import Agreed, LabelFile
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.data.windows import EncodedEpisode
from worldsim.errors import InvalidInputError
from worldsim.evaluate.triage import prepare
from worldsim.optimize import Schedule
from worldsim.train.recipes.labels import put_labels, spread_labels
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.worlds import load_world, world_spec
from worldsim.worlds.labelling import RARE, describe_labels, label_rates

EPISODES = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real recordings have no success and no progress."""
    path = tmp_path_factory.mktemp("toy") / "data"
    spec = RecordSpec(
        action=toy.ACTION,
        cameras=(Camera(height=SIZE, width=SIZE),),
        proprio_dim=2,
        has_success=False,
        has_progress=False,
    )
    with episode_writer(path, spec) as writer:
        for i in range(EPISODES):
            writer.write(toy.episode(i))
    return path


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    """Every second episode, by the rule of the task; the first is unclear."""
    file = LabelFile.of(data.with_name("labels.jsonl"), open_dataset(data))
    ends = [float(toy.episode(i).progress[-1]) for i in range(EPISODES)]
    for i in range(0, EPISODES, 2):
        file.add(episode=i, outcome="solved" if ends[i] > np.median(ends) else "failed", who="ann")
    file.add(episode=0, outcome="unclear", who="ann")
    return file.path


def recipe(data: Path, out: Path, **changes: object) -> TrainWorld:
    base = TrainWorld(
        data=str(data),
        out=str(out),
        num_starts=2,
        tokenizer=TokenizerRecipe(schedule=Schedule(steps=4, batch=4)),
        predictor=PredictorRecipe(
            options={"width": 8, "members": 1}, schedule=Schedule(steps=4, batch=16), unrolls=((1, 1.0),)
        ),
        heads=Schedule(steps=40, batch=64, lr=3e-3),
    )
    return dataclasses.replace(base, **changes)


def test_a_world_without_labels_says_so_and_is_not_ranked_by(data: Path, tmp_path: Path) -> None:
    folder = train_world(recipe(data, tmp_path / "world"))
    assert world_spec(folder).unlabelled == load_world(folder).spec.unlabelled == ("success", "progress")
    assert "No success labels" in describe_labels(folder)
    with pytest.raises(InvalidInputError, match=r"without success labels.*worldsim label.*--judge"):
        prepare(["planner:weighted"], world=str(folder))


def test_labels_make_the_success_head_and_are_weighed(data: Path, labels: Path, tmp_path: Path) -> None:
    folder = train_world(recipe(data, tmp_path / "world", labels=str(labels)))
    spec = world_spec(folder)
    assert spec.unlabelled == ("progress",)
    manifest = json.loads((folder / "manifest.json").read_text())
    said = manifest["labels"]
    assert (said["solved"] + said["failed"], said["unclear"]) == (11, 1)
    assert 0 <= said["interval"][0] <= said["accuracy"] <= said["interval"][1] <= 1
    rates = label_rates(folder)
    assert rates is not None and (rates.solved, rates.unsolved) == (said["solved"], said["failed"])
    assert "judge as labelled" in describe_labels(folder)
    prepare(["planner:weighted"], world=str(folder))


def test_a_world_from_labelled_data_is_as_before(tmp_path: Path) -> None:
    folder = train_world(recipe(toy.write(tmp_path / "data", episodes=12), tmp_path / "world"))
    assert world_spec(folder).unlabelled == () and label_rates(folder) is None
    shares = json.loads((folder / "manifest.json").read_text())["positives"]
    said = describe_labels(folder)
    assert f"those of the data. {100 * shares['success']:.2g} % of frames are solved; " in said
    assert ("That is rare" in said) == (min(shares.values()) < RARE)


def test_labels_of_one_outcome_or_none_are_refused_before_training(data: Path, tmp_path: Path) -> None:
    file = LabelFile.of(tmp_path / "labels.jsonl", open_dataset(data))
    file.add(episode=3, outcome="failed", who="ann")
    with pytest.raises(InvalidInputError, match="0 solved and 1 failed"):
        train_world(recipe(data, tmp_path / "world", labels=str(file.path)))
    with pytest.raises(InvalidInputError, match="no file of labels"):
        train_world(recipe(data, tmp_path / "world", labels=str(tmp_path / "absent.jsonl")))


def test_labels_of_other_data_are_refused(labels: Path, tmp_path: Path) -> None:
    other = toy.write(tmp_path / "data", episodes=12)
    with pytest.raises(InvalidInputError, match=r"Line 1 of .*another dataset"):
        train_world(recipe(other, tmp_path / "world", labels=str(labels)))


def test_an_outcome_says_what_is_known_of_each_frame() -> None:
    frames = 7
    episode = EncodedEpisode(
        z_FCHW=torch.zeros(frames, 1, 1, 1),
        proprio_FP=torch.zeros(frames, 1),
        action_FA=torch.zeros(frames - 1, 1),
        progress_F=torch.zeros(frames),
        success_F=torch.ones(frames),
    )
    encoded = EncodedEpisodes(episodes=(episode,) * 6, indices=(0, 1, 2, 3, 4, 9))
    said = {
        0: Agreed(outcome="solved", frame=None, disputed=False),
        1: Agreed(outcome="solved", frame=9, disputed=False),  # frame 9 of the recording is latent frame 5
        2: Agreed(outcome="failed", frame=None, disputed=False),
        3: Agreed(outcome="failed", frame=2, disputed=False),
        9: Agreed(outcome="unclear", frame=None, disputed=True),
    }
    expected = {
        "end": ["0?????1", "0????11", "0?????0", "0000000", "???????"],
        "any": ["0?????1", "0????11", "0000000", "0000000", "???????"],
    }
    for rule, rows in expected.items():
        found = put_labels(encoded, said, success_at=rule, stride=2)
        assert found.indices == (0, 1, 2, 3, 9)
        shown = ["".join("?" if x != x else str(int(x)) for x in e.success_F.tolist()) for e in found.episodes]
        assert shown == rows


def test_labels_spread_to_frames_that_look_like_labelled_ends_and_to_no_others() -> None:
    near, far, away = np.zeros((2, 2)), np.full((2, 2), 4.0), np.full((2, 2), 40.0)
    frames = {0: near, 1: far, 2: np.concatenate([near, far]), 3: away, 4: near, 5: far}
    looked = Described(ends_ND=np.stack([f[-1] for f in frames.values()]), frames=frames, left_out={})
    said = {i: Agreed(outcome="solved", frame=None, disputed=False) for i in (0, 4)}
    said |= {i: Agreed(outcome="failed", frame=None, disputed=False) for i in (1, 5)}
    found = spread_labels(said, looked, stride=1)
    assert found[2].tolist() == [1, 1, 0, 0]
    assert not found[3].isfinite().any()
    said[2] = Agreed(outcome="unclear", frame=None, disputed=True)
    assert 2 not in spread_labels(said, looked, stride=1)
    assert [len(v) for v in spread_labels(said, looked, stride=2).values()] == [1, 1, 1, 1, 1]
    assert spread_labels({0: said[0]}, looked, stride=1) == {}
