import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.storage import to_json
from worldsim.tokenizers import build_tokenizer, tokenizer_name
from worldsim.tokenizers.base import ProprioTokenizer, Tokenizer
from worldsim.tokenizers.cameras import encode_frames
from worldsim.tokenizers.structured.actor import Actor, ActorConfig
from worldsim.tokenizers.structured.compose import place, windows
from worldsim.tokenizers.structured.looks import KeptLooks
from worldsim.tokenizers.structured.state import SceneLayout, SceneState
from worldsim.tokenizers.structured.things import ThingEncoder, ThingsConfig
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer

CONFIG = StructuredConfig(image_size=(36, 50), proprio_dim=3, things=2, joints=(0, 1), kept=16)


def made(config: StructuredConfig = CONFIG) -> StructuredTokenizer:
    torch.manual_seed(0)
    tokenizer = StructuredTokenizer(config)
    tokenizer.actor.begin(torch.rand(9, 3, *config.image_size), torch.randn(9, config.proprio_dim))
    tokenizer.full_K.fill_(0.5)
    tokenizer.kept.code_KQd.normal_()
    return tokenizer.eval().requires_grad_(False)


def seen(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(count, 3, 1, *CONFIG.image_size, generator=generator) * 2 - 1
    return frames, torch.randn(count, 1, 3, generator=generator)


def test_latents_are_taken_apart_and_joined() -> None:
    layout = SceneLayout(proprio_dim=3, things=(2,), code_dim=4)
    z = torch.randn(5, 7, layout.size)
    parts = layout.split(z)
    assert parts.pose.shape == (5, 7, 2, 4) and parts.seen.shape == (5, 7, 2) and parts.code.shape == (5, 7, 2, 4)
    assert torch.equal(layout.join(parts), z)


def test_windows_of_a_picture_are_those_of_each_place_alone() -> None:
    pictures, xy = torch.rand(2, 3, 20, 30), torch.rand(2, 4, 2) * 2 - 1
    cut = windows(pictures, xy, 9.0, 8)
    assert cut.shape == (2, 4, 3, 8, 8)
    for k in range(4):
        assert torch.allclose(cut[:, k], windows(pictures, xy[:, k : k + 1], 9.0, 8)[:, 0], atol=1e-6)


def test_windows_show_what_was_placed_there() -> None:
    sprite = torch.rand(3, 4, 12, 12)
    xy = torch.tensor([[0.1, -0.3], [-0.4, 0.2], [0.0, 0.0]])
    placed = place(sprite, xy, 12.0, (48, 40))
    assert placed.shape == (3, 4, 48, 40)
    middle = windows(placed, xy[:, None], 12.0, 12)[:, 0, ..., 3:-3, 3:-3]
    assert (middle - sprite[..., 3:-3, 3:-3]).abs().mean() < 0.1  # resampled twice
    outside = placed[2].clone()
    outside[:, 17:31, 13:27] = 0
    assert not outside.any()


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (96, 64), (200, 130)])
def test_robots_are_drawn_at_any_size_and_aspect(size: tuple[int, int]) -> None:
    color, alpha = Actor(ActorConfig(image_size=size, proprio_dim=3))(torch.randn(2, 3))
    assert color.shape == (2, 3, *size) and alpha.shape == (2, 1, *size)
    assert bool(((alpha >= 0) & (alpha <= 1)).all())


def test_points_of_an_arm_are_linear_in_products_of_joints() -> None:
    actor = Actor(ActorConfig(image_size=(32, 32), proprio_dim=3, joints=(0, 2)))
    q = torch.rand(400, 3) * 6 - 3
    tip = torch.stack([q[:, 0].cos() + (q[:, 0] + q[:, 2]).cos(), q[:, 0].sin() + (q[:, 0] + q[:, 2]).sin()], 1)
    actor.features.measure(q)
    rows = torch.cat([actor.features(actor.features.normalize(q)), torch.ones(400, 1)], 1)
    assert (rows @ torch.linalg.lstsq(rows, tip).solution - tip).abs().max() < 1e-3


def test_what_looks_as_a_thing_never_looked_is_not_seen_as_it() -> None:
    tokenizer = made()
    tokenizer.full_K.fill_(1e-6)  # whatever takes any error away is seen
    x, proprio = seen(40)
    frames, p = (x[:, :, 0] + 1) / 2, tokenizer.actor.features.normalize(proprio[:, 0])
    usual = tokenizer.encode_rows(frames, p).seen
    tokenizer.kept.mean_Kd[0], tokenizer.kept.whiten_Kdd[0] = 9.0, torch.eye(4)  # codes reach to 2
    strange = tokenizer.encode_rows(frames, p).seen
    assert bool((usual[:, 0] > 0).any()) and not bool(strange[:, 0].any())
    assert torch.equal(strange[:, 1], usual[:, 1])


