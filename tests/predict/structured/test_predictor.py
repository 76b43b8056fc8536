import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.conditions import Conditions
from worldsim.data.windows import Clip
from worldsim.errors import InvalidInputError
from worldsim.predict import PREDICTORS
from worldsim.predict.base import Context, EnsemblePredictor, Tracking, Window
from worldsim.predict.structured.predictor import SceneCarry, StructuredPredictor, StructuredPredictorConfig
from worldsim.tokenizers.structured.state import SceneState

CONFIG = StructuredPredictorConfig(latent_shape=(2 + 9, 1, 1), proprio_dim=2, action_dim=2, orders=(1,), things=(1,))


def made(config: StructuredPredictorConfig = CONFIG) -> StructuredPredictor:
    torch.manual_seed(0)
    predictor = StructuredPredictor(config)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return predictor


def latents(*lead: int, seen: float = 1.0, config: StructuredPredictorConfig = CONFIG) -> Tensor:
    things = len(config.orders)
    generator = torch.Generator().manual_seed(3)
    pose = torch.randn(*lead, things, 4, generator=generator) * 0.3
    pose = torch.cat([pose[..., :2], torch.nn.functional.normalize(pose[..., 2:], dim=-1)], -1)
    p = torch.randn(*lead, 2, generator=generator)
    state = SceneState(
        p=p,
        canvas=torch.randn(*lead, config.layout.canvas_dim, generator=generator),
        pose=pose,
        seen=torch.full((*lead, things), seen),
        code=torch.zeros(*lead, things, 4),
    )
    return config.layout.join(state)[..., None, None]


def begun(predictor: StructuredPredictor, z: Tensor) -> SceneCarry:
    return predictor.start(Context(z=z, proprio=torch.zeros(len(z), 2), action=torch.zeros(len(z), 2)))


def play(predictor: StructuredPredictor, carry: SceneCarry, steps: int) -> list[tuple[Tensor, Tensor]]:
    out = []
    for t in range(steps):
        action = torch.full((carry.batch, 2), 0.1 * t)
        carry, said = predictor.step(carry, action, torch.zeros(carry.batch, 2), Conditions(), None)
        out.append((said.z[:, 0].detach(), said.uncertainty.detach()))
    return out


def test_members_follow_paths_of_their_own() -> None:
    predictor, z = made(), latents(5)
    steps = play(predictor, begun(predictor, z), 6)
    assert steps[0][0].shape == z.shape
    assert float(steps[-1][1].mean()) > float(steps[0][1].mean()) > 0
    assert isinstance(predictor, EnsemblePredictor)
    alone = [play(m, begun(predictor, z), 6) for m in predictor.members()]
    assert all(float(u.max()) == 0 for path in alone for _, u in path)
    first = torch.stack([path[0][0] for path in alone])
    assert not torch.equal(first[0], first[1])
    assert torch.allclose(first[:, :, 2:4].mean(0), steps[0][0][:, 2:4], atol=0.02)  # the body differs a little


def test_what_is_seen_is_believed_and_what_is_not_is_predicted() -> None:
    predictor, z = made(), latents(4)
    carry, action, body = begun(predictor, z), torch.ones(4, 2), torch.zeros(4, 2)
    expected, _ = predictor.step(carry, action, body, Conditions(), None)
    found = predictor.observe(carry, latents(4) + 0.1, action, body)
    assert torch.allclose(found.pose[:, 0], CONFIG.layout.split((latents(4) + 0.1)[..., 0, 0]).pose)
    lost = predictor.observe(carry, latents(4, seen=0.0) + 0.1, action, body)
    assert torch.equal(lost.pose, expected.pose) and torch.equal(lost.motion, expected.motion)
    assert torch.allclose(lost.p[:, -1], z[:, :2, 0, 0] + 0.1)


