import dataclasses
from pathlib import Path

import pytest
import torch

from tests.data import toys
from tests.train import toy
from worldsim import storage
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule
from worldsim.testing import check_world
from worldsim.train.config import data_notes
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.worlds import load_world, world_spec


class Killed(Exception):
    """Stands for a kill at an awkward moment."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "data")


def recipe(data: Path, out: Path, **changes: object) -> TrainWorld:
    base = TrainWorld(
        data=str(data),
        out=str(out),
        num_starts=4,
        tokenizer=TokenizerRecipe(schedule=Schedule(steps=10, batch=8, lr=1e-3)),
        predictor=PredictorRecipe(
            options={"width": 24, "members": 2} if "predictor" not in changes else {},
            schedule=Schedule(steps=60, batch=64, lr=3e-3, save_every_s=0.0),
            unrolls=((1, 0.5), (2, 1.0)),
        ),
        heads=Schedule(steps=60, batch=64, lr=3e-3),
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_world(recipe(data, tmp_path_factory.mktemp("toy") / "world"))


def test_a_trained_world_keeps_the_contract(folder: Path) -> None:
    world = load_world(folder)
    assert world.tokenizer.config.orders == (1, 0)
    check_world(world)


def test_the_manifest_says_how_it_was_made(folder: Path, data: Path) -> None:
    manifest = storage.read_manifest(folder, kind="world")
    assert manifest["config"]["data"] == str(data)
    validity = world_spec(folder).validity
    assert validity is not None and validity.spread is not None and validity.spread.mean[0] > 0
    pictures = validity.curve("pictures")
    assert pictures is not None and pictures.horizons[0] == 1 and pictures.world[0] < pictures.copying[0]
    assert set(manifest["core_seconds"]) == {"tokenizer", "latents", "predictor", "heads", "errors"}


def test_a_killed_training_ends_with_the_same_weights(data: Path, folder: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "world")

    def kill(stage: str, step: int, steps: int, values: object) -> None:
        if stage.startswith("predictor") and step == 50:
            raise Killed

    with pytest.raises(Killed):
        train_world(config, progress=kill)
    again = load_world(train_world(config)).state_dict()
    uninterrupted = load_world(folder).state_dict()
    assert all(torch.equal(again[k], uninterrupted[k]) for k in uninterrupted)
    assert not (tmp_path / "world.training").exists()


def test_another_request_does_not_continue_a_begun_one(data: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "world")

    def kill(stage: str, step: int, steps: int, values: object) -> None:
        if stage != "faults":  # before which nothing is made
            raise Killed

    with pytest.raises(Killed):
        train_world(config, progress=kill)
    with pytest.raises(InvalidInputError, match="another request.*config"):
        train_world(dataclasses.replace(config, seed=1))


def test_pictures_that_are_no_layers_get_the_grid_family(data: Path, tmp_path: Path) -> None:
    tokenizer = TokenizerRecipe(
        name="haar_pca", options={"channels": 8, "width": 8}, schedule=Schedule(steps=10, batch=8)
    )
    predictor = PredictorRecipe(
        options={"width": 16, "blocks": 1}, schedule=Schedule(steps=10, batch=16), unrolls=((1, 1.0),)
    )
    world = load_world(train_world(recipe(data, tmp_path / "world", tokenizer=tokenizer, predictor=predictor)))
    assert world.spec.latent_shape == (8, 6, 6)
    check_world(world)


def quick(data: object, out: Path, **changes: object) -> TrainWorld:
    """A recipe that learns nothing: what is looked at is the rest."""
    brief = Schedule(steps=2, batch=8)
    base = TrainWorld(
        data=data,  # type: ignore[arg-type]
        out=str(out),
        tokenizer=TokenizerRecipe(name="haar_pca", options={"channels": 4, "width": 4}, schedule=brief),
        predictor=PredictorRecipe(options={"width": 8, "blocks": 1}, schedule=brief, unrolls=((1, 1.0),)),
        heads=brief,
    )
    return dataclasses.replace(base, **changes)


def lengths(path: Path, steps: tuple[int, ...]) -> str:
    """A recording whose episodes have so many actions; none of those of LeRobot's that are one frame."""
    with episode_writer(path, toy.spec()) as writer:
        for seed, count in enumerate(steps):
            writer.write(toy.episode(seed, steps=max(count, 1)))
    toys.as_foreign(path)
    for index, count in enumerate(steps):
        if not count:
            toys.cut_rows(path, index, 1)
    return str(path)


def test_episodes_of_one_frame_and_short_ones(tmp_path: Path) -> None:
    """The horizon is that of the data; an episode without an action is neither trained on nor held out."""
    data = lengths(tmp_path / "d", (0, 2, 9, 0, 5))
    world = load_world(train_world(quick(data, tmp_path / "w")))
    assert world.spec.horizon == 9
    assert world.num_starts == 5  # type: ignore[attr-defined]
    first = open_dataset(data).episode(1).frames["observation.image"][0]
    assert torch.equal(world.starts(torch.tensor([0]))["observation.image"][0], torch.tensor(first))  # type: ignore[attr-defined]


def test_too_few_episodes_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    data = lengths(tmp_path / "d", (0, 6, 0))
    with pytest.raises(InvalidInputError, match="1 episode of two or more frames"):
        train_world(quick(data, tmp_path / "w"))
    assert not (tmp_path / "w.training").exists()


def test_several_datasets_train_one_world(tmp_path: Path) -> None:
    both = (lengths(tmp_path / "a", (4, 5)), lengths(tmp_path / "b", (6, 7, 6)))
    config = storage.from_json(TrainWorld, storage.to_json(quick(list(both), tmp_path / "w", weights=(1.0, 3.0))))
    world = load_world(train_world(config))
    assert world.spec.horizon == 7 and world.num_starts == 5  # type: ignore[attr-defined]
    manifest = storage.read_manifest(tmp_path / "w", kind="world")
    assert manifest["config"]["data"] == list(both) and manifest["config"]["weights"] == [1, 3]


def test_what_is_assumed_of_the_data_is_said(tmp_path: Path) -> None:
    data = lengths(tmp_path / "d", (4, 5))
    declared = toys.features(Path(data))
    declared["action.both"] = declared.pop("action")
    toys.edit_info(Path(data), features=declared)
    for index in range(2):
        toys.rename_column(Path(data), index, "action", "action.both")
    (note,) = data_notes(quick(data, tmp_path / "w"))
    assert "action = [action.both]" in note
    assert data_notes(quick(data, tmp_path / "w", action=("both",))) == ()
