"""A robot of a few pixels is found beside a large thing, and proprioception that says nothing has no point to follow."""

import torch
from torch import Tensor

from worldsim.optimize import Schedule
from worldsim.tokenizers.structured.actor import Actor, ActorConfig
from worldsim.train.recipes.structured.anchors import place_anchors
from worldsim.train.recipes.structured.pictures import actor_loss, begin_tokenizer
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe

SIZE = 48


def scene(count: int = 400) -> tuple[FrameRows, Tensor]:
    """A dot of two pixels' radius where proprioception says, a square anywhere, and where the dots are, [N, 2] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    dot, square = torch.rand(2, count, 2, generator=generator) * 1.6 - 0.8
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    frames = torch.full((count, 3, SIZE, SIZE), 0.9)
    over = (line - square[:, :1]).abs()[:, None, :].maximum((line - square[:, 1:]).abs()[:, :, None])
    frames = torch.where((over < 0.25)[:, None], torch.tensor([0.5, 0.5, 0.6])[:, None, None], frames)
    near = (line - dot[:, :1]).square()[:, None, :] + (line - dot[:, 1:]).square()[:, :, None]
    frames = torch.where((near < (4 / SIZE) ** 2)[:, None], torch.tensor([0.2, 0.4, 0.9])[:, None, None], frames)
    noise = torch.randn(count, 2, generator=generator)
    proprio = torch.cat([3 * dot + 5, noise], 1)
    return FrameRows(frames_NCHW=(frames * 255).byte(), proprio_NP=proprio), dot


def test_a_small_robot_is_found_and_drawn_beside_a_large_thing() -> None:
    rows, dot = scene()
    tokenizer = begin_tokenizer(rows, StructuredRecipe(), seed=0)
    p_NP = tokenizer.actor.features.normalize(rows.proprio_NP)
    with torch.no_grad():
        assert (tokenizer.actor.anchors(p_NP)[:, 0] - dot).norm(dim=1).median() < 2 / SIZE  # a pixel
        _, alpha = tokenizer.actor(p_NP[:20])
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    mass = alpha[:, 0] * (alpha[:, 0] > 0.5)
    x = (mass.sum(1) * line).sum(1) / mass.sum((1, 2))
    assert (x - dot[:20, 0]).abs().max() < 4 / SIZE
    schedule = Schedule(steps=40, batch=12, lr=3e-3)
    loss_at = actor_loss(tokenizer, rows, schedule, seed=0)
    optimizer = torch.optim.Adam(tokenizer.actor.parameters(), lr=3e-3)
    for step in range(schedule.steps):
        loss, _ = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    at = ((dot + 1) * SIZE / 2).long()
    with torch.no_grad():
        drawn = tokenizer.actor.scene(p_NP)[torch.arange(len(dot)), :, at[:, 1], at[:, 0]]
    assert (drawn.mean(0) - torch.tensor([0.2, 0.4, 0.9])).abs().max() < 0.3


def test_nothing_is_followed_where_proprioception_says_nothing() -> None:
    rows, _ = scene()
    blind = FrameRows(frames_NCHW=rows.frames_NCHW, proprio_NP=rows.proprio_NP[:, 2:])
    actor = Actor(ActorConfig(image_size=(SIZE, SIZE), proprio_dim=2))
    actor.begin(blind.frames(slice(None)), blind.proprio_NP)
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    assert len(place_anchors(actor, blind, seed=0).share_G) == 0
    assert all(torch.equal(value, before[name]) for name, value in actor.state_dict().items())


def test_links_of_an_arm_of_four_joints_are_followed() -> None:
    """80 features: points that move too fast leave the frame at once, and none is found."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(600, 4, generator=generator) * torch.tensor([1.2, 1.4, 1.6, 1.8])
    ends = 0.4 * torch.stack([angle.cumsum(1).cos(), angle.cumsum(1).sin()], -1).cumsum(1) - torch.tensor([0.3, 0.5])
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    frames = torch.full((600, 3, SIZE, SIZE), 0.9)
    for end in ends.unbind(1):
        near = (line - end[:, :1]).square()[:, None, :] + (line - end[:, 1:]).square()[:, :, None]
        frames = torch.where((near < 0.1**2)[:, None], torch.tensor([0.2, 0.4, 0.9])[:, None, None], frames)
    actor = Actor(ActorConfig(image_size=(SIZE, SIZE), proprio_dim=4, joints=(0, 1, 2, 3)))
    rows = FrameRows(frames_NCHW=(frames * 255).byte(), proprio_NP=angle)
    actor.begin(rows.frames(slice(None)), angle)
    points = place_anchors(actor, rows, seed=0)
    assert len(points.share_G) >= 2
    with torch.no_grad():
        at = actor.anchors(actor.features.normalize(angle))[:, : len(points.share_G)]
    away = torch.cdist(at, ends).median(0).values.min(1).values  # of each point to the nearest link's end
    assert float(away.max()) < 0.15