def test_it_encodes_with_proprioception_only() -> None:
    tokenizer, (x, proprio) = made(), seen()
    assert isinstance(tokenizer, ProprioTokenizer) and not isinstance(tokenizer, Tokenizer)
    z = encode_frames(tokenizer, {"observation.image": x}, proprio)
    assert z.shape == (5, *tokenizer.latent_shape[:1], 1, 1, 1)
    assert torch.allclose(tokenizer.proprio(z[:, :, 0]), proprio[:, 0], atol=1e-5)
    assert tokenizer.decode(z).shape == x.shape
    with pytest.raises(InvalidInputError, match="proprioception"):
        encode_frames(tokenizer, {"observation.image": x})


def test_rows_of_a_batch_do_not_mix() -> None:
    tokenizer, (x, proprio) = made(), seen()
    z = tokenizer.encode_with(x, proprio)
    assert torch.allclose(tokenizer.encode_with(x[2:3], proprio[2:3]), z[2:3], atol=1e-5)
    assert torch.allclose(tokenizer.decode(z[2:3]), tokenizer.decode(z)[2:3], atol=1e-5)


def test_it_is_built_again_from_its_config() -> None:
    tokenizer, (x, proprio) = made(dataclasses.replace(CONFIG, orders=(1, 0))), seen()
    again = build_tokenizer(tokenizer_name(tokenizer), to_json(tokenizer.config))
    again.load_state_dict(tokenizer.state_dict())  # type: ignore[attr-defined]
    assert isinstance(again, StructuredTokenizer)
    assert torch.equal(again.encode_with(x, proprio), tokenizer.encode_with(x, proprio))


def test_a_robot_alone_needs_no_things() -> None:
    tokenizer, (x, proprio) = made(dataclasses.replace(CONFIG, things=0)), seen()
    z = tokenizer.encode_with(x, proprio)
    assert z.shape[1] == 3
    assert tokenizer.decode(z).shape == x.shape


def test_a_thing_is_drawn_where_it_is_and_in_front_or_behind() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, things=1, joints=()))
    tokenizer.actor.base_CHW.fill_(0.5)
    assert tokenizer.painter is not None
    with torch.no_grad():
        tokenizer.actor.paint.bias.fill_(9.0)  # the robot hides all, in white
        tokenizer.actor.paint.weight.zero_()
    pose = torch.tensor([[[0.3, -0.2, 1.0, 0.0]]])
    state = SceneState(
        p=torch.zeros(1, 3), canvas=torch.zeros(1, 0), pose=pose, seen=torch.ones(1, 1), code=torch.zeros(1, 1, 4)
    )
    for order, hidden in ((-30.0, True), (30.0, False)):
        torch.nn.init.constant_(tokenizer.painter.front[-1].bias, order)  # type: ignore[arg-type]
        drawn = tokenizer.draw(state)[0]
        assert bool((drawn > 0.99).all()) is hidden
    spot = (1 - drawn).mean(0)  # the centre of what the thing covers, in pixels from the frame's
    ys, xs = torch.meshgrid(torch.arange(36) - 17.5, torch.arange(50) - 24.5, indexing="ij")
    assert abs(float((spot * xs).sum() / spot.sum()) - 0.3 * 18) < 0.7
    assert abs(float((spot * ys).sum() / spot.sum()) + 0.2 * 18) < 0.7


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="orders"):
        StructuredTokenizer(dataclasses.replace(CONFIG, orders=(1,)))
    with pytest.raises(InvalidInputError, match="joints"):
        StructuredTokenizer(dataclasses.replace(CONFIG, joints=(3,)))


def test_looks_of_a_thing_that_was_never_seen_can_be_kept() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, things=1))
    figures = tokenizer.keep_looks(torch.zeros(7, 1, 2), torch.randn(7, 1, 4), torch.full((7, 1), -1.0))
    assert figures["thing_0_code_std"] == 0
    assert len(tokenizer.orders) == 1


class Found(torch.nn.Module):
    """An encoder that finds things at given places, of given looks."""

    def __init__(self, xy_NK2: Tensor, code_NKd: Tensor) -> None:
        super().__init__()
        self.found = xy_NK2, code_NKd

    def forward(self, *_: Tensor) -> tuple[Tensor, Tensor]:
        return self.found


