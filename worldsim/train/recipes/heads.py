"""The heads stage: proprioception, progress and success read from encoded frames, with the labels of people where there are some.

Shape legend: C H W latent.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldsim.data.guess import Described
from worldsim.data.labels import Agreed
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.labels import SHARE, drop_success, put_labels, spread_labels
from worldsim.train.recipes.predictor import clips_of
from worldsim.worlds.heads import Heads, HeadsConfig


def prepare_heads(
    trained: EncodedEpisodes,
    encoded: EncodedEpisodes,
    tokenizer: LatentSpace,
    dataset: Dataset,
    schedule: Schedule,
    *,
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
    clips = clips_of(drop_success(trained) if labels else trained, history=1, action=action, stride=stride)
    table = clips.windows(2)
    heads.calibrate(clips.batch(table, 2, 4096, seed=seed, step=-2))
    spread = {} if looked is None else spread_labels(labels, looked, stride=stride)
    labelled = put_labels(encoded, labels, success_at=dataset.success_at, stride=stride, spread=spread)
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
