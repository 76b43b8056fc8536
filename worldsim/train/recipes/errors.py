"""The errors stage: a world predicts episodes that it was trained on, and an error model learns how far off it is.

In episodes of its own training a world errs less than in others, but it errs most where it does in others; what errors come to in
others is said by the validity, which is measured on held-out episodes.

Shape legend: E episodes, J horizons, N errors, X features, M networks.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.core import Rows
from worldsim.data.lerobot.read import Dataset
from worldsim.evaluate.open_loop import (
    MOST_EPISODES,
    Errors,
    combine_errors,
    picture_errors,
    read_recorded,
    roll,
)
from worldsim.evaluate.validity import choose_read_from, measure_errors
from worldsim.noise import seeded
from worldsim.optimize import Schedule, fit
from worldsim.progress import Progress, silent
from worldsim.tokenizers.cameras import held_places
from worldsim.worlds.expected_error import ErrorModel, ErrorModelConfig, OpenLoop, describe_latent
from worldsim.worlds.latent import LearnedWorld

FEWEST = 40
"""Episodes below which nothing is learned of errors: the uncertainty then is the predictor's own."""
_SCHEDULE = Schedule(steps=300, batch=192, lr=3e-3, warmup=30, weight_decay=1.0)
_BAG = 0.8
"""Share of the episodes that each network learns from."""
_FLOOR, _NOTHING = 0.1, 1e-4
"""Errors below this share of the median, and below that share of a constant's, count as none."""
_RISE = 1.02
"""What is expected rises by this factor from horizon to horizon at least: what was not known before is not known later."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeErrors(Rows):
    """N errors that were made, and the predictions that made them."""

    done: OpenLoop
    error: Tensor  # [N]
    constant: Tensor  # [N], what a constant prediction is off by
    step: Tensor  # int64 [N], steps ahead
    episode: Tensor  # int64 [N]


def learn_errors(
    world: LearnedWorld,
    episodes: Sequence[int],
    dataset: Dataset,
    *,
    folder: Path,
    steps: int = _SCHEDULE.steps,
    seed: int = 0,
    progress: Progress = silent,
) -> LearnedWorld:
    """The world with an error model of what its outcomes are read from, learned from open-loop predictions of episodes.

    Args:
        world: What was trained.
        episodes: Of the dataset, that it was trained on; at most three times `MOST_EPISODES` are used, evenly spread.
        dataset: Where they are from.
        folder: Where the checkpoint is kept.
        steps: Optimiser steps; more than 300 are not taken.
        seed: Of weights and batches.
        progress: Called as it advances.

    Returns:
        The same world with an error model; without one where there are fewer than `FEWEST` episodes, or no errors to learn from.

    Raises:
        StorageError: An episode cannot be read, or the folder not be written.
    """
    world = world.with_errors(None)
    made = make_errors(world, episodes, dataset) if len(episodes) >= FEWEST else None
    if made is None:
        return world
    schedule = dataclasses.replace(_SCHEDULE, steps=min(steps, _SCHEDULE.steps))
    model = fit_errors(_shape(world), made, schedule, folder=folder, seed=seed, progress=progress)
    return world.with_errors(model.to(world.device, world.dtype))


def _shape(world: LearnedWorld) -> ErrorModelConfig:
    """The error model's shape, with one horizon."""
    z_BCHW = torch.zeros(1, *world.tokenizer.latent_shape, device=world.device, dtype=world.dtype)
    places = held_places(world.tokenizer, z_BCHW)
    return ErrorModelConfig(
        channels=describe_latent(z_BCHW).shape[1],
        things=0 if places is None else places[0].shape[1],
        action_dim=world.predictor.config.action_dim,
        horizons=(1,),
    )