def test_two_at_one_place_do_not_both_count() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, kinds=(0, 0), joints=()))
    tokenizer.actor.base_CHW.fill_(0.8)
    with torch.no_grad():
        tokenizer.actor.paint.bias.fill_(-9.0)  # no robot
        tokenizer.actor.paint.weight.zero_()
    p, code = torch.zeros(1, 3), torch.zeros(1, 2, 4)
    color, alpha = tokenizer.actor(p)
    at = torch.tensor([[[-0.4, 0.0], [0.4, 0.0]]])
    tokenizer.full_K.fill_(1e6)  # far from full

    def seen_in(shown: Tensor, places: Tensor) -> Tensor:
        frame = tokenizer.compose(p, color, alpha, at, code, shown)
        tokenizer.encoder = Found(places, code)
        return tokenizer.encode_rows(frame, p).seen

    apart = seen_in(torch.ones(1, 2), at)
    assert float(apart.min()) > 0.9 * float(apart.max()) > 0
    both = seen_in(torch.tensor([[1.0, 0.0]]), at[:, :1].expand(1, 2, 2))
    assert float(both.min()) < 0.2 * float(both.max())


def test_some_things_are_kept_as_they_are() -> None:
    config = dataclasses.replace(CONFIG, things=4, kinds=(0, 1, 1, 2))
    tokenizer, (x, proprio) = made(dataclasses.replace(config, orders=(0, 1, 1, 2))), seen()
    fewer = tokenizer.keep_things([1, 2, 3])
    assert fewer.config.kind_of == (0, 0, 1) and fewer.orders == (1, 1, 2)
    scores = torch.randn(2, 3, 9, 12)
    assert tokenizer.encoder is not None and fewer.encoder is not None
    assert torch.equal(fewer.encoder.places(scores[:, 1:]), tokenizer.encoder.places(scores)[:, 1:])
    p = tokenizer.actor.features.normalize(proprio[:, 0])
    state = tokenizer.encode_rows((x[:, :, 0] + 1) / 2, p)
    state = dataclasses.replace(state, seen=torch.ones_like(state.seen))
    rest = dataclasses.replace(state, pose=state.pose[:, 1:], seen=state.seen[:, 1:], code=state.code[:, 1:])
    xy, code, tint = tokenizer.looks(state)
    assert all(
        torch.allclose(mine, every[:, 1:]) for mine, every in zip(fewer.looks(rest), (xy, code, tint), strict=True)
    )
    drawn = tokenizer.compose(p, *tokenizer.actor(p), xy, code, torch.tensor([[0.0, 1, 1, 1]]), tint)
    assert torch.allclose(fewer.draw(rest), drawn, atol=1e-5)
    assert tokenizer.keep_things([]).latent_shape == (3, 1, 1)


def test_kinds_that_do_not_fit_are_refused() -> None:
    for kinds in ((0,), (1, 0), (0, 2)):
        with pytest.raises(InvalidInputError, match="Kinds"):
            StructuredTokenizer(dataclasses.replace(CONFIG, kinds=kinds))


def test_what_is_nowhere_to_be_seen_has_no_place_and_is_not_drawn() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, joints=()))
    tokenizer.actor.base_CHW.fill_(0.8)
    with torch.no_grad():
        tokenizer.actor.paint.bias.fill_(-9.0)  # no robot
        tokenizer.actor.paint.weight.zero_()
    p = torch.zeros(4, 3)
    empty = tokenizer.actor.scene(p)
    state = tokenizer.encode_rows(empty, p)
    assert float(state.seen.max()) < 0.1
    assert torch.equal(state.pose, torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(4, 2, 4)) and not state.code.any()
    assert torch.allclose(tokenizer.draw(state), empty)
    there = dataclasses.replace(state, seen=torch.ones_like(state.seen))
    assert (tokenizer.draw(there) - empty).abs().max() > 0.1


def test_a_thing_that_turns_is_drawn_in_the_color_that_it_was_seen_in() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, things=1, orders=(1,), joints=()))
    tokenizer.actor.base_CHW.fill_(0.8)
    with torch.no_grad():
        tokenizer.actor.paint.bias.fill_(-9.0)  # no robot
        tokenizer.actor.paint.weight.zero_()
    tokenizer.keep_looks(torch.zeros(40, 1, 2), torch.randn(40, 1, 4), torch.ones(40, 1))
    tokenizer.config = dataclasses.replace(tokenizer.config, orders=(1,))
    middle = tokenizer.kept.color_KQ3[0].mean(0)

    def drawn_in(color: Tensor) -> Tensor:
        code = torch.cat([color, torch.zeros(1)]).reshape(1, 1, 4)
        pose = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
        state = SceneState(p=torch.zeros(1, 3), canvas=torch.zeros(1, 0), pose=pose, seen=torch.ones(1, 1), code=code)
        return tokenizer.draw(state)[0, :, 17:19, 24:26].mean((1, 2))

    red, blue = (middle + torch.tensor(way) for way in ([0.3, -0.3, 0.0], [-0.3, 0.0, 0.3]))
    change = (drawn_in(red) - drawn_in(blue)) / (red - blue)
    assert bool(((change > 0.5) & (change < 1.1)).all())  # it is not quite opaque
    assert torch.allclose(drawn_in(torch.zeros(3)), drawn_in(middle), atol=0.05)  # no colour is known