def clip(length: int, config: StructuredPredictorConfig = CONFIG) -> Clip:
    z = latents(6, length, config=config)
    nothing = torch.full((6, length), float("nan"))
    return Clip(
        z_BTCHW=z,
        proprio_BTP=z[:, :, :2, 0, 0] * 3 + 1,
        action_BTA=torch.randn(6, length, 2, generator=torch.Generator().manual_seed(0)),
        progress_BT=nothing,
        success_BT=nothing,
        start_BCHW=z[:, 0],
    )


def test_stages_learn_apart() -> None:
    predictor, data = made(), clip(7)
    predictor.calibrate(data)
    body, figures = predictor.body_loss(data, 4)
    body.backward()
    assert "body_changes" in figures
    assert all(p.grad is None for p in predictor.contact.parameters())
    loss, _ = predictor.contact_loss(data, 4, torch.Generator().manual_seed(0))
    predictor.zero_grad()
    loss.backward()
    assert all(not p.grad.any() for p in predictor.body.parameters() if p.grad is not None)
    (contact,) = predictor.contact
    assert contact.linear.grad is not None and contact.linear.grad.any()


def test_joint_features_get_the_scale_of_proprioception() -> None:
    predictor = made(dataclasses.replace(CONFIG, joints=(0, 1)))
    predictor.calibrate(clip(4))
    (contact,) = predictor.contact
    assert torch.allclose(contact.features.scale_P, torch.full((2,), 3.0), atol=1e-4)
    assert torch.allclose(contact.features.mean_P, torch.ones(2), atol=1e-4)


def test_a_robot_alone_is_predicted_too() -> None:
    config = dataclasses.replace(CONFIG, latent_shape=(2, 1, 1), orders=(), things=(0,))
    predictor, data = made(config), clip(5, config)
    predictor.calibrate(data)
    loss, _ = predictor.loss(data, 2, None)
    assert loss.requires_grad
    steps = play(predictor, begun(predictor, latents(3, config=config)), 2)
    assert steps[1][0].shape == (3, 2, 1, 1) and float(steps[1][1].min()) > 0


def test_cameras_share_the_body_and_have_contact_models_of_their_own() -> None:
    config = dataclasses.replace(CONFIG, latent_shape=(2 + 9 + 2 + 2 + 18, 1, 1), orders=(1, 0, 2), things=(1, 0, 2))
    predictor, data = made(config), clip(7, config)
    predictor.calibrate(data)
    assert len(predictor.contact) == 2
    carry = begun(predictor, latents(3, config=config))
    after, said = predictor.step(carry, torch.ones(3, 2), torch.zeros(3, 2), Conditions(), None)
    split = config.layout.split(said.z[:, 0, :, 0, 0])
    assert all(torch.equal(said.z[:, 0, at : at + 2, 0, 0], split.p) for at in (0, 11, 13))
    assert torch.allclose(split.pose, after.pose.mean(1)[..., :4], atol=0.2)
    moved = predictor.contact[1]
    with torch.no_grad():
        moved.net.bias[-1].add_(1.0)
    again, _ = predictor.step(carry, torch.ones(3, 2), torch.zeros(3, 2), Conditions(), None)
    assert torch.equal(again.pose[:, :, :1], after.pose[:, :, :1]) and not torch.allclose(again.pose, after.pose)


def test_carries_and_shapes_of_others_are_refused() -> None:
    predictor = made()
    other = Window(z=torch.zeros(1, 2, 11, 1, 1), proprio=torch.zeros(1, 1, 2), action=torch.zeros(1, 1, 2))
    with pytest.raises(InvalidInputError, match="SceneCarry"):
        predictor.step(other, torch.zeros(1, 2), torch.zeros(1, 2), Conditions(), None)
    with pytest.raises(InvalidInputError, match="things is"):
        PREDICTORS.build(
            "structured",
            {"latent_shape": [11, 1, 1], "proprio_dim": 2, "action_dim": 2, "orders": [1, 0], "things": [2]},
        )


