"""A structured world's parts, from a dataset: what is planned, and what is trained.

Shape legend: P proprio.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.evaluate.validity import figure_bytes
from worldsim.optimize import shorten_schedule
from worldsim.tokenizers import join_cameras
from worldsim.tokenizers.base import LatentSpace
from worldsim.tokenizers.structured.tokenizer import StructuredTokenizer
from worldsim.train.recipes.cost import (
    FRAMES,
    LABELS_COST,
    LATENTS,
    Choice,
    Cost,
    TrainingPlan,
    peak_memory,
    time_call,
    time_step,
    time_unrolls,
)
from worldsim.train.recipes.encode import encode_some
from worldsim.train.recipes.heads import prepare_heads, time_predicted
from worldsim.train.recipes.settings import TrainWorld, split_episodes
from worldsim.train.recipes.structured.dynamics import begin_predictor, dynamics_losses
from worldsim.train.recipes.structured.joints import Joints, find_joints
from worldsim.train.recipes.structured.kinds import LOOKED_AT, Kinds, find_kinds
from worldsim.train.recipes.structured.pictures import (
    CACHED,
    StageReport,
    actor_loss,
    begin_tokenizer,
    explained_by_things,
    keep_looks,
    measure_actor,
    painter_loss,
    things_loss,
)
from worldsim.train.recipes.structured.rows import FrameRows, sample_rows
from worldsim.train.recipes.structured.settings import FAMILY, STAGES, StructuredRecipe

HELD_OUT_ROWS = 600
"""Moments of held-out episodes that stages are measured on."""
_REHEARSED, _FEW, _TIMED = 8, 200, 32
"""Episodes that are encoded, rows that stages are tried on, and rows that are timed one by one."""
_KEPT_AS_FOUND = 2
"""What keeping the looks of a row costs beside finding its things: they are drawn too."""
_WHY = "Canvas, robot and things"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BegunCamera:
    """The untrained tokenizer of a camera, and what it is trained and measured on."""

    name: str
    tokenizer: StructuredTokenizer
    rows: FrameRows
    held_out: FrameRows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BegunPictures:
    """The cameras, by key, and joints that were found; None where they were given."""

    cameras: dict[str, BegunCamera]
    joints: Joints | None = None


def begin_pictures(dataset: Dataset, config: TrainWorld) -> BegunPictures:
    """Sample frames, and make the tokenizer of every camera.

    Raises:
        InvalidInputError: Frames or joints do not fit, or no episode can be read.
    """
    trained, held_out = split_episodes(dataset)
    begun, joints = dict[str, BegunCamera](), None
    for camera in dataset.cameras:
        rows = sample_rows(dataset, camera.key, trained, most=config.structured.frames, seed=config.seed)
        aside = sample_rows(dataset, camera.key, held_out, most=HELD_OUT_ROWS, seed=config.seed)
        if joints is None and config.structured.joints == "auto":
            joints = find_joints(rows, aside)
        tokenizer = begin_tokenizer(rows, config.structured, seed=config.seed, joints=joints)
        begun[camera.key] = BegunCamera(name=camera.name, tokenizer=tokenizer, rows=rows, held_out=aside)
    return BegunPictures(cameras=begun, joints=joints)


def rehearse_structured(dataset: Dataset, begun: BegunPictures, config: TrainWorld, *, labelled: bool) -> TrainingPlan:
    """Take a step of every stage, and add up what all of them will take.

    Args:
        dataset: What is learned from.
        begun: Stays as it is.
        config: What is to be done.
        labelled: Labels of people are used.
    """
    recipe, seed, action = config.structured, config.seed, dataset.action_spec
    stages, trials, frames_bytes = dict[str, Cost](), dict[str, LatentSpace](), 0
    for key, one in begun.cameras.items():
        trials[key], taken = _rehearse_pictures(one, recipe, seed=seed)
        stages |= {stage: stages.get(stage, Cost()) + cost for stage, cost in taken.items()}
        frames_bytes += one.rows.frames_NCHW.numel() * 3
    trial = join_cameras(trials)
    encoded, stages["latents"] = _encode_few(dataset, trial, config)
    predictor = begin_predictor(trial, encoded, action, seed=seed)
    for name, module, at, schedule in dynamics_losses(predictor, encoded, action, recipe, seed=seed):
        stages[name] = time_unrolls(module, at, schedule, recipe.unrolls)
    heads, loss_at = prepare_heads(
        encoded, encoded, trial, dataset, config.heads, labels={}, seed=seed, device=config.device
    )
    stages["heads"] = time_step(heads.train(), loss_at, 0) * (config.heads.steps * (LABELS_COST if labelled else 1.0))
    frames = sum(dataset.length(i) for i in split_episodes(dataset)[0])
    stages["heads"] += time_predicted(predictor, encoded, action, frames=frames)
    steps = {name: getattr(recipe, name).steps for name in stages if name not in (LATENTS, FRAMES, "heads")}
    why = _WHY if begun.joints is None else f"{_WHY}; {begun.joints.said()}"
    names = [one.name if len(begun.cameras) > 1 else "" for one in begun.cameras.values()]
    return TrainingPlan(
        choices=tuple(Choice(camera=name, tokenizer=FAMILY, why=why) for name in names),
        predictor=FAMILY,
        suits="body dynamics from actions, and a contact model over poses",
        steps={**steps, "heads": config.heads.steps},
        stages=stages,
        memory_bytes=peak_memory() + frames_bytes + figure_bytes(dataset, len(split_episodes(dataset)[1])),
    )


def _rehearse_pictures(
    begun: BegunCamera, recipe: StructuredRecipe, *, seed: int
) -> tuple[StructuredTokenizer, dict[str, Cost]]:
    """A camera's tokenizer after a step of every stage, and what all steps of these will cost."""
    trial = copy.deepcopy(begun.tokenizer)
    few = begun.rows.first(_FEW)
    stages = {"actor": time_step(trial.actor, actor_loss(trial, few, recipe.actor, seed=seed), 0) * recipe.actor.steps}
    parts = [part for part in (trial.encoder, trial.painter) if part is not None]
    if parts:
        late, kinds = recipe.things.steps - 1, find_kinds(trial, few, most=1)
        loss_at = things_loss(trial, few, kinds, recipe.things, seed=seed)
        stages["things"] = time_step(nn.ModuleList(parts), loss_at, late) * recipe.things.steps
        stages[FRAMES] = _time_frames(copy.deepcopy(trial), few.first(_TIMED), kinds, recipe, begun)
    painters = nn.ModuleList([trial.actor, *parts[1:]])
    loss_at = painter_loss(trial, few, recipe.painter, seed=seed)
    stages["painter"] = time_step(painters, loss_at, 0) * recipe.painter.steps
    return trial, stages


