import dataclasses

import pytest
import torch
from torch import Tensor

from tests.tokenizers.scenes import SIZE, sample
from worldsim.errors import InvalidInputError
from worldsim.tokenizers import TOKENIZERS
from worldsim.tokenizers.causal.tokenizer import CausalHaarConfig, CausalHaarTokenizer

SMALL = CausalHaarConfig(
    image_size=(32, 32),
    latent_channels=4,
    spatial=8,
    temporal=4,
    encoder_channels=(8, 12, 16),
    decoder_channels=(8, 12, 16),
    resolution=32,
    attention_resolutions=(8,),
)
DEEP = dataclasses.replace(SMALL, spatial=8, temporal=8, encoder_channels=(8, 8, 8, 8), decoder_channels=(8, 8, 8, 8))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", params=[SMALL, DEEP], ids=["4x8x8", "8x8x8"])
def tokenizer(request: pytest.FixtureRequest) -> CausalHaarTokenizer:
    torch.manual_seed(0)
    return CausalHaarTokenizer(request.param).eval().requires_grad_(False)


def test_latents_and_frames_have_the_promised_shapes(tokenizer: CausalHaarTokenizer) -> None:
    stride = tokenizer.temporal_stride
    for groups in (0, 1, 2):
        x = noise(2, 3, 1 + groups * stride, 32, 32)
        z = tokenizer.encode(x)
        assert z.shape == (2, 4, 1 + groups, 4, 4) and z.shape[1:2] + z.shape[3:] == tokenizer.latent_shape
        assert tokenizer.decode(z).shape == x.shape


def test_no_latent_or_frame_depends_on_later_ones(tokenizer: CausalHaarTokenizer) -> None:
    stride = tokenizer.temporal_stride
    x = noise(1, 3, 1 + 2 * stride, 32, 32)
    z = tokenizer.encode(x)
    for group, first in enumerate([0, 1, 1 + stride]):
        changed = x.clone()
        changed[:, :, first:] = noise(*changed[:, :, first:].shape, seed=1)
        after = tokenizer.encode(changed)
        assert torch.allclose(after[:, :, :group], z[:, :, :group], atol=1e-6)
        assert (after[:, :, group] - z[:, :, group]).abs().max() > 1e-3
    drawn = tokenizer.decode(z)
    other = z.clone()
    other[:, :, 2] += 1
    assert torch.allclose(tokenizer.decode(other)[:, :, : 1 + stride], drawn[:, :, : 1 + stride], atol=1e-6)
    assert not torch.allclose(tokenizer.decode(other)[:, :, 1 + stride :], drawn[:, :, 1 + stride :], atol=1e-3)


def test_an_image_is_the_first_latent_of_its_video(tokenizer: CausalHaarTokenizer) -> None:
    x = noise(2, 3, 1 + tokenizer.temporal_stride, 32, 32)
    z, image = tokenizer.encode(x), tokenizer.encode(x[:, :, :1])
    assert torch.allclose(image[:, :, 0], z[:, :, 0], atol=1e-5)
    assert torch.allclose(tokenizer.decode(image)[:, :, 0], tokenizer.decode(z)[:, :, 0], atol=1e-5)


def test_rows_of_a_batch_do_not_touch(tokenizer: CausalHaarTokenizer) -> None:
    x = noise(3, 3, 1 + tokenizer.temporal_stride, 32, 32)
    assert torch.allclose(tokenizer.encode(x)[1:2], tokenizer.encode(x[1:2]), atol=1e-5)


def test_default_learns_a_scene() -> None:
    torch.manual_seed(0)
    small = {"image_size": [SIZE, SIZE], "encoder_channels": [16, 16, 16], "decoder_channels": [16, 16, 16]}
    tokenizer = TOKENIZERS.build("causal_haar", small)
    x = sample(32, seed=1)[0][:, :, None]
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    figures = []
    for step in range(25):
        loss, figure = tokenizer.loss(x[step % 4 :: 4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        figures.append(figure["psnr_db"])
        assert all(p.grad is not None for p in tokenizer.parameters())
    assert figures[-1] > figures[0] + 5


def test_golden_values() -> None:
    tokenizer = CausalHaarTokenizer(SMALL).eval()
    with torch.no_grad():
        for i, parameter in enumerate(tokenizer.parameters()):
            parameter.copy_(0.2 * (torch.arange(parameter.numel()).view(parameter.shape) * 0.7 + i).sin())
        x = (torch.arange(3 * 5 * 32 * 32).view(1, 3, 5, 32, 32) * 0.05).sin()
        z = tokenizer.encode(x)
        y = tokenizer.decode(z)
    assert z[0, :, 1, 2, 3].tolist() == pytest.approx(GOLDEN_LATENT, abs=1e-4)
    assert y[0, :, 4, 10, 20].tolist() == pytest.approx(GOLDEN_FRAME, abs=1e-3)


GOLDEN_LATENT = [-0.042848, -0.059594, 0.21612, 0.137089]
GOLDEN_FRAME = [0.822015, 0.19395, -0.537345]


@pytest.mark.integration
def test_public_weights_load_and_give_the_same_numbers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the reference implementation comes with the lerobot extra")
    torch.manual_seed(0)
    channels = (8, 12, 16, 16)
    reference = diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=channels,
        decode_block_out_channels=channels,
        attention_resolutions=(8, 4),
        resolution=32,
        num_layers=2,
        patch_size=4,
        spatial_compression_ratio=16,
        temporal_compression_ratio=8,
    ).eval()
    config = CausalHaarConfig(
        image_size=(32, 32),
        latent_channels=4,
        spatial=16,
        temporal=8,
        encoder_channels=channels,
        decoder_channels=channels,
        blocks=2,
        resolution=32,
        attention_resolutions=(8, 4),
    )
    tokenizer = CausalHaarTokenizer(config).eval()
    tokenizer.load_state_dict(reference.state_dict(), strict=True)
    x = noise(1, 3, 9, 32, 32)
    with torch.no_grad():
        z = tokenizer.encode(x)
        assert torch.allclose(z, reference.encode(x).latent_dist.mode(), atol=1e-5)
        assert torch.allclose(tokenizer.decode(z), reference.decode(z).sample, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal": 3}, "temporal must be a power of two; got 3"),
        ({"temporal": 2}, "patch <= temporal"),
        ({"spatial": 32}, "channel widths"),
        ({"image_size": (36, 32)}, "multiples of 8"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        CausalHaarTokenizer(dataclasses.replace(SMALL, **change))


def test_clips_that_do_not_fit_are_refused(tokenizer: CausalHaarTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="frames; got 4"):
        tokenizer.encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(InvalidInputError, match="Expected frames"):
        tokenizer.encode(torch.zeros(1, 3, 1, 64, 64))