@torch.no_grad()
def make_errors(world: LearnedWorld, episodes: Sequence[int], dataset: Dataset) -> MadeErrors | None:
    """Predict episodes, some at a time, and compare what outcomes are read from; None where nothing can be compared.

    Args:
        world: What was trained.
        episodes: Of the dataset; as for `learn_errors`.
        dataset: Where they are from.
    """
    following = world.with_errors(ErrorModel(_shape(world)).to(world.device, world.dtype))
    count = min(3 * MOST_EPISODES, len(episodes))
    chosen = [episodes[i * len(episodes) // count] for i in range(count)]
    read_from: tuple[str, ...] = ()
    made = list[MadeErrors]()
    for begin in range(0, count, MOST_EPISODES):
        recorded = read_recorded(world.spec, chosen[begin : begin + MOST_EPISODES], dataset)
        if recorded is None:
            continue
        rolled = roll(following, recorded, recorded.actions)
        every = measure_errors(world, recorded, rolled, pictures=False)
        read_from = read_from or choose_read_from(world, every, recorded.horizons)
        used = [e for e in every if e.quantity in read_from]
        if not used and world.spec.cameras:
            used = picture_errors(world, recorded, rolled)
        steps = [h // world.spec.actions_per_step for h in recorded.horizons]
        made += _known(used, [done for done in rolled.done if done is not None], steps, begin)
    return MadeErrors.cat(made) if made else None


def _known(
    errors: Sequence[Errors], done: Sequence[OpenLoop], steps: Sequence[int], begin: int
) -> Iterator[MadeErrors]:
    """The errors that are known at each horizon; `begin` is the number of the first episode."""
    if not errors:
        return
    error_EJ = combine_errors([e.world for e in errors])
    constant_EJ = combine_errors([e.constant for e in errors])
    for j, (step, found) in enumerate(zip(steps, done, strict=True)):
        known_N = (error_EJ[:, j].isfinite() & constant_EJ[:, j].isfinite()).nonzero()[:, 0]
        if len(known_N):
            yield MadeErrors(
                done=found.to("cpu").rows(known_N),
                error=error_EJ[known_N, j],
                constant=constant_EJ[known_N, j],
                step=torch.full_like(known_N, step),
                episode=begin + known_N,
            )


def fit_errors(
    shape: ErrorModelConfig,
    made: MadeErrors,
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    progress: Progress = silent,
) -> ErrorModel:
    """Train an error model.

    Args:
        shape: Its shape; the horizons are those of the errors.
        made: The errors.
        schedule: How long; batches are for each network.
        folder: Where the checkpoint is kept.
        seed: Of weights and batches.
        progress: Called as it advances.
    """
    steps_J, horizon_N = made.step.unique(return_inverse=True)
    with seeded(seed):
        model = ErrorModel(dataclasses.replace(shape, horizons=tuple(steps_J.tolist())))
    error_N = made.error / made.constant.square().mean().sqrt().clamp_min(1e-9)
    log_N = (error_N + max(_FLOOR * float(error_N.median()), _NOTHING)).log()
    rest_N = log_N - _means(log_N, horizon_N)[horizon_N]
    model.level_J.copy_(_means(log_N, horizon_N))
    model.scale.copy_(rest_N.std().clamp_min(1e-3))
    x_NX, target_N = model.calibrate(made.done), rest_N / model.scale
    networks, generator = 2 * shape.members, torch.Generator().manual_seed(seed)
    episodes = int(made.episode.max()) + 1
    bags = [torch.randperm(episodes, generator=generator)[: max(1, round(_BAG * episodes))] for _ in range(networks)]
    own = [torch.isin(made.episode, bag).nonzero()[:, 0] for bag in bags]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        picks = [rows[torch.randint(0, len(rows), (schedule.batch,), generator=draw)] for rows in own]
        chosen_MN = torch.stack(picks)
        loss = F.smooth_l1_loss(model.look(x_NX[chosen_MN]), target_N[chosen_MN])
        return loss, {"errors": float(loss.detach())}

    fit(model, loss_at, schedule, folder=folder, stage="errors", progress=progress)
    _settle(model, made, error_N, horizon_N)
    return model.requires_grad_(False)


@torch.no_grad()
def _settle(model: ErrorModel, made: MadeErrors, error_N: Tensor, horizon_N: Tensor) -> None:
    """Scale what is expected at every horizon to what errors came to, or a little more than at the horizon before."""
    said_J, true_J = _means(model(made.done), horizon_N), _means(error_N, horizon_N)
    least = 0.0
    for j, true in enumerate(true_J.tolist()):
        least = max(true, _RISE * least, _NOTHING)
        model.level_J[j] += torch.log(least / said_J[j])


def _means(value_N: Tensor, horizon_N: Tensor) -> Tensor:
    """The mean at each horizon, [J]."""
    total_J = torch.zeros(int(horizon_N.max()) + 1).index_add(0, horizon_N, value_N)
    return total_J / horizon_N.bincount()
