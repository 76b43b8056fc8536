"""Predicted latents that heads learn from."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train import toy
from worldsim.conditions import Conditions
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.windows import EncodedEpisode
from worldsim.noise import seeded
from worldsim.optimize import Schedule, fit
from worldsim.predict.base import Context
from worldsim.predict.mlp import MLPConfig, MLPPredictor
from worldsim.progress import silent
from worldsim.tokenizers.base import LatentSpace
from worldsim.tokenizers.state import IdentityConfig, IdentityTokenizer
from worldsim.train.recipes import heads as stage
from worldsim.train.recipes.heads import predict_episodes, prepare_heads, time_predicted

NUMBERS = 2


def encoded(lengths: list[int]) -> EncodedEpisodes:
    """Episodes that rise to 1 or stay at 0, by turns; the first number of the latent says how far they are."""
    made = []
    for i, frames in enumerate(lengths):
        rises = torch.linspace(0, 1, frames) * (i % 2)
        z_FD = torch.stack([rises, torch.full((frames,), 0.01 * i)], 1)
        made.append(
            EncodedEpisode(
                z_FCHW=z_FD[..., None, None],
                proprio_FP=z_FD,
                action_FA=torch.full((frames - 1, 2), 0.1 * i),
                progress_F=rises,
                success_F=(rises > 0.9).float(),
            )
        )
    return EncodedEpisodes(episodes=tuple(made), indices=tuple(range(10, 10 + len(made))))


@pytest.fixture(scope="module")
def predictor() -> MLPPredictor:
    """Untrained: it hardly leaves where it begins."""
    with seeded(0):
        return MLPPredictor(MLPConfig(latent_shape=(NUMBERS, 1, 1), proprio_dim=2, action_dim=2)).eval()


def alone(predictor: MLPPredictor, episode: EncodedEpisode) -> Tensor:
    """The predicted latents [F, C, H, W] of an episode, a step at a time."""
    idle = torch.zeros(1, 2)
    carry = predictor.start(Context(z=episode.z_FCHW[:1], proprio=episode.proprio_FP[:1], action=idle))
    found = [episode.z_FCHW[:1]]
    for action, proprio in zip(episode.action_FA, episode.proprio_FP[:-1], strict=True):
        carry, made = predictor.step(carry, action[None], proprio[None], Conditions(), None)
        found.append(made.z[0])
    return torch.cat(found).detach()


def test_episodes_of_any_lengths_are_predicted_as_if_alone(predictor: MLPPredictor) -> None:
    given = encoded([4, 9, 6])
    made, core_s = predict_episodes(predictor, given, toy.ACTION, seed=0, progress=silent)
    assert made.indices == given.indices and core_s > 0
    for before, after in zip(given.episodes, made.episodes, strict=True):
        torch.testing.assert_close(after.z_FCHW, alone(predictor, before))
        assert torch.equal(after.progress_F, before.progress_F) and torch.equal(after.action_FA, before.action_FA)
    assert not torch.equal(made.episodes[1].z_FCHW, given.episodes[1].z_FCHW)


def test_of_large_latents_some_are_predicted_evenly_spread(
    predictor: MLPPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MOST_NUMBERS", 3 * 5 * NUMBERS)
    made, _ = predict_episodes(predictor, encoded([5] * 9), toy.ACTION, seed=0, progress=silent)
    assert made.indices == (10, 14, 18)
    assert time_predicted(predictor, encoded([5] * 9), toy.ACTION, frames=10**9).core_s < 60


def test_predictions_that_do_not_stay_finite_are_left_out(
    predictor: MLPPredictor, dataset: Dataset, tmp_path: Path
) -> None:
    given = encoded([6, 6, 6])
    broken = dataclasses.replace(given.episodes[1], action_FA=torch.full((5, 2), torch.nan))
    mixed = dataclasses.replace(given, episodes=(given.episodes[0], broken, given.episodes[2]))
    made, _ = predict_episodes(predictor, mixed, toy.ACTION, seed=0, progress=silent)
    assert made.indices == (10, 12)
    none = EncodedEpisodes(episodes=(), indices=())
    assert progress_at_the_beginning(dataset, none, tmp_path) == progress_at_the_beginning(
        dataset, None, tmp_path / "b"
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(toy.write(tmp_path_factory.mktemp("heads") / "data", episodes=3))


def progress_at_the_beginning(dataset: Dataset, predicted: EncodedEpisodes | None, folder: Path) -> float:
    """What heads read where nothing has happened yet, or nothing was predicted to."""
    given, schedule = encoded([8] * 20), Schedule(steps=150, batch=128, lr=1e-2)
    tokenizer: LatentSpace = IdentityTokenizer(IdentityConfig(size=NUMBERS))
    heads, loss_at = prepare_heads(
        given, given, tokenizer, dataset, schedule, predicted=predicted, labels={}, seed=0, device="cpu"
    )
    fit(heads, loss_at, schedule, folder=folder, stage="heads", progress=silent)
    z_BCHW = given.episodes[1].z_FCHW[:1]
    with torch.no_grad():
        return float(heads(z_BCHW, z_BCHW, torch.zeros(1, 2), torch.zeros(1, 2))[1].sigmoid())


def test_heads_do_not_believe_a_prediction_that_nothing_happens_if_it_is_often_wrong(
    dataset: Dataset, predictor: MLPPredictor, tmp_path: Path
) -> None:
    assert progress_at_the_beginning(dataset, None, tmp_path / "encoded") < 0.1
    predicted, _ = predict_episodes(predictor, encoded([8] * 20), toy.ACTION, seed=0, progress=silent)
    assert 0.15 < progress_at_the_beginning(dataset, predicted, tmp_path / "both") < 0.45