def test_things_of_a_kind_are_followed_where_they_were_expected() -> None:
    config = dataclasses.replace(CONFIG, latent_shape=(2 + 2 * 9, 1, 1), orders=(1, 1), things=(2,), kinds=(0, 0))
    predictor, z = made(config), latents(4, config=config)
    action, body = torch.zeros(4, 2), torch.zeros(4, 2)
    expected, _ = predictor.step(begun(predictor, z), action, body, Conditions(), None)
    state = config.layout.split(predictor.latent(expected)[..., 0, 0])
    state = dataclasses.replace(state, pose=state.pose + 0.01)
    other = dataclasses.replace(state, pose=state.pose.flip(1))
    for frame in (state, other):
        seen = predictor.observe(begun(predictor, z), config.layout.join(frame)[..., None, None], action, body)
        assert torch.allclose(seen.pose[:, 0], state.pose)
    assert isinstance(predictor, Tracking)
    assert torch.allclose(config.layout.split(predictor.latent(seen)[..., 0, 0]).pose[..., :2], state.pose[..., :2])
    apart = made(dataclasses.replace(config, kinds=(0, 1)))
    for kept in (apart, made(dataclasses.replace(config, kinds=()))):
        found = kept.observe(begun(kept, z), config.layout.join(other)[..., None, None], action, body)
        far = (found.pose[:, 0] - state.pose)[..., :2].norm(dim=-1) > 0.02
        assert bool(far.any())


def test_a_leap_is_believed_when_it_lasts() -> None:
    predictor, z = made(), latents(4)
    action, body = torch.zeros(4, 2), torch.zeros(4, 2)
    far = z.clone()
    far[:, 2] += 1.5
    once = predictor.observe(begun(predictor, z), far, action, body)
    expected, _ = predictor.step(begun(predictor, z), action, body, Conditions(), None)
    assert torch.equal(once.pose, expected.pose) and torch.equal(once.seen, torch.ones(4, 1))
    for _ in range(4):
        once = predictor.observe(once, far, action, body)
    assert torch.allclose(once.pose[:, 0, :, 0], far[:, 2, 0])


def test_kinds_of_things_matter_to_how_they_move() -> None:
    config = dataclasses.replace(CONFIG, latent_shape=(2 + 2 * 9, 1, 1), orders=(1, 1), things=(2,))
    z = latents(3, config=config)
    state = config.layout.split(z[..., 0, 0])
    pose = state.pose[:, :1].expand(-1, 2, -1)
    alike = config.layout.join(dataclasses.replace(state, pose=pose))[..., None, None]
    for kinds, same in (((0, 0), True), ((0, 1), False)):
        predictor = made(dataclasses.replace(config, kinds=kinds))
        after, _ = predictor.step(begun(predictor, alike), torch.ones(3, 2), torch.zeros(3, 2), Conditions(), None)
        assert torch.equal(after.pose[:, :, 0], after.pose[:, :, 1]) is same


def test_the_body_moves_in_its_own_changes_and_stays_about_where_it_was_seen() -> None:
    predictor, data = made(), clip(7)
    predictor.calibrate(data)
    p = predictor.config.layout.split(data.z_BTCHW[..., 0, 0]).p
    begin, action = p[None, :, :3].expand(3, -1, -1, -1), torch.zeros(3, 6, 3, 2)
    moved = predictor.body(begin, action) - begin[:, :, -1]
    with torch.no_grad():
        predictor.body.change_P.mul_(0.5)
        predictor.body.net.weight[
            0
        ].zero_()  # changes are given in the same units, so that only the output's scale is left
        slow = predictor.body(begin, action) - begin[:, :, -1]
        predictor.body.change_P.mul_(2)
        fast = predictor.body(begin, action) - begin[:, :, -1]
        predictor.body.net.bias[-1].add_(1e3)
    assert moved.any() and torch.allclose(2 * slow, fast, atol=1e-6)
    low, high = p.flatten(0, 1).amin(0), p.flatten(0, 1).amax(0)
    gone = predictor.body(begin, action)
    assert torch.allclose(gone, (high + 0.1 * (high - low)).expand_as(gone))


