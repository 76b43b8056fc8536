"""The code of a canvas is read through what covers it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.noise import seeded
from worldsim.tokenizers.structured.actor import Actor, ActorConfig, solve_code

SIZE = 48


def lit() -> tuple[Tensor, Tensor]:
    """A canvas [3, H, W], and two pictures [2, 3, H, W] in which it differs: light from the left, and a greener table."""
    across = torch.linspace(0, 1, SIZE)
    light = (across * 0.15).expand(3, SIZE, SIZE)
    green = torch.zeros(3, SIZE, SIZE)
    green[1, SIZE // 2 :] = 0.1
    return torch.full((3, SIZE, SIZE), 0.5), torch.stack([light, green])


def covered(frames_NCHW: Tensor, share: float, *, seed: int) -> Tensor:
    """The same behind a square of another colour in each, which covers a share of it."""
    side = round(SIZE * share**0.5)
    generator = torch.Generator().manual_seed(seed)
    made = frames_NCHW.clone()
    for frame in made:
        x, y = torch.randint(0, SIZE - side + 1, (2,), generator=generator).tolist()
        frame[:, y : y + side, x : x + side] = torch.rand(3, 1, 1, generator=generator)
    return made


def test_the_code_is_exact_where_nothing_covers_it_and_near_where_a_third_is_covered() -> None:
    base, basis = lit()
    code = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    frames = base + torch.einsum("ns,schw->nchw", code, basis)
    torch.testing.assert_close(solve_code(frames, base, basis), code, atol=2e-2, rtol=0)
    off = (solve_code(covered(frames, 0.33, seed=1), base, basis) - code).abs()
    assert off.median() < 0.1 and off.quantile(0.9) < 0.5


def test_an_actor_draws_the_canvas_of_the_code_and_describes_frames_by_it() -> None:
    base, basis = lit()
    actor = Actor(ActorConfig(image_size=(SIZE, SIZE), proprio_dim=2, canvas_dim=2))
    proprio = torch.randn(30, 2) * 3 + 1
    actor.begin(base.repeat(30, 1, 1, 1), proprio, basis)
    code = torch.randn(30, 2)
    frames = base + torch.einsum("ns,schw->nchw", code, basis)
    p_NP = actor.describe(frames, proprio)
    torch.testing.assert_close(p_NP[:, :2], actor.features.normalize(proprio))
    torch.testing.assert_close(actor.canvas(p_NP), frames, atol=1e-2, rtol=0)
    assert actor.light is not None
    with torch.no_grad():
        actor.light.weight.normal_()
    color, _ = actor(p_NP)
    other, _ = actor(torch.cat([p_NP[:, :2], -p_NP[:, 2:]], 1))
    assert (color - other).abs().max() > 1e-3  # the robot stands in the same light
    torch.testing.assert_close(actor.anchors(p_NP)[..., 0].shape, actor.anchors(p_NP)[..., 1].shape)


def test_a_joint_that_went_round_is_drawn_where_it_was() -> None:
    torch.manual_seed(0)
    actor = Actor(ActorConfig(image_size=(SIZE, SIZE), proprio_dim=3, joints=(0, 2)))
    angles = torch.randn(50, 3)
    actor.begin(torch.rand(4, 3, SIZE, SIZE), angles)
    turned = angles + 2 * torch.pi * torch.tensor([2.0, 0.0, -1.0])
    for draw in (actor, actor.anchors):
        now, later = (draw(actor.features.normalize(p)) for p in (angles, turned))
        torch.testing.assert_close(now, later, atol=1e-4, rtol=0)
    moved = actor.anchors(actor.features.normalize(angles + torch.tensor([0.0, 1.0, 0.0])))
    assert (
        moved - actor.anchors(actor.features.normalize(angles))
    ).abs().max() > 1e-3  # what is no joint counts as it is


def test_a_drawing_is_what_its_weights_say() -> None:
    """As it is written in full: every cell's view of the anchors and the enlarged coarse picture, mixed by one convolution."""
    with seeded(0):
        actor = Actor(ActorConfig(image_size=(40, 48), proprio_dim=3, anchors=4, width=8)).requires_grad_(False)
        p = torch.randn(2, 3)
    f, hidden = actor._hidden(p)
    at = actor._anchors(f, hidden)[..., None, None]
    h, w = actor.grid
    xs, ys = (torch.arange(w) * 2 + 1) / w - 1, (torch.arange(h) * 2 + 1) / h - 1
    reach = actor.reach_J.exp()[:, None, None]
    dx = ((xs - at[:, :, 0]) / reach).expand(-1, -1, h, w)
    dy = ((ys[:, None] - at[:, :, 1]) / reach).expand(-1, -1, h, w)
    wide = 1 / (1 + (dx**2 + dy**2) / 4)
    far = F.interpolate(actor._far(hidden), size=(h, w), mode="bilinear", align_corners=False)
    known = torch.cat([torch.exp(-(dx**2 + dy**2) / 2), wide, dx * wide, dy * wide, far], 1)
    scale, shift = actor.film(hidden)[..., None, None].chunk(2, 1)
    x = F.silu(actor.entry(known) * (1 + scale) + shift)
    rgba = torch.sigmoid(2 * F.pixel_shuffle(actor.paint(x + F.silu(actor.body(x))), actor.factor))[..., :40, :48]
    color, alpha = actor(p)
    assert torch.allclose(color, rgba[:, :3], atol=1e-5) and torch.allclose(alpha, rgba[:, 3:], atol=1e-5)
