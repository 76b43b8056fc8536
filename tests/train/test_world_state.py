"""State worlds from data whose true states are planar poses, and from data whose are not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train import toy
from worldsim.core import IMAGE, SIMULATOR, STATE, TRUE_STATE, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule
from worldsim.testing import check_world
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.worlds import load_world
from worldsim.worlds.state import StateWorld

PX = 8


def episode(seed: int, *, planar: bool = True, steps: int = 12) -> Episode:
    """A body that is steered, and a block that goes along and turns while the body is near; blank frames."""
    g = np.random.default_rng(seed)
    pose, spot = np.array([*g.uniform(-10, 10, 2), g.uniform(-3, 3)]), g.uniform(-18, 18, 2)
    poses, spots, actions = [pose], [spot], []
    for _ in range(steps):
        action = g.uniform(-3, 3, 2)
        near = np.hypot(*(spot - pose[:2])) < 11
        pose = pose + near * np.array([*action, 0.1 * action[0]])
        spot = np.clip(spot + action, -20, 20)
        poses.append(pose)
        spots.append(spot)
        actions.append(action)
    x, y, yaw = np.stack(poses).T
    last = (np.cos(yaw), np.sin(yaw)) if planar else (yaw, yaw)
    unknown = np.full(steps + 1, np.nan, np.float32)
    return Episode(
        frames={IMAGE: np.zeros((steps + 1, PX, PX, 3), np.uint8)},
        proprio=np.stack(spots).astype(np.float32),
        action=np.stack(actions).astype(np.float32),
        success=unknown,
        progress=unknown,
        reward=unknown[1:],
        true_state=np.stack([x, y, *last], axis=1).astype(np.float32),
        simulator=np.array([x[0], y[0], yaw[0]]),
        seed=seed,
    )


def write(path: Path, *, planar: bool = True, known: bool = True) -> str:
    dims = {"proprio_dim": 2, "true_state_dim": 4 if known else 0}
    spec = RecordSpec(
        action=toy.ACTION, cameras=(Camera(height=PX, width=PX),), has_success=False, has_progress=False, **dims
    )
    with episode_writer(path, spec) as writer:
        for i in range(30):
            one = episode(i, planar=planar)
            writer.write(one if known else dataclasses.replace(one, true_state=None))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("state") / "data")


def trained(data: str, out: Path, **changes: object) -> StateWorld:
    base = TrainWorld(
        data=data,
        out=str(out),
        num_starts=3,
        state=True,
        predictor=PredictorRecipe(
            options={"width": 16, "members": 2}, schedule=Schedule(steps=20, batch=32, lr=3e-3), unrolls=((2, 1.0),)
        ),
        heads=Schedule(steps=20, batch=32, lr=3e-3),
    )
    world = load_world(train_world(dataclasses.replace(base, **changes)))
    assert isinstance(world, StateWorld)
    return world


def parts(world: StateWorld) -> tuple[str, str]:
    return type(world.tokenizer).__name__, type(world.predictor).__name__


def test_planar_poses_are_moved_rigidly(data: str, tmp_path: Path) -> None:
    world = trained(data, tmp_path / "world")
    assert parts(world) == ("PosesTokenizer", "RigidPredictor")
    assert 15 < float(world.tokenizer.half_width) < 60
    check_world(world)


def test_its_starts_let_a_simulator_begin_the_same_episodes(data: str, tmp_path: Path) -> None:
    world = trained(data, tmp_path / "world")
    starts = world.starts(torch.arange(3))
    assert {STATE, TRUE_STATE, SIMULATOR} <= set(starts)
    first = episode(0)
    assert np.array_equal(starts[TRUE_STATE][0], first.true_state[0])
    assert np.array_equal(starts[SIMULATOR][0], first.simulator)


def test_the_plain_network_can_be_chosen(data: str, tmp_path: Path) -> None:
    world = trained(data, tmp_path / "world", tokenizer=TokenizerRecipe(name="identity"))
    assert parts(world) == ("IdentityTokenizer", "MLPPredictor")
    check_world(world)


def test_states_of_another_kind_get_the_plain_network(tmp_path: Path) -> None:
    data = write(tmp_path / "data", planar=False)
    assert parts(trained(data, tmp_path / "world")) == ("IdentityTokenizer", "MLPPredictor")
    with pytest.raises(InvalidInputError, match="cos and sin"):
        trained(data, tmp_path / "poses", tokenizer=TokenizerRecipe(name="poses"))


def test_data_without_true_states_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="state=false"):
        trained(write(tmp_path / "data", known=False), tmp_path / "world")


def test_a_tokenizer_of_pictures_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="auto, poses or identity"):
        trained(data, tmp_path / "world", tokenizer=TokenizerRecipe(name="haar_pca"))
