"""`worldsim train world`: a dataset in, a world folder out, in stages that each survive a kill.

Stages: tokenizer (closed form, then its learned pixels), latents, predictor, heads, held-out figures, folder.
The running state lives beside the result in `<out>.training`; the same command continues from it. Held-out figures need no
simulator; those that do (millimetres and degrees of an object) are `benchmarks/world_fidelity.py`.

Shape legend: N frames of a sample, F frames of an episode, C H W pixels, c h w latent, P proprio, A action.
"""

import dataclasses
import functools
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.compute import find_device
from worldsim.core import STATE, TASK, TRUE_STATE, Camera, Rollout, WorldSpec, text_rows
from worldsim.data.episode import Episode
from worldsim.data.labels import Agreed
from worldsim.data.latents import BATCH, EncodedEpisodes, encode_episodes
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.starts import Starts
from worldsim.errors import InvalidInputError
from worldsim.noise import seeded
from worldsim.optimize import Schedule, fit
from worldsim.predict.base import Predictor
from worldsim.progress import Progress, silent
from worldsim.protocols import require_drawable
from worldsim.runs import open_run
from worldsim.tokenizers import join_cameras
from worldsim.tokenizers.base import LatentSpace, Tokenizer
from worldsim.tokenizers.cameras import camera_tokenizer, encode_frames
from worldsim.train.recipes.labels import SHARE, drop_success, put_labels, read_labels, unlabelled, weigh_labels
from worldsim.train.recipes.predictor import PredictorRecipe, clips_of, train_predictor
from worldsim.train.recipes.tokenizer import TokenizerRecipe, state_tokenizer, train_tokenizer
from worldsim.video import to_model
from worldsim.worlds.heads import Heads, HeadsConfig
from worldsim.worlds.latent import LatentWorld, LearnedWorld, drawable_shape
from worldsim.worlds.state import StateWorld, columns

