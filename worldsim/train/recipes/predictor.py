"""The predictor stage: build the one that suits the tokenizer, with the loss of longer and longer rollouts of its own.

Shape legend: B batch, T frames of a window, A action.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.actions import ActionSpec
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.windows import ClipSampler
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule
from worldsim.predict import PREDICTORS
from worldsim.predict.base import Predictor
from worldsim.tokenizers.base import LatentSpace, Layered

LAYER_PREDICTOR = "rigid"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorRecipe:
    """How the predictor is made.

    Attributes:
        name: ``auto`` (rigid for layers, conv for grids), ``rigid``, ``conv`` or ``flow``.
        options: Fields of the predictor's config that differ from its defaults.
        schedule: Optimiser steps, batch, learning rate.
        unrolls: Stages of the curriculum: steps of self-rollout, and the share of training at which each stage ends.
        eventful: Share of windows drawn where something unexpected happens (contact).
    """

    name: str = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=0, batch=256, lr=2e-3))
    unrolls: tuple[tuple[int, float], ...] = ((1, 0.2), (2, 0.35), (4, 0.55), (8, 0.8), (12, 1.0))
    eventful: float = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedPredictor:
    """A predictor that is calibrated, and the loss that it is trained with.

    Attributes:
        name: Of its family.
        predictor: The module, on the device where it trains.
        loss_at: Loss and figures of a step.
        unrolls: Stages of the curriculum, as in the recipe.
    """

    name: str
    predictor: Predictor
    loss_at: LossAt
    unrolls: tuple[tuple[int, float], ...]

    @property
    def module(self) -> nn.Module:
        """The predictor as a module."""
        assert isinstance(self.predictor, nn.Module)
        return self.predictor


def prepare_predictor(
    encoded: EncodedEpisodes,
    tokenizer: LatentSpace,
    action: ActionSpec,
    recipe: PredictorRecipe,
    *,
    seed: int,
    device: str,
) -> PreparedPredictor:
    """Build the predictor that suits a tokenizer.

    Args:
        encoded: Episodes to learn from.
        tokenizer: What made their latents.
        action: Meaning of their actions.
        recipe: What to make, and how.
        seed: Of weights, windows and training noise.
        device: Where to train.
    """
    name = recipe.name if recipe.name != "auto" else suited(tokenizer)
    with seeded(seed):
        predictor = PREDICTORS.build(name, _config(name, encoded, tokenizer, action, recipe))
    history = int(predictor.config.history)
    clips = clips_of(encoded, history=history, action=action, stride=tokenizer.temporal_stride)
    longest = min(recipe.unrolls[-1][0], encoded.longest - 1)
    predictor.calibrate(clips.batch(clips.windows(history + 1), history + 1, 2048, seed=seed, step=-1))
    tables = {u: clips.windows(history + min(u, longest)) for u, _ in recipe.unrolls}
    noise = torch.Generator()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        share = step / recipe.schedule.steps
        unroll = next(u for u, end in recipe.unrolls if share < end)
        length, size = history + min(unroll, longest), recipe.schedule.batch
        clip = clips.batch(tables[unroll], length, size, seed=seed, step=step, eventful=recipe.eventful)
        noise.manual_seed(seed * 1_000_003 + step)
        return predictor.loss(clip.to(device), length - history, noise)

    assert isinstance(predictor, nn.Module)
    predictor.to(device)
    return PreparedPredictor(name=name, predictor=predictor, loss_at=loss_at, unrolls=recipe.unrolls)


def _config(
    name: str, encoded: EncodedEpisodes, tokenizer: LatentSpace, action: ActionSpec, recipe: PredictorRecipe
) -> dict[str, Any]:
    """The predictor's config as JSON values."""
    layered = {"orders": list(tokenizer.orders)} if name == LAYER_PREDICTOR and isinstance(tokenizer, Layered) else {}
    shapes = {
        "latent_shape": list(tokenizer.latent_shape),
        "proprio_dim": encoded.proprio_dim,
        "action_dim": action.encoded_dim * tokenizer.temporal_stride,
    }
    return {**shapes, **layered, **recipe.options}


def suited(tokenizer: LatentSpace) -> str:
    """The predictor that goes with a tokenizer."""
    return {"grid": "conv", "layers": LAYER_PREDICTOR, "vector": "mlp"}[tokenizer.family]


def clips_of(encoded: EncodedEpisodes, *, history: int, action: ActionSpec, stride: int) -> ClipSampler:
    """Windows over encoded episodes; a step takes `stride` actions."""
    idle_E = action.normalize(torch.tensor(action.idle)).repeat(stride)
    return ClipSampler(encoded.episodes, history=history, idle_A=idle_E)
