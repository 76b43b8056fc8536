"""What a world is put together from, before its heads, by the family that is trained: tokenizer, latents and predictor."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.optimize import fit
from worldsim.predict.base import Predictor
from worldsim.progress import Progress
from worldsim.tokenizers import join_cameras
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.cost import Cost, TrainingPlan
from worldsim.train.recipes.encode import encode_all, fit_tokenizers, train_tokenizers
from worldsim.train.recipes.predictor import prepare_predictor
from worldsim.train.recipes.rehearsal import rehearse
from worldsim.train.recipes.settings import TrainWorld, split_episodes
from worldsim.train.recipes.structured.dynamics import measure_dynamics, train_dynamics
from worldsim.train.recipes.structured.family import BegunCamera, BegunPictures, begin_pictures, rehearse_structured
from worldsim.train.recipes.structured.pictures import StageReport, train_pictures
from worldsim.train.recipes.structured.settings import FAMILY
from worldsim.train.recipes.tokenizer import FittedTokenizer

LEAST_ROWS, LEAST_HELD_OUT = 500, 200
"""Moments that pictures are learned from and measured on, at least, however little time there is."""
Begun = Mapping[str, FittedTokenizer] | BegunPictures
"""What a training begins with: tokenizers by camera, fitted, or the untrained one of the structured family."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Trained parts of a world.

    Attributes:
        tokenizer: How frames become latents.
        encoded: All episodes.
        predictor: How latents move.
        core_s: Core-seconds by stage.
        notes: For the manifest.
    """

    tokenizer: LatentSpace
    encoded: EncodedEpisodes
    predictor: Predictor
    core_s: dict[str, float]
    notes: dict[str, Any]


def begin_parts(dataset: Dataset, config: TrainWorld, work: Path, progress: Progress) -> Begun:
    """Fit what has a closed form."""
    if config.family == FAMILY:
        return begin_pictures(dataset, config)
    return fit_tokenizers(dataset, config, work, progress)


def rehearse_parts(dataset: Dataset, begun: Begun, config: TrainWorld, *, labelled: bool) -> TrainingPlan:
    """Take a few steps of every stage, and add up what all of them will take; `begun` stays as it is."""
    if isinstance(begun, BegunPictures):
        return rehearse_structured(dataset, begun, config, labelled=labelled)
    return rehearse(dataset, begun, config, labelled=labelled)


def keep_rows(begun: Begun, *, share: float = 1.0, most: int = sys.maxsize, held_out: int = sys.maxsize) -> Begun:
    """The same, of the structured family with fewer moments to learn pictures from and to measure them on; `begun` stays as it is.

    Args:
        begun: What a training begins with.
        share: Of all moments, in (0, 1]; `LEAST_ROWS` at least to learn from, and `LEAST_HELD_OUT` to measure on.
        most: Moments to learn from, at most.
        held_out: Moments to measure on, at most.
    """
    if not isinstance(begun, BegunPictures):
        return begun

    def fewer(one: BegunCamera) -> BegunCamera:
        count = min(most, max(LEAST_ROWS, math.ceil(share * len(one.rows))))
        aside = min(held_out, max(LEAST_HELD_OUT, math.ceil(share * len(one.held_out))))
        return dataclasses.replace(one, rows=one.rows.first(count), held_out=one.held_out.first(aside))

    return dataclasses.replace(begun, cameras={key: fewer(one) for key, one in begun.cameras.items()})


def train_parts(dataset: Dataset, begun: Begun, config: TrainWorld, work: Path, progress: Progress) -> Parts:
    """Train tokenizer and predictor, continuing from `work`, and encode every episode."""
    if isinstance(begun, BegunPictures):
        return _train_structured(dataset, begun, config, work, progress)
    tokenizer, seconds = train_tokenizers(begun, dataset, config, work, progress)
    encoded, latents_s = _encode(dataset, tokenizer, config, work, progress)
    trained, _ = encoded.split(split_episodes(dataset)[1])
    predictor = prepare_predictor(
        trained, tokenizer, dataset.action_spec, config.predictor, seed=config.seed, device=config.device
    )
    stage, schedule = f"predictor {predictor.name}", config.predictor.schedule
    spent = fit(
        predictor.module, predictor.loss_at, schedule, folder=work / "predictor", stage=stage, progress=progress
    )
    cost = {"tokenizer": seconds, "latents": latents_s, "predictor": spent}
    return Parts(tokenizer=tokenizer, encoded=encoded, predictor=predictor.predictor, core_s=cost, notes={})


def _encode(
    dataset: Dataset, tokenizer: LatentSpace, config: TrainWorld, work: Path, progress: Progress
) -> tuple[EncodedEpisodes, float]:
    """All episodes, and the core-seconds that it took now: few where they were encoded before a kill."""
    began = Cost.now()
    encoded = encode_all(dataset, tokenizer, config, work, progress).weighted(dataset.weights)
    return encoded, Cost.since(began).core_s


def _train_structured(
    dataset: Dataset, begun: BegunPictures, config: TrainWorld, work: Path, progress: Progress
) -> Parts:
    """The stages of the structured family."""
    recipe, seed, action = config.structured, config.seed, dataset.action_spec
    report, trained_by_key = StageReport(), dict[str, LatentSpace]()
    for key, one in begun.cameras.items():
        several = len(begun.cameras) > 1
        folder = work / "tokenizer" / one.name if several else work / "tokenizer"
        trained_by_key[key], own = train_pictures(
            one.tokenizer, one.rows, one.held_out, recipe, seed=seed, folder=folder, progress=progress
        )
        report.add(own, camera=one.name if several else "")
    tokenizer = join_cameras(trained_by_key)
    encoded, report.core_s["latents"] = _encode(dataset, tokenizer, config, work, progress)
    trained, held_out = encoded.split(split_episodes(dataset)[1])
    folder = work / "predictor"
    predictor = train_dynamics(
        tokenizer, trained, action, recipe, seed=seed, folder=folder, progress=progress, report=report
    )
    measure_dynamics(predictor, held_out, action, report)
    figures = {name: round(value, 4) for name, value in report.figures.items()}
    notes: dict[str, Any] = {"stages": figures, "warnings": report.warnings}
    if begun.joints is not None:
        notes["joints"] = dataclasses.asdict(begun.joints)
    return Parts(tokenizer=tokenizer, encoded=encoded, predictor=predictor, core_s=report.core_s, notes=notes)
