import copy
import math

import pytest
import torch
from torch import Tensor

from tests.tokenizers.scenes import SIZE, sample
from worldsim.errors import InvalidInputError
from worldsim.tokenizers.layers.tokenizer import ABSENT, LayersTokenizer, apply_motion


@pytest.fixture(scope="module")
def fitted() -> LayersTokenizer:
    frames, _, _ = sample(400, seed=0)
    return LayersTokenizer.fit(frames)


def encode(tokenizer: LayersTokenizer, frames: Tensor) -> Tensor:
    return tokenizer.encode(frames[:, :, None])[:, :, 0, 0, 0].reshape(len(frames), -1, 4)


def test_discovers_the_thing_and_the_disc(fitted: LayersTokenizer) -> None:
    assert fitted.config.orders == (1, 0)
    assert fitted.latent_shape == (8, 1, 1)


def test_a_square_at_integer_positions_is_found_though_all_its_views_are_equally_good() -> None:
    frames = torch.full((200, 3, 32, 32), 0.5)
    for i, (x, y) in enumerate(torch.randint(0, 26, (200, 2), generator=torch.Generator().manual_seed(0)).tolist()):
        frames[i, :, y : y + 7, x : x + 7] = torch.tensor([0.6, -1.0, -1.0])[:, None, None]
    assert LayersTokenizer.fit(frames).config.orders == (4,)


def test_encoding_recovers_poses_to_a_tenth_of_a_pixel_and_a_degree(fitted: LayersTokenizer) -> None:
    frames, poses, spots = sample(100, seed=1)
    found = fitted.pose(encode(fitted, frames))
    truth = torch.tensor(poses, dtype=torch.float32)
    turn = found[:, 0, 2] - truth[:, 2]
    offset = torch.atan2(turn.sin().mean(), turn.cos().mean())  # the sprite's own zero angle is arbitrary
    miss = torch.remainder(turn - offset + math.pi, 2 * math.pi) - math.pi
    assert float(torch.rad2deg(miss.abs()).mean()) < 1.0
    # The sprite is centred on its centre of mass, which is fixed in the thing: solve for it once.
    c, s = truth[:, 2].cos(), truth[:, 2].sin()
    delta = found[:, 0, :2] - truth[:, :2]
    own = torch.stack([c * delta[:, 0] + s * delta[:, 1], c * delta[:, 1] - s * delta[:, 0]], dim=1)
    assert float((own - own.mean(0)).norm(dim=1).mean()) < 0.1
    assert float((found[:, 1, :2] - torch.tensor(spots)).norm(dim=1).mean()) < 0.1


def test_drawing_the_code_gives_the_frame_back(fitted: LayersTokenizer) -> None:
    frames, _, _ = sample(64, seed=2)
    drawn = fitted.decode(fitted.encode(frames[:, :, None]))[:, :, 0]
    assert float(-10 * torch.log10((drawn.detach() - frames).square().mean() / 4)) > 30
    assert fitted.explained(frames) > 0.95


def test_learning_the_pixels_improves_the_drawing() -> None:
    frames, _, _ = sample(200, seed=3)
    tokenizer = LayersTokenizer.fit(frames)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=4e-3)
    losses = []
    for _ in range(40):
        loss, _ = tokenizer.loss(frames[:64, :, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_a_layer_out_of_view_is_absent_and_not_drawn(fitted: LayersTokenizer) -> None:
    scene = fitted.background_CHW[None]
    code = encode(fitted, scene)
    assert code[0, :, 0].tolist() == [ABSENT, ABSENT]
    drawn = fitted.decode(code.reshape(1, -1, 1, 1, 1))[:, :, 0]
    assert torch.allclose(drawn, scene, atol=1e-5)


def test_a_frame_is_coded_the_same_alone_and_in_a_batch(fitted: LayersTokenizer) -> None:
    frames, _, _ = sample(32, seed=4)
    together = encode(fitted, frames)
    alone = torch.cat([encode(fitted, f[None]) for f in frames])
    assert torch.allclose(together, alone, atol=1e-5)


def test_motion_composes_in_the_own_frame() -> None:
    angle = torch.tensor(0.7)
    z = torch.stack([torch.tensor(0.1), torch.tensor(-0.2), angle.cos(), angle.sin()])[None, None]
    moved = apply_motion(z, torch.tensor([[[0.5, 0.0, 0.3]]]), (1,))[0, 0]
    expected = [0.1 + 0.5 * math.cos(0.7), -0.2 + 0.5 * math.sin(0.7), math.cos(1.0), math.sin(1.0)]
    assert torch.allclose(moved, torch.tensor(expected), atol=1e-6)


def test_round_layers_do_not_turn() -> None:
    z = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    once = apply_motion(z, torch.tensor([[[0.1, 0.0, 0.5]]]), (0,))
    assert torch.allclose(once[..., :2], torch.tensor([0.1, 0.0]), atol=1e-6)


@pytest.mark.parametrize("frames", [torch.zeros(10, 3, 16, 16), torch.zeros(100, 1, 16, 16)])
def test_too_little_to_fit_is_refused(frames: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="at least 64"):
        LayersTokenizer.fit(frames)


def test_a_scene_without_motion_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="No rigid moving layer"):
        LayersTokenizer.fit(torch.zeros(100, 3, SIZE, SIZE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_and_draws_with_the_digits_of_float32(fitted: LayersTokenizer, dtype: torch.dtype) -> None:
    frames, _, _ = sample(32, seed=2)
    exact, half = fitted.encode(frames[:, :, None]), copy.deepcopy(fitted).to(dtype)
    code = half.encode(frames[:, :, None].to(dtype))
    drawn = half.decode(code).detach()
    assert code.dtype == drawn.dtype == dtype
    torch.testing.assert_close(code.float()[:, [0, 1, 4, 5]], exact[:, [0, 1, 4, 5]], atol=0.02, rtol=0.02)  # positions
    assert float((drawn.float()[:, :, 0] - frames).abs().mean()) < 0.02