def test_what_is_out_of_view_mostly_is_not_seen_everywhere() -> None:
    tokenizer = made(dataclasses.replace(CONFIG, things=1))
    taken = torch.zeros(50, 1)
    taken[:10] = 8.0
    tokenizer.keep_looks(torch.zeros(50, 1, 2), torch.randn(50, 1, 4), taken)
    assert 3 < float(tokenizer.full_K) <= 8


def test_things_of_a_kind_take_peaks_of_their_own_from_left_to_right() -> None:
    encoder = ThingEncoder(ThingsConfig(image_size=(32, 48), proprio_dim=2, kinds=(0, 0)))
    scores = torch.full((2, 1, 16, 24), -9.0)
    for row, (high, low) in enumerate(((4, 20), (20, 4))):
        scores[row, 0, 8, high], scores[row, 0, 3, low] = 20.0, 15.0
    x = encoder.places(scores)[..., 0]
    torch.testing.assert_close(x, torch.tensor([[9 / 24 - 1, 41 / 24 - 1]] * 2), atol=0.01, rtol=0)


def test_a_look_is_kept_for_each_color_and_the_one_alike_is_drawn() -> None:
    kept = KeptLooks(things=1, kept=2, code_dim=4)
    kept.code_KQd[0], kept.color_KQ3[0] = torch.tensor([[1.0], [-1.0]]).expand(2, 4), torch.eye(3)[:2]
    phase = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    code, _, lacks = kept.turned(0, phase, torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]))
    torch.testing.assert_close(code[:, 0], torch.tensor([1.0, -1.0, 0.0]), atol=0.01, rtol=0)
    assert float(lacks.abs().max()) < 0.01
    other = kept.turned(0, phase[:1], torch.tensor([[1.0, 0, 0.4]]))[2]
    torch.testing.assert_close(other, torch.tensor([[0.0, 0, 0.35]]), atol=0.01, rtol=0)


def test_windows_beyond_the_edge_go_on_as_it_is() -> None:
    frame = torch.full((1, 3, 16, 16), 0.5)
    assert torch.equal(windows(frame, torch.tensor([[[1.0, -1.0]]]), 8.0, 8), torch.full((1, 1, 3, 8, 8), 0.5))


def test_joints_in_degrees_are_read_as_such() -> None:
    angle = torch.tensor([[0.3, -1.1]])
    made_of = {"image_size": (16, 16), "proprio_dim": 2, "joints": (0, 1)}
    radians, degrees = (Actor(ActorConfig(**made_of, degrees=d)).features for d in (False, True))
    torch.testing.assert_close(radians(angle)[:, 2:], degrees(angle.rad2deg())[:, 2:])


def test_anchors_follow_perspective_and_the_canvas_learns() -> None:
    actor = Actor(ActorConfig(image_size=(16, 16), proprio_dim=2))
    p = torch.randn(4, 2)
    flat = actor.anchors(p)
    with torch.no_grad():
        actor.depth.bias.fill_(10.0)  # half as far again
        actor.shift_CHW.fill_(1.0)
    torch.testing.assert_close(actor.anchors(p), flat / 1.5)
    assert bool((actor.canvas(torch.zeros(1, actor.config.proprio_dim)) - actor.base_CHW > 0.1).all())


def test_a_look_beside_its_sprites_middle_is_drawn_where_it_was_found() -> None:
    tokenizer = made()
    tokenizer.kept.center_KQ2.fill_(0.25)
    xy = torch.rand(3, tokenizer.config.things, 2) - 0.5
    code = torch.randn(3, tokenizer.config.things, tokenizer.config.code_dim)
    p, sure = torch.zeros(3, tokenizer.config.proprio_dim), torch.ones(3, tokenizer.config.things)
    state = tokenizer._canonical(p, xy, code, sure, torch.zeros(*sure.shape, 3))
    assert float((state.pose[..., :2] / tokenizer.axes - xy).abs().min()) > 0.01  # poses are those of shapes
    torch.testing.assert_close(tokenizer.looks(state)[0], xy)


def test_a_translucent_thing_in_front_is_laid_on_once() -> None:
    tokenizer = made()
    k, (height, width) = tokenizer.config.things, CONFIG.image_size
    layers, robot = torch.rand(1, k, 4, height, width), torch.rand(1, 3, height, width)
    bare = torch.zeros(1, 1, height, width)
    wanted = tokenizer.actor.canvas(torch.zeros(1, 3))
    drawn = tokenizer._stack(wanted, layers, torch.ones(1, k, 1, 1, 1), robot, bare)
    for color, opacity in zip(layers[0, :, :3], layers[0, :, 3:], strict=True):
        wanted = wanted * (1 - opacity) + color * opacity
    torch.testing.assert_close(drawn, wanted)