def test_a_thing_goes_on_as_it_moved() -> None:
    predictor, z = made(), latents(4)
    carry, still = begun(predictor, z), (torch.zeros(4, 2), torch.zeros(4, 2), Conditions(), None)
    once, _ = predictor.step(carry, *still)
    assert torch.allclose(once.motion, once.pose - carry.pose) and once.motion.any()
    stopped, _ = predictor.step(dataclasses.replace(once, motion=torch.zeros_like(once.motion)), *still)
    went_on, _ = predictor.step(once, *still)
    assert not torch.allclose(stopped.pose, went_on.pose, atol=1e-5)


def test_looks_are_taken_from_where_a_thing_is_seen_well() -> None:
    predictor, z = made(), latents(4)
    action, body = torch.ones(4, 2), torch.zeros(4, 2)
    for seen, taken in ((0.9, True), (0.4, False), (0.0, False)):
        state = CONFIG.layout.split(latents(4, seen=seen)[..., 0, 0])
        other = CONFIG.layout.join(dataclasses.replace(state, code=state.code + 1))[..., None, None]
        after = predictor.observe(begun(predictor, z), other, action, body)
        assert bool((after.code == 1).all()) is taken
        assert torch.allclose(after.seen, torch.full((4, 1), seen if seen > 0.3 else 1.0))


def test_only_errors_of_what_is_seen_count_and_angles_are_among_them() -> None:
    torch.manual_seed(0)
    predictor, data = StructuredPredictor(CONFIG), clip(5)  # untrained, it leaves things about where they are
    predictor.calibrate(data)
    layout = CONFIG.layout

    def loss(**changes: Tensor) -> float:
        state = layout.split(data.z_BTCHW[..., 0, 0])
        last = {name: torch.cat([getattr(state, name)[:, :-1], value], 1) for name, value in changes.items()}
        z = layout.join(dataclasses.replace(state, **last))[..., None, None]
        found, _ = predictor.contact_loss(dataclasses.replace(data, z_BTCHW=z), 2, torch.Generator().manual_seed(0))
        return float(found.detach())

    state = layout.split(data.z_BTCHW[:, -1:, :, 0, 0])
    elsewhere, turned = state.pose.clone(), state.pose.clone()
    elsewhere[..., :2] += 2.0
    turned[..., 2:] *= -1
    assert loss(pose=elsewhere) > loss() + 0.1 and abs(loss(pose=turned) - loss()) > 0.1
    gone = torch.zeros_like(state.seen)
    assert loss(pose=elsewhere, seen=gone) == pytest.approx(loss(seen=gone))


CHANGING = dataclasses.replace(CONFIG, latent_shape=(2 + 18, 1, 1), orders=(0, 1), things=(2,), changes=(True, False))


def looking(code_BTKd: Tensor) -> Clip:
    """A clip of two things that stand still, of these looks."""
    data = clip(code_BTKd.shape[1], CHANGING)
    state = CHANGING.layout.split(data.z_BTCHW[..., 0, 0])
    still = state.pose[:, :1].expand_as(state.pose)
    z = CHANGING.layout.join(dataclasses.replace(state, pose=still, code=code_BTKd))[..., None, None]
    return dataclasses.replace(data, z_BTCHW=z)


def test_a_look_that_changes_is_predicted_and_the_others_stay() -> None:
    predictor = made(CHANGING)
    z = looking(torch.rand(6, 7, 2, 4)).z_BTCHW[:5, 0]
    carry = begun(predictor, z)
    steps = play(predictor, carry, 5)
    now = CHANGING.layout.split(steps[-1][0][..., 0, 0])
    begin = CHANGING.layout.split(z[..., 0, 0])
    assert (now.code[:, 0] - begin.code[:, 0]).abs().min() > 0
    assert torch.allclose(now.code[:, 1], begin.code[:, 1])
    after, _ = predictor.step(carry, torch.zeros(5, 2), torch.zeros(5, 2), Conditions(), None)
    assert torch.equal(after.pose[..., 1, 4:], carry.pose[..., 1, 4:])  # nor is it another input of the contact model
    paths = torch.stack([CHANGING.layout.split(play(m, carry, 1)[0][0][..., 0, 0]).code for m in predictor.members()])
    assert (paths[0] - paths[1])[:, 0].abs().max() > 0
    seen = predictor.observe(carry, z, torch.zeros(5, 2), torch.zeros(5, 2))
    assert torch.allclose(CHANGING.layout.split(predictor.latent(seen)[..., 0, 0]).code, begin.code)


