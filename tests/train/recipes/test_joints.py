"""Joint angles are found among proprioception from pictures of an arm, in radians and degrees, and places are none."""

import math

import pytest
import torch
from torch import Tensor

from tests.train import toy
from worldsim.data.lerobot.join import open_datasets
from worldsim.tokenizers.structured.actor import ActorConfig, ProprioFeatures
from worldsim.train.recipes.structured.family import begin_pictures
from worldsim.train.recipes.structured.joints import find_joints, find_velocities
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe
from worldsim.train.recipes.world import TrainWorld

SIZE = 24


def arm(count: int, *, seed: int, reach_rad: float = math.pi) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of two links, their angles [N, 2] in rad and tips [N, 2]."""
    angle = (torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach_rad
    bend = angle.sum(1)
    elbow = torch.stack([angle[:, 0].cos(), angle[:, 0].sin()], 1) * 0.4
    tip = elbow + torch.stack([bend.cos(), bend.sin()], 1) * 0.4
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    blob = torch.zeros(count, SIZE, SIZE)
    for share in (0.5, 1.0):
        for begin, end in ((torch.zeros_like(elbow), elbow), (elbow, tip)):
            at = begin + share * (end - begin)
            square = (axis - at[:, :1, None]).square() + (axis[:, None] - at[:, 1:, None]).square()
            blob = torch.maximum(blob, torch.exp(-square / 0.03))
    return (blob * 255).byte()[:, None].expand(-1, 3, -1, -1), angle, tip


def rows(frames: Tensor, *proprio: Tensor) -> FrameRows:
    return FrameRows(frames_NCHW=frames, proprio_NP=torch.cat(proprio, 1))


@pytest.mark.parametrize("degrees", [False, True])
def test_angles_are_found_among_other_numbers(degrees: bool) -> None:
    parts = []
    for seed, count in enumerate((900, 200)):
        frames, angle, _ = arm(count, seed=seed)
        speed = torch.randn(count, 2, generator=torch.Generator().manual_seed(9 + seed)) * 4
        parts.append(rows(frames, speed, angle.rad2deg() if degrees else angle))
    found = find_joints(*parts)
    assert (found.numbers, found.degrees) == ((2, 3), degrees)
    assert found.explained > found.without + 0.2
    assert ("degrees" in found.said()) == degrees


def test_places_are_no_angles() -> None:
    parts = []
    for seed, count in enumerate((900, 200)):
        frames, _, tip_m = arm(count, seed=seed, reach_rad=0.6)
        parts.append(rows(frames, 0.3 * tip_m))
    found = find_joints(*parts)
    assert found.numbers == ()
    assert "no number" in found.said()


def test_velocities_are_no_angles() -> None:
    parts = []
    for seed, count in enumerate((900, 200)):
        frames, angle, _ = arm(count, seed=seed)  # the second link turns with the first one's speed
        later = torch.stack([angle[:, 0] + 0.1 * angle[:, 1], angle[:, 1].roll(1)], 1)
        parts.append(FrameRows(frames_NCHW=frames, proprio_NP=angle, later_NP=later))
    assert find_velocities(parts[0]).tolist() == [False, True]
    assert find_joints(*parts).numbers == (0,)
    assert find_joints(*(rows(part.frames_NCHW, part.proprio_NP) for part in parts)).numbers == (0, 1)


def test_few_rows_and_no_proprioception_are_borne() -> None:
    frames, angle, _ = arm(12, seed=0)
    assert find_joints(rows(frames, angle), rows(frames, angle)).numbers == ()
    assert find_joints(rows(frames, angle[:, :0]), rows(frames, angle[:, :0])).numbers == ()
    assert find_joints(rows(frames, 0 * angle), rows(frames, 0 * angle)).numbers == ()


def test_features_of_degrees_are_those_of_radians() -> None:
    _, angle, _ = arm(50, seed=0)
    made = []
    for degrees in (False, True):
        proprio = angle.rad2deg() if degrees else angle
        features = ProprioFeatures(ActorConfig(image_size=(24, 24), proprio_dim=2, joints=(0, 1), degrees=degrees))
        features.measure(proprio)
        made.append(features(features.normalize(proprio)))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)


def test_what_is_given_is_not_looked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = toy.write(tmp_path_factory.mktemp("joints") / "data", episodes=6)
    for joints, found in (("auto", True), ((0,), False)):
        config = TrainWorld(data=str(data), out="unused", structured=StructuredRecipe(joints=joints, frames=100))
        begun = begin_pictures(open_datasets(str(data)), config)
        assert (begun.joints is not None) == found
        expected = begun.joints.numbers if begun.joints is not None else joints
        assert all(one.tokenizer.config.joints == expected for one in begun.cameras.values())
