import dataclasses

import numpy as np
import pytest
import torch

from tests.predict.squares import SHAPE, rollout_error, squares, train
from worldsim.errors import InvalidInputError, StorageError
from worldsim.predict import PREDICTORS
from worldsim.predict.base import History
from worldsim.predict.conv import ConvConfig, ConvPredictor
from worldsim.storage import load_folder, load_weights

CONFIG = ConvConfig(latent_shape=SHAPE, proprio_dim=2, action_dim=2, width=16, blocks=2)


@pytest.fixture
def predictor() -> ConvPredictor:
    torch.manual_seed(0)
    made = ConvPredictor(CONFIG)
    made.calibrate(squares(64, 3, seed=0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval().requires_grad_(False)


def inputs(batch: int = 3) -> History:
    clip = squares(batch, 3, seed=5)
    return History.at(clip, 0, clip.z_BTCHW[:, :2])


def test_untrained_it_predicts_no_change() -> None:
    past = inputs()
    assert torch.equal(ConvPredictor(CONFIG).predict(past)[0], past.z[:, -1])


def test_it_learns_squares_and_knows_how_wrong_it_is() -> None:
    torch.manual_seed(0)
    predictor = ConvPredictor(dataclasses.replace(CONFIG, width=24))
    losses = train(predictor, steps=70, unroll=2, lr=4e-3)
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    for horizon in (1, 4):
        error, copied = rollout_error(predictor, horizon=horizon)
        assert error < 0.5 * copied
    clip = squares(128, 3, seed=77)
    with torch.no_grad():
        y, expected = predictor.predict(History.at(clip, 0, clip.z_BTCHW[:, :2]))
    made = ((y - clip.z_BTCHW[:, 2]) / predictor.change_scale).square().mean((1, 2, 3)).sqrt()
    assert float(expected.mean()) == pytest.approx(float(made.mean()), rel=0.5)


def test_the_rollout_is_its_own_and_differentiable(predictor: ConvPredictor) -> None:
    predictor.requires_grad_(True)
    clip = squares(4, 5, seed=1)
    loss, figures = predictor.loss(clip, 3)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in predictor.parameters())
    assert figures["mse"] > 0
    future = dataclasses.replace(clip, z_BTCHW=clip.z_BTCHW.clone())
    future.z_BTCHW[:, 2] += 1  # a target, never an input
    with torch.no_grad():
        moved, _ = predictor.loss(future, 3)
        third = [float(predictor.loss(c, 3)[1]["mse"]) for c in (clip, future)]
    assert moved > loss and third[0] == third[1]


def test_an_episode_is_the_same_alone_and_in_a_batch(predictor: ConvPredictor) -> None:
    past = inputs(5)
    together, spread = predictor.predict(past)
    alone, one = predictor.predict(past.rows([3]))
    assert torch.allclose(together[3:4], alone, atol=1e-5) and torch.allclose(spread[3:4], one, atol=1e-5)
    assert together.shape == (5, *SHAPE) and spread.shape == (5,) and bool((spread >= 0).all())


def test_action_history_and_proprioception_all_matter(predictor: ConvPredictor) -> None:
    past = inputs()
    y = predictor.predict(past)[0]
    for other in (
        dataclasses.replace(past, action=past.action.flip(0)),
        dataclasses.replace(past, proprio=past.proprio + 1),
        dataclasses.replace(past, z=torch.cat([past.z[:, :1] + 1, past.z[:, 1:]], dim=1)),
    ):
        assert (predictor.predict(other)[0] - y).abs().max() > 1e-4


def test_folders_are_read_strictly(predictor: ConvPredictor, tmp_path) -> None:
    PREDICTORS.save(predictor, tmp_path / "p")
    again = PREDICTORS.load(tmp_path / "p")
    _, tensors, _ = load_folder(tmp_path / "p", kind="predictor")
    assert torch.equal(again.predict(inputs())[0], predictor.predict(inputs())[0])
    with pytest.raises(StorageError, match="missing"):
        load_weights(ConvPredictor(dataclasses.replace(CONFIG, blocks=3)), tensors, source="p")


def test_a_width_that_does_not_group_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="multiple of 8; got 12"):
        ConvPredictor(dataclasses.replace(CONFIG, width=12))


def test_golden_values() -> None:
    predictor = ConvPredictor(CONFIG).eval().requires_grad_(False)
    for i, parameter in enumerate(predictor.parameters()):
        parameter.copy_(0.2 * (torch.arange(parameter.numel()).view(parameter.shape) * 0.7 + i).sin())
    z = (torch.arange(2 * 4 * 64).view(1, 2, *SHAPE) * 0.3).sin()
    body, action = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), torch.tensor([[[-0.5, 0.4], [0.2, 0.9]]])
    y, spread = predictor.predict(History(z=z, proprio=body, action=action))
    assert [*y[0, :, 3, 4].tolist(), float(spread)] == pytest.approx(GOLDEN, abs=1e-3)


GOLDEN = [2.4023, 6.73359, 10.64684, 13.81683, 1.13858]