def test_what_is_half_hidden_looks_as_was_predicted() -> None:
    predictor = made(CHANGING)
    z = looking(torch.rand(6, 7, 2, 4)).z_BTCHW[:5, 0]
    carry = begun(predictor, z)
    predicted = predictor.step(carry, torch.zeros(5, 2), torch.zeros(5, 2), Conditions(), None)[0].pose
    state = CHANGING.layout.split(z[..., 0, 0])
    for seen, taken in ((0.9, True), (0.4, False)):
        other = dataclasses.replace(state, code=state.code + 0.3, seen=torch.full_like(state.seen, seen))
        after = predictor.observe(
            carry, CHANGING.layout.join(other)[..., None, None], torch.zeros(5, 2), torch.zeros(5, 2)
        )
        wanted = other.code[:, None].expand(-1, 3, -1, -1) if taken else predicted[..., 4:]
        torch.testing.assert_close(after.pose[..., 4:], wanted)
        torch.testing.assert_close(after.pose[..., :4], state.pose[:, None].expand(-1, 3, -1, -1))


def test_looks_that_change_steadily_are_learned() -> None:
    torch.manual_seed(0)
    predictor = StructuredPredictor(CHANGING)
    code = torch.rand(6, 1, 2, 4) - 1 + 0.15 * torch.arange(12)[None, :, None, None]
    data = looking(code)
    predictor.calibrate(data)
    (contact,) = predictor.contact
    assert torch.allclose(contact.change_d, torch.full((4,), 0.15), atol=1e-3)
    optimizer = torch.optim.Adam(predictor.contact.parameters(), lr=2e-3)
    for _ in range(400):
        loss, _ = predictor.contact_loss(data, 6, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(predictor.contact.parameters(), 1.0)
        optimizer.step()
    carry = begun(predictor, data.z_BTCHW[:, 1])
    carry = predictor.observe(carry, data.z_BTCHW[:, 2], data.action_BTA[:, 1], torch.zeros(6, 2))
    (*_, last), at = play(predictor, carry, 6), 2 + 6
    said = CHANGING.layout.split(last[0][..., 0, 0]).code
    copied, off = (code[:, at, 0] - code[:, 2, 0]).abs().mean(), (said[:, 0] - code[:, at, 0]).abs().mean()
    assert off < 0.5 * copied


def test_the_code_of_a_canvas_stays_until_another_frame_is_seen() -> None:
    config = dataclasses.replace(
        CONFIG, latent_shape=(2 * (2 + 9) + 3, 1, 1), orders=(1, 0), things=(1, 1), canvases=(2, 1)
    )
    predictor, z = made(config), latents(5, config=config)
    assert torch.equal(config.layout.join(config.layout.split(z[..., 0, 0])), z[..., 0, 0])  # also of two cameras
    begin = config.layout.split(z[..., 0, 0]).canvas
    assert begin.shape == (5, 3) and float(begin.abs().min()) > 0
    (*_, (last, _)) = play(predictor, begun(predictor, z), 5)
    assert torch.equal(config.layout.split(last[..., 0, 0]).canvas, begin)
    seen = predictor.observe(begun(predictor, z), latents(5, config=config) * 2, torch.zeros(5, 2), torch.zeros(5, 2))
    assert torch.equal(config.layout.split(predictor.latent(seen)[..., 0, 0]).canvas, begin * 2)
