import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.planners.noise import Streams, colour, episode_keys, samples_around, smooth

CPU = torch.device("cpu")


def streams(keys: list[int], dtype: torch.dtype = torch.float32) -> Streams:
    return Streams(torch.tensor(keys), device=CPU, dtype=dtype)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_every_step_has_variance_one(steps: int, beta: float) -> None:
    root = colour(steps, beta)
    assert torch.allclose((root @ root.T).diagonal(), torch.ones(steps, dtype=torch.float64), atol=1e-6)


def test_white_noise_is_left_alone() -> None:
    noise = streams([1])(5, 6, 2)
    assert torch.equal(smooth(noise, 0.0), noise)
    assert torch.allclose(colour(6, 0.0), torch.eye(6, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_spectrum_falls_as_the_exponent_says(beta: float) -> None:
    steps = 256
    noise = smooth(streams([3], torch.float64)(400, steps, 1), beta)[0, :, :, 0]
    window = torch.hann_window(steps, dtype=torch.float64)
    power = torch.fft.rfft(noise * window, dim=1).abs().square().mean(0)
    band = torch.arange(6, 60)
    x, y = band.double().log(), power[band].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert abs(float(slope) + beta) < 0.15


def test_the_end_of_a_plan_does_not_join_its_beginning() -> None:
    root = colour(16, 2.0)
    with_first = (root @ root.T)[0]
    assert float(with_first[1]) > 0.7 and abs(float(with_first[-1])) < 0.2


def test_smooth_noise_has_variance_one_and_moves_less_from_step_to_step() -> None:
    white = streams([5])(4000, 12, 2)
    jumps = []
    for beta in (0.0, 1.0, 2.0, 3.0):
        noise = smooth(white, beta)
        assert noise.shape == white.shape
        assert float((noise.square().mean((0, 1)) - 1).abs().max()) < 0.12
        jumps.append(float(noise.diff(dim=2).square().mean()))
    assert jumps == sorted(jumps, reverse=True) and jumps[-1] < 0.2 * jumps[0]


def test_dimensions_and_samples_are_independent() -> None:
    noise = smooth(streams([5])(4000, 8, 2), 2.0)[0]
    across = (noise[:, :, 0] * noise[:, :, 1]).mean()
    between = (noise[0::2] * noise[1::2]).mean()
    assert abs(float(across)) < 0.03 and abs(float(between)) < 0.03


def test_an_episode_draws_the_same_alone_and_in_any_batch() -> None:
    keys = [11, 2**62 + 7, -3, 5]
    batch = streams(keys)
    first, second = batch(6, 4, 2), batch(3, 4, 2)
    for i, key in enumerate(keys):
        alone = streams([key])
        assert torch.equal(alone(6, 4, 2)[0], first[i])
        assert torch.equal(alone(3, 4, 2)[0], second[i])


def test_every_call_and_every_key_gives_fresh_numbers() -> None:
    batch = streams([1, 2])
    one, other = batch(2, 3, 1), batch(2, 3, 1)
    assert not torch.equal(one, other) and not torch.equal(one[0], one[1])


def test_an_episodes_key_depends_on_its_number_and_the_seed_alone() -> None:
    assert torch.equal(episode_keys(3, 7), episode_keys(9, 7)[:3])
    assert not bool((episode_keys(9, 7) == episode_keys(9, 8)).any())
    assert len(episode_keys(1000, 0).unique()) == 1000


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_an_impossible_spectrum_is_refused(beta: float) -> None:
    with pytest.raises(InvalidInputError, match="beta"):
        colour(4, beta)


@pytest.mark.parametrize("samples", [8, 9])
@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize("keys", [[4], [4, 5, 6]])
def test_samples_around_a_mean_are_those_of_the_full_noise_in_the_same_bits(samples, beta, keys) -> None:
    mean, std = torch.randn(len(keys), 5, 3), torch.rand(len(keys), 5, 3)
    noise = smooth(streams(keys)(samples, 5, 3), beta)
    expected = noise * std[:, None] + mean[:, None]
    source = streams(keys)
    for again in (False, True):  # a source of its own memory gives fresh numbers every time
        found = samples_around(mean, std, source, samples=samples, beta=beta)
        assert torch.equal(found, expected) is not again
    plain = samples_around(mean, std, lambda *shape: streams(keys)(*shape), samples=samples, beta=beta)
    assert torch.equal(plain, expected)
