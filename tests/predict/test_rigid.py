import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldsim.data.windows import Clip
from worldsim.predict.base import History
from worldsim.predict.rigid import RigidConfig, RigidPredictor

ORDERS = (1, 0)


@pytest.fixture(scope="module")
def predictor() -> RigidPredictor:
    torch.manual_seed(0)
    made = RigidPredictor(
        RigidConfig(latent_shape=(8, 1, 1), orders=ORDERS, proprio_dim=2, action_dim=2, members=2, width=32, depth=2)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def poses(batch: int, time: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(batch, time, 2, 2, generator=generator) - 0.5
    angle = torch.rand(batch, time, 2, generator=generator) * 2 * math.pi
    angle[..., 1] = 0
    return torch.cat([place, angle.cos()[..., None], angle.sin()[..., None]], dim=-1)


def turn(z_BTLP: Tensor, angle: float, shift: tuple[float, float]) -> Tensor:
    """Move all layers; a round layer keeps its angle channels."""
    c, s = math.cos(angle), math.sin(angle)
    x = c * z_BTLP[..., 0] - s * z_BTLP[..., 1] + shift[0]
    y = s * z_BTLP[..., 0] + c * z_BTLP[..., 1] + shift[1]
    cos = torch.where(torch.tensor(ORDERS) > 0, c * z_BTLP[..., 2] - s * z_BTLP[..., 3], z_BTLP[..., 2])
    sin = torch.where(torch.tensor(ORDERS) > 0, s * z_BTLP[..., 2] + c * z_BTLP[..., 3], z_BTLP[..., 3])
    return torch.stack([x, y, cos, sin], dim=-1)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-3, 3), dx=st.floats(-0.5, 0.5), dy=st.floats(-0.5, 0.5))
def test_contact_does_not_depend_on_place_or_angle(
    predictor: RigidPredictor, angle: float, dx: float, dy: float
) -> None:
    z = poses(4, 2, seed=1)
    predictor = copy.deepcopy(predictor)
    predictor.motion_scale_LO.fill_(1.0)
    for weight in predictor.free.weight:
        weight.data.zero_()
    for bias in predictor.free.bias:
        bias.data.zero_()
    action = torch.zeros(4, 2, 2)
    both = [predictor.motion(p[None].expand(2, -1, -1, -1, -1), action) for p in (z, turn(z, angle, (dx, dy)))]
    assert torch.allclose(both[0][:, :, 0], both[1][:, :, 0], atol=2e-4)


def test_prediction_does_not_depend_on_the_batch(predictor: RigidPredictor) -> None:
    z = poses(6, 2, seed=2).flatten(2)[..., None, None]
    past = History(z=z, proprio=torch.zeros(6, 2, 2), action=torch.rand(6, 2, 2))
    together, spread = predictor.predict(past)
    alone = torch.cat([predictor.predict(past.rows([i]))[0] for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert bool((spread >= 0).all())
    assert torch.allclose(together[:, 2, 0, 0] ** 2 + together[:, 3, 0, 0] ** 2, torch.ones(6), atol=1e-5)


def test_training_learns_a_push() -> None:
    """Layer 1 moves by the action; layer 0 is carried along when they are near."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)
    place = torch.rand(512, 2, 2, generator=generator) - 0.5
    action = torch.rand(512, 6, 2, generator=generator) * 2 - 1
    frames = []
    for t in range(6):
        angle = torch.zeros(512, 2)
        frames.append(torch.cat([place, angle.cos()[..., None], angle.sin()[..., None]], dim=-1).flatten(1))
        near = ((place[:, 0] - place[:, 1]).norm(dim=1) < 0.3).float()[:, None]
        place = torch.stack([place[:, 0] + near * action[:, t] * 0.05, place[:, 1] + action[:, t] * 0.05], dim=1)
    z = torch.stack(frames, dim=1)[..., None, None]
    nothing = torch.zeros(512, 6)
    clip = Clip(
        z_BTCHW=z,
        proprio_BTP=torch.zeros(512, 6, 2),
        action_BTA=action,
        progress_BT=nothing,
        success_BT=nothing,
        start_BCHW=z[:, 0],
    )
    config = RigidConfig(latent_shape=(8, 1, 1), orders=ORDERS, proprio_dim=2, action_dim=2, members=2, width=48)
    predictor = RigidPredictor(config)
    predictor.calibrate(clip)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    errors = []
    for _ in range(120):
        loss, figures = predictor.loss(clip, 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(figures["error_px"])
    assert errors[-1] < 0.4 * errors[0]
