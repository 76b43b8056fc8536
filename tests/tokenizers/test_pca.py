import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tokenizers.scenes import SIZE, sample
from worldsim.errors import InvalidInputError, StorageError
from worldsim.storage import load_folder, load_weights
from worldsim.tokenizers import TOKENIZERS
from worldsim.tokenizers.haar import haar_2d
from worldsim.tokenizers.pca import HaarPCAConfig, HaarPCATokenizer

CONFIG = HaarPCAConfig(image_size=(SIZE, SIZE), channels=12, width=16, depth=1, fine_width=8)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return sample(160, seed=0)[0]


@pytest.fixture
def tokenizer(frames: Tensor) -> HaarPCATokenizer:
    torch.manual_seed(0)
    made = HaarPCATokenizer(CONFIG)
    made.fit_frames(frames)
    return made


def patches(frames: Tensor, side: int = 8) -> np.ndarray:
    cut = frames.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * side * side).double().numpy()


def test_no_linear_code_of_that_size_is_better(tokenizer: HaarPCATokenizer, frames: Tensor) -> None:
    rows = patches(frames)
    centred = rows - rows.mean(0)
    values = np.linalg.svd(centred, compute_uv=False)
    least = float((values[CONFIG.channels :] ** 2).sum()) / rows.size
    z = tokenizer.encode(frames[:, :, None])[:, :, 0]
    assert float((tokenizer.decode_linear(z) - frames).square().mean()) == pytest.approx(least, rel=1e-3)


def test_components_are_orthonormal_and_span_what_svd_finds(tokenizer: HaarPCATokenizer, frames: Tensor) -> None:
    basis = tokenizer.basis.double()
    assert torch.allclose(basis @ basis.T, torch.eye(CONFIG.channels, dtype=torch.float64), atol=1e-5)
    bands = haar_2d(frames, levels=3).movedim(1, -1).reshape(-1, 192).double().numpy()
    found = np.linalg.svd(bands - bands.mean(0), full_matrices=False)[2][: CONFIG.channels]
    assert np.linalg.svd(found @ basis.numpy().T, compute_uv=False).min() > 1 - 1e-6


def test_latents_are_uncorrelated_and_scaled_by_the_root_of_their_deviation(
    tokenizer: HaarPCATokenizer, frames: Tensor
) -> None:
    z = tokenizer.encode(frames[:, :, None])[:, :, 0].movedim(1, -1).reshape(-1, CONFIG.channels)
    raw = z * tokenizer.scale_C
    correlation = torch.corrcoef(z.T) - torch.eye(CONFIG.channels)
    assert correlation.abs().max() < 1e-3
    assert float(z.var(0).mean()) == pytest.approx(1, rel=1e-2)
    assert torch.allclose(z.std(0) / z.std(0)[0], (raw.std(0) / raw.std(0)[0]).sqrt(), rtol=1e-3)
    assert z.mean(0).abs().max() < 1e-3


def test_all_components_reconstruct_exactly(frames: Tensor) -> None:
    lossless = HaarPCATokenizer(HaarPCAConfig(image_size=(SIZE, SIZE), levels=2, channels=48, width=0))
    noise = torch.rand(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lossless.fit_frames(noise)
    assert lossless.latent_shape == (48, SIZE // 4, SIZE // 4)
    assert (lossless.decode(lossless.encode(noise[:, :, None]))[:, :, 0] - noise).abs().max() < 1e-5


def test_the_residual_starts_at_zero_and_training_improves_on_it(tokenizer: HaarPCATokenizer, frames: Tensor) -> None:
    x = frames[:, :, None]
    z = tokenizer.encode(x)
    assert torch.equal(tokenizer.decode(z)[:, :, 0], tokenizer.decode_linear(z[:, :, 0]))
    assert not any(p.requires_grad and "residual" not in k for k, p in tokenizer.named_parameters())
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        rows = torch.randint(len(x), (16,), generator=torch.Generator().manual_seed(step))
        loss, figures = tokenizer.loss(x[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert math.isfinite(figures["psnr_db"])
    assert torch.equal(tokenizer.encode(x), z)


def test_what_moves_or_departs_from_the_background_weighs_more(tokenizer: HaarPCATokenizer) -> None:
    x = tokenizer.background_RHW[None, :, None].repeat(1, 1, 3, 1, 1)
    assert tokenizer.moving(x).sum() == 0
    x[:, 0, 1, 5, 7] += 0.5
    marked = tokenizer.moving(x)[0, 0].nonzero().tolist()
    assert marked == [[1, 5, 7], [2, 5, 7]]  # away from the background, then the step back


def test_a_frame_is_encoded_the_same_alone_in_a_batch_and_in_a_clip(
    tokenizer: HaarPCATokenizer, frames: Tensor
) -> None:
    torch.nn.init.normal_(tokenizer.residual.leave.weight, std=0.1)
    clip = frames[:12].reshape(3, 4, 3, SIZE, SIZE).transpose(1, 2)
    z = tokenizer.encode(clip)
    alone = tokenizer.encode(frames[6:7, :, None])
    assert torch.allclose(z[1, :, 2], alone[0, :, 0], atol=1e-5)
    assert torch.allclose(tokenizer.decode(z)[1, :, 2], tokenizer.decode(alone)[0, :, 0], atol=1e-5)


def test_double_precision_runs(tokenizer: HaarPCATokenizer, frames: Tensor) -> None:
    single = tokenizer.encode(frames[:2, :, None])
    double = tokenizer.double().encode(frames[:2, :, None].double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)


def test_folders_are_read_strictly(tokenizer: HaarPCATokenizer, frames: Tensor, tmp_path) -> None:
    TOKENIZERS.save(tokenizer, tmp_path / "t")
    again = TOKENIZERS.load(tmp_path / "t")
    _, tensors, _ = load_folder(tmp_path / "t", kind="tokenizer")
    x = frames[:4, :, None]
    assert again.config == tokenizer.config
    assert torch.equal(again.decode(again.encode(x)), tokenizer.decode(tokenizer.encode(x)))
    other = HaarPCATokenizer(HaarPCAConfig(image_size=(SIZE, SIZE), channels=13, width=16, depth=1, fine_width=8))
    with pytest.raises(StorageError, match="another shape"):
        load_weights(other, tensors, source="t")


def test_golden_values(tokenizer: HaarPCATokenizer, frames: Tensor) -> None:
    z = tokenizer.encode(frames[:1, :, None])[0, :4, 0]
    assert z.square().mean((1, 2)).tolist() == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = [3.2891946, 1.25499999, 1.17021894, 0.41753978]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, SIZE, SIZE), "at least 2"),
        (torch.zeros(4, 3, SIZE, SIZE + 8), "got"),
        (torch.zeros(4, 3, SIZE, SIZE), "nothing to encode"),
    ],
)
def test_unfit_frames_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        HaarPCATokenizer(CONFIG).fit_frames(x)


def test_wrong_sizes_are_refused(tokenizer: HaarPCATokenizer) -> None:
    with pytest.raises(InvalidInputError, match="Expected frames"):
        tokenizer.encode(torch.zeros(1, 3, 1, 64, 64))
    with pytest.raises(InvalidInputError, match=r"channels must be 1\.\.48"):
        HaarPCATokenizer(HaarPCAConfig(image_size=(16, 16), levels=2, channels=49))
    with pytest.raises(InvalidInputError, match="multiples of 8"):
        HaarPCATokenizer(HaarPCAConfig(image_size=(60, 64)))