def _time_frames(
    tokenizer: StructuredTokenizer, few: FrameRows, kinds: Kinds, recipe: StructuredRecipe, begun: BegunCamera
) -> Cost:
    """What it will take to do, for all rows, what is done once for each: things looked for, robots drawn, things found, looks kept.

    And to measure all that on held-out rows.

    Args:
        tokenizer: Gets the looks of a few rows.
        few: Those, frames [N, 3, H, W].
        kinds: Of the tokenizer's things.
        recipe: How the stages are trained.
        begun: All rows.
    """
    rows = len(begun.rows)
    cached, looked_at = min(CACHED, rows), min(LOOKED_AT, rows)
    look = time_call(lambda: find_kinds(tokenizer, few, most=recipe.most_things))
    draw = time_call(lambda: things_loss(tokenizer, few, kinds, recipe.things, seed=0))
    find = time_call(lambda: painter_loss(tokenizer, few, recipe.painter, seed=0))
    keep = time_call(lambda: keep_looks(tokenizer, few))  # registers as many looks, however many rows there are
    kept = keep + find * (_KEPT_AS_FOUND * (cached / len(few) - 1))
    robot = time_call(lambda: measure_actor(tokenizer, few, StageReport()))
    measure = (robot + time_call(lambda: explained_by_things(tokenizer, few))) * len(begun.held_out)
    return (look * looked_at + draw * cached + find * rows + measure) * (1 / len(few)) + kept * 2


def _encode_few(dataset: Dataset, tokenizer: LatentSpace, config: TrainWorld) -> tuple[EncodedEpisodes, Cost]:
    """A few episodes, and what encoding all will cost."""
    chosen = [i for i in split_episodes(dataset)[0] if dataset.length(i) > 1][:_REHEARSED]
    made = list[EncodedEpisodes]()
    with tempfile.TemporaryDirectory(prefix="worldsim-rehearsal-") as scratch:
        took = time_call(
            lambda: made.append(encode_some(dataset, tokenizer, config, chosen, Path(scratch) / "latents", key=""))
        )
    frames = sum(dataset.lengths) / max(sum(dataset.length(i) for i in chosen), 1)
    return made[0], took * frames


def shorten_structured(recipe: StructuredRecipe, shares: Mapping[str, float]) -> StructuredRecipe:
    """The settings with shares, in (0, 1], of the steps of the schedules that are named by stage."""
    return dataclasses.replace(
        recipe,
        **{name: shorten_schedule(getattr(recipe, name), shares.get(name, 1.0)) for name in STAGES},  # type: ignore[arg-type]
    )
