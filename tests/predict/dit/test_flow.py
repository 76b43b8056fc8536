import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.predict.squares import SHAPE, squares, train
from worldsim.errors import InvalidInputError, StorageError
from worldsim.noise import normal
from worldsim.predict import PREDICTORS
from worldsim.predict.base import History
from worldsim.predict.dit.flow import FlowConfig, FlowPredictor, euler, interpolate, sample_times, shift_time, time_grid
from worldsim.storage import load_folder, load_weights

CONFIG = FlowConfig(latent_shape=SHAPE, proprio_dim=2, action_dim=2, width=32, heads=2, depth=2, adaln_lora_dim=4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def predictor() -> FlowPredictor:
    torch.manual_seed(0)
    made = FlowPredictor(CONFIG)
    made.calibrate(squares(64, 3, seed=0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval().requires_grad_(False)


def inputs(batch: int = 3) -> tuple[History, Tensor]:
    clip = squares(batch, 3, seed=5)
    return History.at(clip, 0, clip.z_BTCHW[:, :2]), noise(batch, *SHAPE)


# Paths, timesteps and the sampler


def test_paths_are_straight_from_data_to_noise() -> None:
    x, e = noise(3, 4), noise(3, 4, seed=1)
    assert torch.equal(interpolate(x, e, torch.zeros(3)), x)
    assert torch.equal(interpolate(x, e, torch.ones(3)), e)
    h = 1e-3
    t = torch.tensor([0.2, 0.5, 0.9])
    velocity = (interpolate(x, e, t + h) - interpolate(x, e, t - h)) / (2 * h)
    assert torch.allclose(velocity, e - x, atol=1e-3)


@given(t=st.floats(0, 1), s=st.floats(0.2, 8))
def test_shift_keeps_the_ends_and_undoes_itself(t: float, s: float) -> None:
    shifted = float(shift_time(torch.tensor(t, dtype=torch.float64), s))
    assert 0 <= shifted <= 1 and (shifted >= t - 1e-12 if s >= 1 else shifted <= t + 1e-12)
    assert math.isclose(float(shift_time(torch.tensor(shifted, dtype=torch.float64), 1 / s)), t, abs_tol=1e-9)


def test_shifting_a_logit_normal_moves_its_mean_by_the_logarithm() -> None:
    generator = torch.Generator().manual_seed(0)
    times = sample_times(20_000, shift=3.0, steps=2, grid_share=0.0, generator=generator).double()
    logits = torch.log(times / (1 - times))
    assert float(logits.mean()) == pytest.approx(math.log(3), abs=0.03)
    assert float(logits.std()) == pytest.approx(1, abs=0.03)


def test_a_share_of_timesteps_stands_where_the_sampler_does() -> None:
    times = sample_times(4000, shift=2.0, steps=3, grid_share=0.4, generator=torch.Generator().manual_seed(0))
    visited = torch.tensor(time_grid(3, 2.0)[:-1], dtype=torch.float32)
    on_grid = (times[:, None] == visited).any(1)
    assert float(on_grid.float().mean()) == pytest.approx(0.4, abs=0.03)
    assert set(times[on_grid].tolist()) == set(visited.tolist())
    assert bool(((times >= 0) & (times <= 1)).all())


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 6), shift=st.floats(0.5, 5), seed=st.integers(0, 99))
def test_the_sampler_is_exact_where_paths_are_straight(steps: int, shift: float, seed: int) -> None:
    """One target: v(x, t) = (x - target) / t, a field linear in x; Euler walks it without error in any number of steps."""
    target, start = noise(2, 5, seed=seed).double(), noise(2, 5, seed=seed + 100).double()
    grid = time_grid(steps, shift)
    assert len(grid) == steps + 1 and grid[0] == 1 and grid[-1] == 0 and all(a > b for a, b in itertools.pairwise(grid))
    end, aim = euler(lambda x, t: (x - target) / t, start, grid)
    assert torch.allclose(end, target, atol=1e-9) and torch.allclose(aim, target, atol=1e-9)


def test_the_sampler_matches_euler_on_a_linear_field_and_converges_to_the_exponential() -> None:
    start = noise(4).double()
    end, _ = euler(lambda x, t: 0.7 * x, start, time_grid(4, 1.0))
    assert torch.allclose(end, start * (1 - 0.7 / 4) ** 4)
    fine, _ = euler(lambda x, t: 0.7 * x, start, time_grid(4000, 1.0))
    assert torch.allclose(fine, start * math.exp(-0.7), atol=1e-3)


# The predictor


def test_untrained_it_makes_the_best_guess_that_needs_no_network() -> None:
    """For data of unit variance, E[v | x_t] = (2 t - 1) x_t / (t^2 + (1 - t)^2)."""
    torch.manual_seed(0)
    predictor = FlowPredictor(CONFIG)
    past, x = inputs()
    t = torch.tensor([0.1, 0.6, 1.0])
    history, condition = predictor.context(past)
    v = predictor.velocity(x, t, history, condition)
    factor = ((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None, None, None]
    assert torch.allclose(v, factor * x, atol=1e-6)
    data, e = noise(200_000).double(), noise(200_000, seed=1).double()
    for time, slope in zip(t.tolist(), factor.flatten().tolist(), strict=True):
        point = (1 - time) * data + time * e
        assert float(((e - data) * point).mean() / point.square().mean()) == pytest.approx(slope, abs=0.02)


def test_what_the_network_is_given(predictor: FlowPredictor) -> None:
    past, _ = inputs()
    history, condition = predictor.context(past)
    assert history.shape == (3, 5, 2, 8, 8) and bool((history[:, 4] == 1).all())
    assert torch.allclose(history[:, :4, 1] * predictor.latent_scale + predictor.latent_mean, past.z[:, 1], atol=1e-6)
    assert condition.shape == (3, 3, 4)
    assert condition[:, 0, :2].abs().max() == 0  # nothing led to the oldest frame
    assert torch.equal(condition[:, 1:, :2], past.action)
    assert torch.equal(condition[:, 2, 2:], condition[:, 1, 2:])  # the frame to be drawn: the last that is known


def test_an_episode_is_the_same_alone_and_in_a_batch(predictor: FlowPredictor) -> None:
    past, e = inputs(5)
    together, spread = predictor.predict(past, e)
    alone, one = predictor.predict(past.rows([3]), e[3:4])
    assert torch.allclose(together[3:4], alone, atol=1e-5) and torch.allclose(spread[3:4], one, atol=1e-5)
    assert together.shape == (5, *SHAPE) and spread.shape == (5,) and bool((spread > 0).all())


def test_noise_action_history_and_proprioception_all_matter(predictor: FlowPredictor) -> None:
    past, e = inputs()
    y = predictor.predict(past, e)[0]
    assert torch.equal(predictor.predict(past, e)[0], y)
    keyed = normal(torch.tensor([1, 2, 3]), 0, SHAPE)
    for other, drawn in (
        (past, keyed),
        (dataclasses.replace(past, action=past.action.flip(0)), e),
        (dataclasses.replace(past, proprio=past.proprio + 1), e),
        (dataclasses.replace(past, z=torch.cat([past.z[:, :1] + 1, past.z[:, 1:]], dim=1)), e),
    ):
        assert (predictor.predict(other, drawn)[0] - y).abs().max() > 1e-3


def test_one_step_has_no_spread_and_more_steps_walk_further(predictor: FlowPredictor) -> None:
    past, e = inputs()
    single = copy.deepcopy(predictor)
    single.config = dataclasses.replace(CONFIG, steps=1)
    y, spread = single.predict(past, e)
    assert spread.abs().max() == 0
    assert not torch.allclose(predictor.predict(past, e)[0], y, atol=1e-3)


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    predictor = FlowPredictor(CONFIG)
    losses = train(predictor, steps=30, unroll=1, lr=5e-3, batch=12)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_the_loss_rolls_out_with_the_sampler_that_is_used(
    predictor: FlowPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    original = FlowPredictor.predict

    def spy(self: FlowPredictor, *args: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((self.config.steps, torch.is_grad_enabled()))
        return original(self, *args)

    monkeypatch.setattr(FlowPredictor, "predict", spy)
    predictor.requires_grad_(True)
    loss, figures = predictor.loss(squares(4, 6, seed=1), 4, torch.Generator().manual_seed(0))
    loss.backward()
    assert seen == [(CONFIG.steps, False)] * 3
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in predictor.parameters())
    assert figures["mse"] > 0
    again, _ = predictor.loss(squares(4, 6, seed=1), 4, torch.Generator().manual_seed(0))
    other, _ = predictor.loss(squares(4, 6, seed=1), 4, torch.Generator().manual_seed(1))
    assert torch.equal(again, loss) and not torch.equal(other, loss)


def test_calibration_ignores_cells_that_never_change() -> None:
    torch.manual_seed(0)
    predictor = FlowPredictor(CONFIG)
    clip = squares(64, 3, seed=0)
    predictor.calibrate(clip)
    change = clip.z_BTCHW.diff(dim=1)
    plain = change[:, :, 0].square().mean().sqrt()
    assert plain < predictor.change_scale[0, 0, 0] <= change.abs().max()
    assert predictor.change_scale[2, 0, 0] == pytest.approx(1e-4)  # a channel that never moves
    assert torch.allclose(predictor.proprio_mean_P, clip.proprio_BTP.mean((0, 1)))


def test_folders_are_read_strictly(predictor: FlowPredictor, tmp_path) -> None:
    PREDICTORS.save(predictor, tmp_path / "p")
    again = PREDICTORS.load(tmp_path / "p")
    _, tensors, _ = load_folder(tmp_path / "p", kind="predictor")
    assert torch.equal(again.predict(*inputs())[0], predictor.predict(*inputs())[0])
    with pytest.raises(StorageError, match="unexpected"):
        load_weights(FlowPredictor(dataclasses.replace(CONFIG, depth=1)), tensors, source="p")


def test_double_precision_runs(predictor: FlowPredictor) -> None:
    single = predictor.predict(*inputs())[0]
    net = predictor.double()
    past, e = inputs()
    past = History(z=past.z.double(), proprio=past.proprio.double(), action=past.action.double())
    double = net.predict(past, e.double())[0]
    assert torch.allclose(single.double(), double, atol=1e-3)


def test_misuse_is_refused(predictor: FlowPredictor) -> None:
    past, e = inputs()
    with pytest.raises(InvalidInputError, match=r"draws from noise .* got None"):
        predictor.predict(past, None)[0]
    with pytest.raises(InvalidInputError, match="got"):
        predictor.predict(past, e[:2])[0]
    with pytest.raises(InvalidInputError, match="no multiple of patch=2"):
        FlowPredictor(dataclasses.replace(CONFIG, latent_shape=(8, 1, 1)))
    with pytest.raises(InvalidInputError, match="steps=0"):
        FlowPredictor(dataclasses.replace(CONFIG, steps=0))


def test_golden_values() -> None:
    predictor = FlowPredictor(CONFIG).eval().requires_grad_(False)
    for i, parameter in enumerate(predictor.parameters()):
        parameter.copy_(0.3 * (torch.arange(parameter.numel()).view(parameter.shape) * 0.7 + i).sin())
    z = (torch.arange(2 * 4 * 64).view(1, 2, *SHAPE) * 0.3).sin()
    e = (torch.arange(4 * 64).view(1, *SHAPE) * 0.5).cos()
    body, action = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), torch.tensor([[[-0.5, 0.4], [0.2, 0.9]]])
    y, spread = predictor.predict(History(z=z, proprio=body, action=action), e)
    assert y[0, :, 3, 4].tolist() == pytest.approx(GOLDEN, abs=2e-3)
    assert float(spread) == pytest.approx(GOLDEN_SPREAD, rel=1e-2)


GOLDEN = [1.824374, -2.695068, -0.104918, -1.886559]
GOLDEN_SPREAD = 1.45804
