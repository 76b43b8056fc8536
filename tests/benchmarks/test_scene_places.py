"""Outcomes read off places of structured worlds, and how much of its goal a T covers."""

import math

import pytest
import torch

from benchmarks.any_plan import covered
from benchmarks.scene_base import ANGLE, PLACE
from benchmarks.scene_places import Fit, PlaceHeads, _fit
from worldsim.tokenizers.structured.state import SceneLayout, SceneState
from worldsim.worlds.heads import Heads, HeadsConfig

LAYOUT = SceneLayout(proprio_dim=2, things=(1,), code_dim=3)


def latent(x: float, y: float) -> torch.Tensor:
    """A latent [1, D, 1, 1] whose thing is at (x, y)."""
    pose = torch.tensor([[[x, y, 1.0, 0.0]]])
    state = SceneState(
        p=torch.zeros(1, 2), canvas=torch.zeros(1, 0), pose=pose, seen=torch.ones(1, 1), code=torch.zeros(1, 1, 3)
    )
    return LAYOUT.join(state)[..., None, None]


def heads() -> PlaceHeads:
    """Heads in whose plane places are those of the frame, in tenths of a metre, and y is turned round."""
    map_52 = torch.tensor([[0.1, 0.0], [0.0, -0.1], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    own = Heads(HeadsConfig(latent_shape=(LAYOUT.size, 1, 1), proprio_dim=2, action_dim=1))
    fit = Fit(map_52=map_52, tilt_2=torch.zeros(2), sense=1.0, turn_rad=0.0, error=0.0, error_rad=0.0)
    return PlaceHeads(own, LAYOUT, scene="fetch_push", fit=fit)


def test_progress_is_how_far_it_went_and_success_that_it_arrived() -> None:
    made, start = heads(), latent(0.3, 0.5)
    for gone, progress, solved in (
        (0.0, 0.0, 0.0),
        (0.5, 0.5, 0.0),
        (0.98, 0.98, 0.0),
        (1.1, 1.0, 1.0),
        (-0.4, 0.0, 0.0),
    ):
        now = latent(0.7, 0.5 - gone)
        _, how_far, success = made(now, start, torch.zeros(1, 2), torch.zeros(1, 1))
        assert float(how_far.sigmoid()) == pytest.approx(progress, abs=1e-3)
        assert float((success.sigmoid() > 0.5).float()) == solved
        assert float((made.outcome(now, start)[1] > 0.5).float()) == solved


def test_a_pose_is_fitted_though_the_camera_is_oblique_angles_turn_round_and_some_places_are_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(400, 2, generator=generator) - 0.5
    angle = (torch.rand(400, generator=generator) - 0.5) * 2 * math.pi
    depth = 1 + 0.2 * place[:, 1]
    xy = torch.stack([place[:, 0] / depth, 0.6 * place[:, 1] / depth], 1)
    said = 0.7 - angle
    pose = torch.cat([xy, said.cos()[:, None], said.sin()[:, None]], 1)
    pose[:20, :2] += 0.5
    true = torch.zeros(400, 9, dtype=torch.float64)
    true[:, PLACE] = torch.cat([place, torch.zeros(400, 1)], 1).double()
    true[:, ANGLE] = torch.stack([angle.cos(), angle.sin()], 1).double()
    fit = _fit(pose, true)
    off = (fit.place(pose) - place).norm(dim=1)[20:]
    assert float(off.max()) < 1e-4
    assert fit.sense == -1.0
    assert fit.turn_rad == pytest.approx(0.7, abs=1e-4)
    assert fit.error_rad < 1e-4


def test_a_t_covers_its_goal_where_it_lies_and_not_elsewhere() -> None:
    goal, turn = torch.tensor([256.0, 256.0]), math.pi / 4
    places = torch.stack([goal, goal + torch.tensor([15.0, 0.0]), goal + 300, goal])
    angles = torch.tensor([turn, turn, turn, turn + math.pi])
    share = covered(places, angles)
    assert float(share[0]) == 1
    assert 0.3 < float(share[1]) < 0.9
    assert float(share[2]) == 0
    assert float(share[3]) < 0.3


def test_a_world_reads_the_same_whether_or_not_proprioception_is_asked_for() -> None:
    reader, z = heads(), torch.randn(2, 6, LAYOUT.size, 1, 1)
    z[1] = z[0] + 0.02 * torch.randn_like(z[0])
    _, progress, success = reader(
        z[1], z[0], torch.zeros(6, reader.config.proprio_dim), torch.zeros(6, reader.config.action_dim)
    )
    torch.testing.assert_close(torch.stack(reader.outcome(z[1], z[0])), torch.stack([progress, success]).sigmoid())
