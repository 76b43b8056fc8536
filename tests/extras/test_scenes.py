"""Environments of other packages for real: each is recorded, and its episodes are repeated in it as the true environment.

Selected by `pytest -m extras` in an environment of its own, since the extra `scenes` pins MuJoCo.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.core import IMAGE, SIMULATOR, Observation, WorldSpec
from worldsim.data.collect.random_exploration import Behaviour, Wander
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.collect.success import success_rule
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.evaluate.environments import MakeEnv
from worldsim.evaluate.loaders import SimulatorArena
from worldsim.evaluate.true_env import TrueEnv
from worldsim.rollout.wrappers import WrappedWorld
from worldsim.spaces import action_spec_of

pytestmark = [
    pytest.mark.extras,
    pytest.mark.filterwarnings("default"),  # of packages that we do not write
]
STEPS, SIZE = 6, 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A task, how many numbers its actions and its proprioception have, and its rule of success where it tells none."""

    env: str
    action: int
    proprio: int
    success: str = ""


SCENES = {
    "pusht": Scene(env="gym_pusht:gym_pusht/PushT-v0", action=2, proprio=5, success="info.coverage > 0.9"),
    "fetch": Scene(env="gymnasium_robotics:FetchReach-v4", action=4, proprio=16),
    "reacher": Scene(env="Reacher-v5", action=2, proprio=10, success="info.reward_dist > -0.05"),
    "dm_control": Scene(env="shimmy:dm_control/reacher-easy-v0", action=2, proprio=6, success="reward > 0.5"),
    "mountain car": Scene(env="MountainCar-v0", action=3, proprio=2, success="observation.0 >= 0.5"),
}


class Lender(WrappedWorld):
    """Stands for a learned world: the spec and the starts of a dataset."""

    def __init__(self, dataset: Dataset) -> None:
        first = dataset.episode(0)
        self.table = dataset.starts(range(dataset.episodes))
        self._spec = WorldSpec(
            action=dataset.action_spec,
            cameras=dataset.cameras,
            latent_shape=(1, 1, 1),
            proprio_dim=first.proprio.shape[1],
            horizon=STEPS,
        )

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    @property
    def num_starts(self) -> int:
        return len(self.table)

    def starts(self, indices: torch.Tensor) -> Observation:
        return self.table.select(indices)


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_recorded_and_repeated_as_the_true_environment(tmp_path: Path, name: str) -> None:
    scene = SCENES[name]
    make = MakeEnv(scene.env)
    options = RecordingOptions(
        image_px=SIZE, steps=STEPS, success=success_rule(scene.success) if scene.success else None
    )
    mixture = (Behaviour(name="wander", policy=Wander(action_spec_of(make()))),)
    collect(make, mixture, episodes=2, out=tmp_path / "d", options=options)
    dataset = open_dataset(tmp_path / "d")
    episodes = [dataset.episode(i) for i in range(2)]
    for e in episodes:
        assert e.frames[IMAGE].shape == (STEPS + 1, SIZE, SIZE, 3) and e.frames[IMAGE].std() > 1
        assert (e.proprio.shape, e.steps) == ((STEPS + 1, scene.proprio), STEPS)
        assert np.isfinite(e.success).all()
    assert dataset.action_spec.encoded_dim == scene.action
    assert any((np.diff(e.frames[IMAGE].astype(int), axis=0) != 0).any() for e in episodes)  # buffers are copied

    arena = SimulatorArena(env=TrueEnv(env=scene.env, success=scene.success))(Lender(dataset))
    first = arena.starts(torch.arange(2))
    assert SIMULATOR in first
    actions = torch.from_numpy(np.stack([e.action for e in episodes]))
    _, rollout = arena.rollout(arena.reset(first, torch.arange(2)), actions)
    frames = arena.decode(rollout.latent)
    for row, e in enumerate(episodes):
        np.testing.assert_allclose(rollout.proprio[row], e.proprio[1:], atol=1e-5)
        np.testing.assert_array_equal(rollout.success[row], e.success[1:])
        assert np.abs(frames[row].numpy().astype(int) - e.frames[IMAGE][1:]).mean() < 0.5