HELD_OUT_EVERY = 10
"""Every tenth episode is never trained on: it gives the starts and the figures."""
STATE_SAMPLE = 100
"""Episodes that the layout and scale of true states are read from."""
FIGURE_HORIZONS = (1, 8, 16, 32)
FIGURE_EPISODES = 64
"""Actions ahead at which held-out figures are measured, and most episodes that they are measured on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainWorld:
    """Settings of `train_world`.

    Attributes:
        data: Dataset folder (LeRobotDataset v3).
        out: World folder to write.
        seed: Of every random choice.
        cameras: Image features to learn from, the main one first; empty for all.
        horizon: Actions of an episode inside the world; 0 for as many as the longest held-out episode has.
        num_starts: First observations to carry along.
        starts: Dataset folder that they come from; empty for the held-out episodes.
        labels: File of labels that people gave to the episodes (`worldsim label`); they replace the success that the data
            holds.
        state: Learn a state world from the data's true states instead of its pictures.
        device: Where to train.
        tokenizer: How frames become latents.
        predictor: How latents move.
        heads: Schedule of proprioception, progress and success.
    """

    data: str
    out: str
    seed: int = 0
    cameras: tuple[str, ...] = ()
    horizon: int = 0
    num_starts: int = 400
    starts: str = ""
    labels: str = ""
    state: bool = False
    device: str = "cpu"
    tokenizer: TokenizerRecipe = dataclasses.field(default_factory=TokenizerRecipe)
    predictor: PredictorRecipe = dataclasses.field(default_factory=PredictorRecipe)
    heads: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=2000, batch=512, lr=2e-3))


def train_world(config: TrainWorld, *, progress: Progress = silent) -> Path:
    """Train a world, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        progress: Called as it advances.

    Returns:
        The world folder.

    Raises:
        StorageError: The dataset cannot be read, or another run holds the folder.
        InvalidInputError: The data does not fit, there is no such device, or `<out>.training` was begun with another config.
    """
    find_device(config.device)
    out = Path(config.out)
    work = out.with_name(out.name + ".training")
    dataset = open_dataset(Path(config.data), cameras=config.cameras or None)
    labels = read_labels(config.labels, config.data)
    asked = {"config": config, "data_digest": dataset.digest}
    with open_run(work, asked | ({"labels": labels} if labels else {})):
        tokenizer, seconds = _make_tokenizer(dataset, config, work, progress)
        cost = {"tokenizer": seconds}
        encoded = _encode(dataset, tokenizer, config, work, progress)
        trained, held_out = encoded.split(every=HELD_OUT_EVERY)
        predictor, cost["predictor"] = train_predictor(
            trained,
            tokenizer,
            dataset.action_spec,
            config.predictor,
            seed=config.seed,
            device=config.device,
            folder=work / "predictor",
            progress=progress,
        )
        train_heads = functools.partial(_train_heads, trained, encoded, tokenizer, dataset, config, work, progress)
        heads, cost["heads"] = train_heads(labels, config.heads, "heads")
        world = _assemble(
            tokenizer, predictor, heads, dataset, config, held_out, unlabelled=unlabelled(trained, labels)
        )
        figures = held_out_figures(world, held_out, dataset)
        manifest = {
            "command": " ".join(["worldsim", *sys.argv[1:]]),
            "data_digest": dataset.digest,
            "config": storage.to_json(config),
            "core_seconds": {k: round(v, 1) for k, v in cost.items()},
            "figures": figures,
            "labels": _weigh(encoded, labels, dataset, config, train_heads),
            "versions": {"torch": torch.__version__},
        }
        world.save_pretrained(out, manifest=manifest)
    shutil.rmtree(work, ignore_errors=True)
    return out


def _make_tokenizer(dataset: Dataset, config: TrainWorld, work: Path, progress: Progress) -> tuple[LatentSpace, float]:
    """Train the tokenizer of each camera; that of a state world has a closed form."""
    if config.state:
        true_states, proprios = zip(*_training_states(dataset), strict=True)
        return state_tokenizer(torch.cat(true_states), torch.cat(proprios), config.tokenizer), 0.0
    parts, seconds = dict[str, Tokenizer](), 0.0
    for camera in dataset.cameras:
        folder = work / "tokenizer" if len(dataset.cameras) == 1 else work / "tokenizer" / camera.name
        frames = functools.partial(_training_frames, dataset, camera)
        parts[camera.key], spent = train_tokenizer(
            frames, config.tokenizer, seed=config.seed, folder=folder, progress=progress
        )
        seconds += spent
    return join_cameras(parts), seconds


def _training_states(dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """True states [F, E] and proprioception [F, P] of up to `STATE_SAMPLE` episodes that are trained on."""
    trained = [i for i in range(dataset.episodes) if i % HELD_OUT_EVERY] or [0]
    for index in trained[:: -(-len(trained) // STATE_SAMPLE)]:
        episode = dataset.episode(index)
        yield _true_state(episode), torch.tensor(episode.proprio)


def _true_state(episode: Episode) -> Tensor:
    """True states [F, E].

    Raises:
        InvalidInputError: The episode holds none.
    """
    if episode.true_state is None:
        raise InvalidInputError("A state world needs true states, and an episode holds none. Use state=false.")
    return torch.tensor(episode.true_state)


def _training_frames(dataset: Dataset, camera: Camera) -> Iterator[Tensor]:
    """One camera's frames of the episodes that are trained on, uint8 [F, H, W, 3] each."""
    for index in range(dataset.episodes):
        if index % HELD_OUT_EVERY:
            yield torch.tensor(dataset.episode(index).frames[camera.key])


