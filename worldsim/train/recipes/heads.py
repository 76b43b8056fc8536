"""The heads stage: proprioception, progress and success read from latents, with the labels of people where there are some.

In a rollout heads read latents that are predicted, not encoded: less varied, and off by what the predictor gets wrong. So they
learn from both. What actually happened stays the label, and an outcome that a prediction leaves open is read as open.

Shape legend: E episodes, F frames, C H W latent.
"""

import dataclasses
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.conditions import Conditions
from worldsim.core import text_rows
from worldsim.data.guess import Described
from worldsim.data.labels import Agreed
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.data.windows import EncodedEpisode
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule
from worldsim.predict.base import Context, Predictor
from worldsim.progress import Progress, silent
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.cost import Cost, time_call
from worldsim.train.recipes.labels import SHARE, drop_success, put_labels, spread_labels
from worldsim.train.recipes.predictor import clips_of
from worldsim.worlds.heads import Heads, HeadsConfig

MOST_NUMBERS = 16_000_000
"""Numbers of predicted latents that heads learn from, at most; episodes beyond are left out, evenly."""
_AT_ONCE = 64


def prepare_heads(
    trained: EncodedEpisodes,
    encoded: EncodedEpisodes,
    tokenizer: LatentSpace,
    dataset: Dataset,
    schedule: Schedule,
    *,
    predicted: EncodedEpisodes | None = None,
    labels: Mapping[int, Agreed],
    looked: Described | None = None,
    dreamed: EncodedEpisodes | None = None,
    seed: int,
    device: str,
) -> tuple[Heads, LossAt]:
    """Build heads, on the device where they train, and the loss that they are trained with.

    Args:
        trained: Episodes to learn from.
        encoded: All episodes, of which labelled ones are learned from too; each batch then holds a share of them.
        tokenizer: What made their latents.
        dataset: Where they are from.
        schedule: Its batch is used.
        predicted: Some of the episodes with predicted latents (`predict_episodes`), from which half of each batch is drawn.
        labels: By index in the dataset; empty for the success that the dataset holds.
        looked: What is known of frames, to which labels then spread; None where they do not.
        dreamed: Dreams with the success that people said (`encode_dreams`), learned from as labelled episodes are.
        seed: Of weights and batches.
        device: Where to train.
    """
    stride, action = tokenizer.temporal_stride, dataset.action_spec
    shape = HeadsConfig(
        latent_shape=tokenizer.latent_shape,
        proprio_dim=encoded.proprio_dim,
        action_dim=action.encoded_dim * stride,
    )
    with seeded(seed):
        heads = Heads(shape)
    known = trained if predicted is None else _mix(trained, predicted)
    clips = clips_of(drop_success(known) if labels else known, history=1, action=action, stride=stride)
    table = clips.windows(2)
    heads.calibrate(clips.batch(table, 2, 4096, seed=seed, step=-2))
    spread = {} if looked is None else spread_labels(labels, looked, stride=stride)
    every = encoded if predicted is None else encoded.and_also(predicted)
    labelled = put_labels(every, labels, success_at=dataset.success_at, stride=stride, spread=spread)
    episodes = (*(labelled.episodes if labels else ()), *(dreamed.episodes if dreamed else ()))
    labelled = EncodedEpisodes(episodes=episodes, indices=tuple(range(len(episodes))))
    extra = clips_of(labelled, history=1, action=action, stride=stride) if episodes else None
    sides = None if extra is None else extra.windows_by_success(2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        clip = clips.batch(table, 2, schedule.batch, seed=seed + 1, step=step, eventful=0.5)
        if extra is not None and sides is not None:
            size = max(2, round(schedule.batch * SHARE))
            clip = clip.cat([clip, extra.batch(sides, 2, size, seed=seed + 2, step=step, eventful=0.5)])
        return heads.loss(clip.to(device), torch.Generator().manual_seed(seed * 1_000_003 + step))

    heads.to(device)
    return heads, loss_at


def _mix(trained: EncodedEpisodes, predicted: EncodedEpisodes) -> EncodedEpisodes:
    """Both together, drawn from equally often."""
    if not predicted.episodes:
        return trained
    share = sum(e.weight * len(e.z_FCHW) for e in trained.episodes)
    share /= sum(e.weight * len(e.z_FCHW) for e in predicted.episodes)
    weighted = tuple(dataclasses.replace(e, weight=e.weight * share) for e in predicted.episodes)
    return trained.and_also(dataclasses.replace(predicted, episodes=weighted))


def predict_episodes(
    predictor: Predictor,
    trained: EncodedEpisodes,
    action: ActionSpec,
    *,
    seed: int,
    progress: Progress,
) -> tuple[EncodedEpisodes, float]:
    """Predict episodes from their first latents, open loop, under their own actions; all else of them stays as it was.

    Args:
        predictor: Of the world that the heads are for, trained; it computes where it is.
        trained: Episodes; those are used that `MOST_NUMBERS` allows.
        action: Meaning of their actions.
        seed: Of the predictor's noise.
        progress: Called after every few episodes.

    Returns:
        The episodes with predicted latents, less those whose prediction does not stay finite, and the core-seconds.
    """
    began = time.process_time()
    chosen = _choose(trained, predictor)
    noise, found = torch.Generator().manual_seed(seed), list[tuple[EncodedEpisode, int]]()
    for at in range(0, len(chosen), _AT_ONCE):
        some = chosen[at : at + _AT_ONCE]
        made = _predict([trained.episodes[i] for i in some], predictor, action, noise)
        found += [(e, trained.indices[i]) for e, i in zip(made, some, strict=True) if bool(e.z_FCHW.isfinite().all())]
        progress("predicted episodes", at + len(some), len(chosen), {})
    predicted = EncodedEpisodes(episodes=tuple(e for e, _ in found), indices=tuple(i for _, i in found))
    return predicted, time.process_time() - began


def time_predicted(predictor: Predictor, few: EncodedEpisodes, action: ActionSpec, *, frames: int) -> Cost:
    """What it will take to predict episodes of so many latent frames in all, from some steps of a few of them."""
    short = [_cut(e, e.z_FCHW, min(len(e.z_FCHW), 1 + 2 * predictor.frames_per_step)) for e in few.episodes]
    batch = (short * _AT_ONCE)[:_AT_ONCE]
    some = EncodedEpisodes(episodes=tuple(batch), indices=tuple(range(len(batch))))
    on_cpu = next(predictor.parameters()).device.type == "cpu"  # type: ignore[attr-defined]
    took = time_call(lambda: predict_episodes(predictor, some, action, seed=0, progress=silent), on_cpu=on_cpu)
    most = min(frames, MOST_NUMBERS // math.prod(predictor.config.latent_shape))
    return took * (most / max(1, sum(len(e.action_FA) for e in batch)))


def _choose(trained: EncodedEpisodes, predictor: Predictor) -> list[int]:
    """Places of the episodes that are predicted, evenly spread."""
    size, count = math.prod(predictor.config.latent_shape), len(trained.episodes)
    most = max(1, MOST_NUMBERS // (size * trained.longest))
    return [round(k * (count - 1) / max(1, most - 1)) for k in range(most)] if count > most else list(range(count))


@torch.inference_mode()
def _predict(
    episodes: list[EncodedEpisode], predictor: Predictor, action: ActionSpec, noise: torch.Generator
) -> list[EncodedEpisode]:
    """Some episodes with predicted latents, a batch; shorter ones idle after their end. Frames left over of a last step go."""
    device = next(predictor.parameters()).device  # type: ignore[attr-defined]
    frames, batch = predictor.frames_per_step, len(episodes)
    steps = max(len(e.action_FA) for e in episodes) // frames
    idle_E = action.normalize(torch.tensor(action.idle)).repeat(episodes[0].action_FA.shape[1] // action.encoded_dim)
    action_EFA = torch.stack([_pad(e.action_FA, steps * frames, idle_E) for e in episodes])
    proprio_EFP = torch.stack([_pad(e.proprio_FP, steps * frames + 1, e.proprio_FP[-1]) for e in episodes])
    text = text_rows([e.task for e in episodes]) if "text" in predictor.reads else None
    conditions = Conditions(text=text).to(device)
    z_ECHW = torch.stack([e.z_FCHW[0] for e in episodes]).to(device)
    first = Context(
        z=z_ECHW, proprio=proprio_EFP[:, 0].to(device), action=idle_E.repeat(frames).expand(batch, -1).to(device)
    )
    carry, made = predictor.start(dataclasses.replace(first, conditions=conditions)), [z_ECHW[:, None]]
    for t in range(0, steps * frames, frames):
        shape = predictor.noise_shape
        drawn = None if shape is None else torch.randn((batch, *shape), generator=noise).to(device)
        action_BE = action_EFA[:, t : t + frames].flatten(1).to(device)
        carry, step = predictor.step(carry, action_BE, proprio_EFP[:, t].to(device), conditions, drawn)
        made.append(step.z)
    z_EFCHW = torch.cat(made, 1).cpu()
    return [
        _cut(e, z_FCHW, 1 + len(e.action_FA) // frames * frames) for e, z_FCHW in zip(episodes, z_EFCHW, strict=True)
    ]


def _pad(rows: Tensor, count: int, last: Tensor) -> Tensor:
    """The first `count` rows [F, D], and the last again where there are fewer."""
    return torch.cat([rows[:count], last.expand(max(0, count - len(rows)), -1)])


def _cut(episode: EncodedEpisode, z_FCHW: Tensor, frames: int) -> EncodedEpisode:
    """The first frames of an episode, with these latents."""
    return dataclasses.replace(
        episode,
        z_FCHW=z_FCHW[:frames],
        proprio_FP=episode.proprio_FP[:frames],
        action_FA=episode.action_FA[: frames - 1],
        progress_F=episode.progress_F[:frames],
        success_F=episode.success_F[:frames],
    )
