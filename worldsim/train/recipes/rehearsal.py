"""The rehearsal of a training: a few steps of every stage on a few episodes, added up to what all of them will take."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.evaluate.validity import figure_bytes
from worldsim.optimize import Schedule, shorten_schedule
from worldsim.tokenizers import join_cameras
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.cost import (
    LABELS_COST,
    Choice,
    Cost,
    TrainingPlan,
    peak_memory,
    time_call,
    time_step,
    time_tokenizer,
    time_unrolls,
)
from worldsim.train.recipes.encode import encode_some, training_frames
from worldsim.train.recipes.heads import prepare_heads, time_predicted
from worldsim.train.recipes.predictor import PreparedPredictor, prepare_predictor
from worldsim.train.recipes.settings import TrainWorld, split_episodes
from worldsim.train.recipes.structured.family import shorten_structured
from worldsim.train.recipes.tokenizer import FittedTokenizer

REHEARSED = 8
"""Episodes that the rehearsal encodes and learns from."""
SMALL_BATCH, SLOW_S = 64, 0.5
"""Windows of a batch that a predictor is tried on first; where a step of a full batch would take longer than that in proportion, none is
tried: slow steps cost by the window."""


def rehearse(
    dataset: Dataset, fitted: Mapping[str, FittedTokenizer], config: TrainWorld, *, labelled: bool
) -> TrainingPlan:
    """Take a few steps of every stage on a few episodes, and add up what all of them will take.

    Args:
        dataset: What is learned from.
        fitted: Tokenizers by camera, which stay as they are.
        config: What is to be done.
        labelled: Labels of people are used.
    """
    tokenizer = join_cameras({key: one.tokenizer for key, one in fitted.items()})
    chosen = [i for i in split_episodes(dataset)[0] if dataset.length(i) > 1][:REHEARSED]
    few = list[EncodedEpisodes]()
    with tempfile.TemporaryDirectory(prefix="worldsim-rehearsal-") as scratch:
        took = time_call(
            lambda: few.append(encode_some(dataset, tokenizer, config, chosen, Path(scratch) / "latents", key=""))
        )
    lengths = {i: dataset.length(i) for i in dataset.used}
    stages = {"tokenizer": Cost(), "latents": took * (sum(lengths.values()) / max(sum(lengths[i] for i in chosen), 1))}
    for key, one in () if config.state else fitted.items():
        frames = functools.partial(training_frames, dataset, key)
        stages["tokenizer"] += time_tokenizer(one, frames, config.tokenizer, seed=config.seed)
    prepared, stages["predictor"] = _rehearse_predictor(dataset, few[0], tokenizer, config)
    heads, loss_at = prepare_heads(
        few[0], few[0], tokenizer, dataset, config.heads, labels={}, seed=config.seed, device=config.device
    )
    stages["heads"] = time_step(heads.train(), loss_at, 0) * (config.heads.steps * (LABELS_COST if labelled else 1.0))
    latents = sum(lengths.values()) // tokenizer.temporal_stride
    stages["heads"] += time_predicted(prepared.predictor, few[0], dataset.action_spec, frames=latents)
    latents_bytes = 4 * math.prod(tokenizer.latent_shape) * latents
    suits = "" if config.predictor.name != "auto" else f"the one for latents that are {tokenizer.family}"
    return TrainingPlan(
        choices=tuple(
            Choice(camera=c.name if len(fitted) > 1 else "", tokenizer=one.name, why=one.why)
            for c, one in zip(dataset.cameras, fitted.values(), strict=False)
        ),
        predictor=prepared.name,
        suits=suits,
        steps={
            "tokenizer": 0 if config.state else config.tokenizer.schedule.steps,
            "predictor": config.predictor.schedule.steps,
            "heads": config.heads.steps,
        },
        stages=stages,
        memory_bytes=peak_memory() + 2 * latents_bytes + figure_bytes(dataset, len(split_episodes(dataset)[1])),
    )


def _rehearse_predictor(
    dataset: Dataset, few: EncodedEpisodes, tokenizer: LatentSpace, config: TrainWorld
) -> tuple[PreparedPredictor, Cost]:
    """A predictor that was tried, and what training it will cost: of a slow one from a small batch, in proportion."""
    schedule = config.predictor.schedule
    for batch in sorted({min(SMALL_BATCH, schedule.batch), schedule.batch}):
        recipe = dataclasses.replace(config.predictor, schedule=dataclasses.replace(schedule, batch=batch))
        prepared = prepare_predictor(
            few, tokenizer, dataset.action_spec, recipe, seed=config.seed, device=config.device
        )
        cost = time_unrolls(prepared.module, prepared.loss_at, recipe.schedule, prepared.unrolls) * (
            schedule.batch / batch
        )
        if cost.core_s > SLOW_S * schedule.steps:
            break
    return prepared, cost


def shorten_all(config: TrainWorld, shares: Mapping[str, float]) -> TrainWorld:
    """The settings with shares, in (0, 1], of the steps of the schedules that are named by stage."""

    def shorten(schedule: Schedule, stage: str) -> Schedule:
        return shorten_schedule(schedule, shares.get(stage, 1.0))

    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, schedule=shorten(config.tokenizer.schedule, "tokenizer")),
        predictor=dataclasses.replace(config.predictor, schedule=shorten(config.predictor.schedule, "predictor")),
        structured=shorten_structured(config.structured, shares),
        heads=shorten(config.heads, "heads"),
    )
