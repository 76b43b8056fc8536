import dataclasses
from pathlib import Path

import pytest
import torch

from tests.train import toy
from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule
from worldsim.testing import check_world
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.worlds import load_world


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
    assert manifest["figures"]["psnr_db_h1"] > manifest["figures"]["copy_psnr_db_h1"]
    assert set(manifest["core_seconds"]) == {"tokenizer", "predictor", "heads"}


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