def _encode(
    dataset: Dataset, tokenizer: LatentSpace, config: TrainWorld, work: Path, progress: Progress
) -> EncodedEpisodes:
    """Latents of every episode, from the cache if they are there."""
    stride = tokenizer.temporal_stride

    def encode(episode: Episode) -> Tensor:
        if config.state:
            states = columns(_true_state(episode), torch.tensor(episode.proprio))
            return camera_tokenizer(tokenizer, TRUE_STATE).encode(states)[:, :, 0]
        frames = {key: torch.tensor(episode.frames[key]) for key in (c.key for c in dataset.cameras)}
        if stride > 1:
            used = 1 + (len(episode.action) // stride) * stride
            clip = {key: to_model(value[:used]).transpose(0, 1)[None] for key, value in frames.items()}
            return encode_frames(tokenizer, clip)[0].transpose(0, 1)
        parts = zip(*(value.split(BATCH) for value in frames.values()), strict=True)
        models = ({k: to_model(x)[:, :, None] for k, x in zip(frames, part, strict=True)} for part in parts)
        return torch.cat([encode_frames(tokenizer, model)[:, :, 0] for model in models])

    def tell(done: int) -> None:
        progress("latents", done, dataset.episodes, {})

    weights = storage.digest_bytes(b"".join(v.numpy().tobytes() for v in _weights(tokenizer)))
    return encode_episodes(
        dataset.episode,
        dataset.episodes,
        encode=encode,
        normalize=dataset.action_spec.normalize,
        path=work / "latents",
        key=f"{dataset.digest} {weights}",
        stride=stride,
        on_episode=tell,
    )


def _weights(tokenizer: LatentSpace) -> list[Tensor]:
    assert isinstance(tokenizer, nn.Module)
    return [v.detach().cpu().contiguous() for v in tokenizer.state_dict().values()]


def _train_heads(
    trained: EncodedEpisodes,
    encoded: EncodedEpisodes,
    tokenizer: LatentSpace,
    dataset: Dataset,
    config: TrainWorld,
    work: Path,
    progress: Progress,
    labels: Mapping[int, Agreed],
    schedule: Schedule,
    stage: str,
) -> tuple[Heads, float]:
    """Train the heads on encoded frames; of labelled ones, those of any episode, each batch then holds a share."""
    stride = tokenizer.temporal_stride
    shape = HeadsConfig(
        latent_shape=tokenizer.latent_shape,
        proprio_dim=encoded.proprio_dim,
        action_dim=dataset.action_spec.encoded_dim * stride,
    )
    with seeded(config.seed):
        heads = Heads(shape)
    clips = clips_of(drop_success(trained) if labels else trained, history=1, action=dataset.action_spec, stride=stride)
    table = clips.windows(2)
    heads.calibrate(clips.batch(table, 2, 4096, seed=config.seed, step=-2))
    labelled = put_labels(encoded, labels, success_at=dataset.success_at, stride=stride)
    extra = clips_of(labelled, history=1, action=dataset.action_spec, stride=stride) if labels else None
    sides = None if extra is None else extra.windows_by_success(2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        clip = clips.batch(table, 2, schedule.batch, seed=config.seed + 1, step=step, eventful=0.5)
        if extra is not None and sides is not None:
            size = max(2, round(schedule.batch * SHARE))
            clip = clip.cat([clip, extra.batch(sides, 2, size, seed=config.seed + 2, step=step, eventful=0.5)])
        return heads.loss(clip.to(config.device), torch.Generator().manual_seed(config.seed * 1_000_003 + step))

    heads.to(config.device)
    return heads, fit(heads, loss_at, schedule, folder=work / stage, stage=stage, progress=progress)


def _assemble(
    tokenizer: LatentSpace,
    predictor: Predictor,
    heads: Heads,
    dataset: Dataset,
    config: TrainWorld,
    held_out: EncodedEpisodes,
    *,
    unlabelled: tuple[Literal["success", "progress"], ...],
) -> LearnedWorld:
    """Put the parts together, with starts from held-out episodes."""
    stride = tokenizer.temporal_stride * predictor.frames_per_step
    cameras = () if config.state else dataset.cameras
    text = (TASK,) if "text" in predictor.reads and len(dataset.tasks) > 1 else ()
    spec = WorldSpec(
        action=dataset.action_spec,
        cameras=cameras,
        observes=(*([TRUE_STATE] if config.state else [camera.key for camera in cameras]), STATE, *text),
        latent_shape=drawable_shape(tokenizer, predictor.frames_per_step),
        proprio_dim=held_out.proprio_dim,
        horizon=config.horizon or (held_out.longest - 1) * stride,
        actions_per_step=stride,
        success_at=dataset.success_at,
        task=dataset.task,
        task_id=dataset.task_id,
        unlabelled=unlabelled,
    )
    kind = StateWorld if config.state else LatentWorld
    return kind(
        spec=spec, tokenizer=tokenizer, predictor=predictor, heads=heads, starts=_starts(dataset, config, held_out)
    ).cpu()


def _weigh(
    encoded: EncodedEpisodes,
    labels: Mapping[int, Agreed],
    dataset: Dataset,
    config: TrainWorld,
    train: Callable[[Mapping[int, Agreed], Schedule, str], tuple[Heads, float]],
) -> dict[str, Any]:
    """What the labels of people are worth, for the manifest; nothing where there are none."""
    if not labels:
        return {}
    brief = dataclasses.replace(config.heads, steps=-(-config.heads.steps // 4))  # errs towards worse, if at all
    return weigh_labels(
        encoded,
        labels,
        path=config.labels,
        data=config.data,
        success_at=dataset.success_at,
        train=lambda some, stage: train(some, brief, stage)[0],
    ).to_json()


def _starts(dataset: Dataset, config: TrainWorld, held_out: EncodedEpisodes) -> Starts:
    """First observations that were not trained on."""
    if not config.starts:
        return dataset.starts(held_out.indices[: config.num_starts])
    source = open_dataset(Path(config.starts), cameras=config.cameras or None)
    if source.cameras != dataset.cameras:
        raise InvalidInputError(f"Cameras of {config.starts} are {source.cameras}, of {config.data} {dataset.cameras}.")
    return source.starts(range(min(config.num_starts, source.episodes)))


def held_out_figures(world: LearnedWorld, held_out: EncodedEpisodes, dataset: Dataset) -> dict[str, float]:
    """Roll out recorded actions from held-out starts and compare with what was recorded.

    Returns:
        `psnr_db_h*` of decoded frames, `copy_psnr_db_h*` of repeating the first frame (other cameras: `.../NAME`), `progress_mae` and
        `success_accuracy` over all steps where the data has labels.
    """
    per_step = world.spec.actions_per_step
    reachable = [h for h in FIGURE_HORIZONS if h % per_step == 0 and h <= (held_out.longest - 1) * per_step]
    chosen = [i for i in held_out.indices if reachable and dataset.length(i) > reachable[-1]][:FIGURE_EPISODES]
    episodes = [dataset.episode(i) for i in chosen]
    if not episodes:
        return {}
    horizon = reachable[-1]
    frames = {
        c.key: torch.stack([torch.tensor(e.frames[c.key][: horizon + 1]) for e in episodes]) for c in dataset.cameras
    }
    starts = {key: value[:, 0] for key, value in frames.items()}
    starts[STATE] = torch.stack([torch.tensor(e.proprio[0]) for e in episodes])
    starts[TASK] = text_rows([e.task for e in episodes])
    if isinstance(world, StateWorld):
        starts[TRUE_STATE] = torch.stack([torch.tensor(e.true_state[0]) for e in episodes if e.true_state is not None])
    actions = torch.stack([torch.tensor(e.action[:horizon]) for e in episodes])
    actions = actions if per_step == 1 else actions.unflatten(1, (-1, per_step))
    _, rollout = world.rollout(world.reset(starts, torch.tensor(chosen)), actions)
    figures = _pictures(world, rollout, frames, reachable)
    success = torch.stack([torch.tensor(e.success[per_step : horizon + 1 : per_step]) for e in episodes])
    known = success.isfinite()
    if bool(known.any()):
        figures["success_accuracy"] = float(((rollout.success > 0.5) == (success > 0.5))[known].float().mean())
    progress = torch.stack([torch.tensor(e.progress[per_step : horizon + 1 : per_step]) for e in episodes])
    known = progress.isfinite()
    if bool(known.any()):
        figures["progress_mae"] = float((rollout.progress - progress).abs()[known].mean())
    return {k: round(v, 4) for k, v in figures.items()}


def _pictures(
    world: LearnedWorld, rollout: Rollout, frames_BTHWC: Mapping[str, Tensor], horizons: Sequence[int]
) -> dict[str, float]:
    """PSNR of every camera at every horizon; the main camera's figures carry no name."""
    figures: dict[str, float] = {}
    for number, camera in enumerate(world.spec.cameras):
        truth, name = frames_BTHWC[camera.key], f"/{camera.name}" if number else ""
        for h in horizons:
            drawn = require_drawable(world).decode(rollout.latent[:, h // world.spec.actions_per_step - 1], camera.key)
            drawn = drawn if drawn.ndim == 4 else drawn[:, -1]
            figures[f"psnr_db_h{h}{name}"] = psnr_db(drawn, truth[:, h])
            figures[f"copy_psnr_db_h{h}{name}"] = psnr_db(truth[:, 0], truth[:, h])
    return figures


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of frames uint8 [..., H, W, 3], in decibels."""
    mse = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(mse, 1e-6))
