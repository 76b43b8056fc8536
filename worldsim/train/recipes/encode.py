"""From a dataset to latents: the tokenizer of each camera, fitted and trained, and every episode encoded.

Shape legend: N frames of a sample, F frames of an episode, C H W pixels, P proprio, E true state.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.core import TRUE_STATE, Camera
from worldsim.data.episode import Episode
from worldsim.data.latents import BATCH, EncodedEpisodes, encode_episodes
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress
from worldsim.tokenizers import join_cameras
from worldsim.tokenizers.base import LatentSpace
from worldsim.tokenizers.cameras import encode_frame, encode_frames, track_clip
from worldsim.train.recipes.settings import TrainWorld, split_episodes
from worldsim.train.recipes.tokenizer import FittedTokenizer, fit_tokenizer, state_tokenizer, train_tokenizer
from worldsim.video import to_model
from worldsim.worlds.state import columns

STATE_SAMPLE = 100
"""Episodes that the layout and scale of true states are read from."""


def fit_tokenizers(dataset: Dataset, config: TrainWorld, work: Path, progress: Progress) -> dict[str, FittedTokenizer]:
    """Fit the tokenizer of each camera; that of a state world has a closed form and goes under its one key."""
    if config.state:
        true_states, proprios = zip(*_training_states(dataset), strict=True)
        return {TRUE_STATE: state_tokenizer(torch.cat(true_states), torch.cat(proprios), config.tokenizer)}
    return {
        camera.key: fit_tokenizer(
            functools.partial(training_frames, dataset, camera.key),
            config.tokenizer,
            seed=config.seed,
            folder=_tokenizer_folder(work, dataset, camera),
            progress=progress,
        )
        for camera in dataset.cameras
    }


def train_tokenizers(
    fitted: Mapping[str, FittedTokenizer], dataset: Dataset, config: TrainWorld, work: Path, progress: Progress
) -> tuple[LatentSpace, float]:
    """Train what is learned of them; the core-seconds come along."""
    seconds = 0.0
    for camera in () if config.state else dataset.cameras:
        frames = functools.partial(training_frames, dataset, camera.key)
        folder = _tokenizer_folder(work, dataset, camera)
        how = {"seed": config.seed, "folder": folder, "progress": progress}
        seconds += train_tokenizer(fitted[camera.key], frames, config.tokenizer, **how)  # type: ignore[arg-type]
    return join_cameras({key: one.tokenizer for key, one in fitted.items()}), seconds


def _tokenizer_folder(work: Path, dataset: Dataset, camera: Camera) -> Path:
    return work / "tokenizer" if len(dataset.cameras) == 1 else work / "tokenizer" / camera.name


def _training_states(dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """True states [F, E] and proprioception [F, P] of up to `STATE_SAMPLE` episodes that are trained on."""
    trained, _ = split_episodes(dataset)
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


def training_frames(dataset: Dataset, key: str) -> Iterator[Tensor]:
    """One camera's frames of the episodes that are trained on and can be read, uint8 [F, H, W, 3] each."""
    for index in split_episodes(dataset)[0]:
        try:
            episode = dataset.episode(index)
        except (StorageError, InvalidInputError):
            continue  # encoding counts and names them
        yield torch.tensor(episode.frames[key])


def encode_all(
    dataset: Dataset, tokenizer: LatentSpace, config: TrainWorld, work: Path, progress: Progress
) -> EncodedEpisodes:
    """Latents of every episode that is used, from the cache if they are there."""
    used, left_out = dataset.used, dataset.left_out
    weights = storage.digest_bytes(b"".join(v.numpy().tobytes() for v in _weights(tokenizer)))
    return encode_some(
        dataset,
        tokenizer,
        config,
        used,
        work / "latents",
        key=f"{dataset.digest} {weights}" + (f" without {left_out}" if left_out else ""),
        on_episode=lambda done: progress("latents", done, len(used), {}),
    )


def encode_some(
    dataset: Dataset,
    tokenizer: LatentSpace,
    config: TrainWorld,
    chosen: Sequence[int],
    path: Path,
    *,
    key: str,
    on_episode: Callable[[int], None] | None = None,
) -> EncodedEpisodes:
    """Latents of some episodes, kept in `path`."""
    stride = tokenizer.temporal_stride

    def encode(episode: Episode) -> Tensor:
        if config.state:
            states = columns(_true_state(episode), torch.tensor(episode.proprio))
            return encode_frame(tokenizer, states)[:, :, 0]
        frames = {key: torch.tensor(episode.frames[key]) for key in (c.key for c in dataset.cameras)}
        proprio = torch.tensor(episode.proprio)
        if stride > 1:
            used = 1 + (len(episode.action) // stride) * stride
            clip = {key: to_model(value[:used]).transpose(0, 1)[None] for key, value in frames.items()}
            return encode_frames(tokenizer, clip)[0].transpose(0, 1)
        parts = zip(*(value.split(BATCH) for value in frames.values()), strict=True)
        models = ({k: to_model(x)[:, :, None] for k, x in zip(frames, part, strict=True)} for part in parts)
        bodies = (p[:, None] for p in proprio.split(BATCH))
        pairs = zip(models, bodies, strict=True)
        z_FCHW = torch.cat([encode_frames(tokenizer, model, body)[:, :, 0] for model, body in pairs])
        return track_clip(tokenizer, z_FCHW.transpose(0, 1)[None])[0].transpose(0, 1)

    encoded = encode_episodes(
        lambda place: dataset.episode(chosen[place]),
        len(chosen),
        encode=encode,
        normalize=dataset.action_spec.normalize,
        path=path,
        key=key,
        stride=stride,
        on_episode=on_episode,
    )
    return dataclasses.replace(encoded, indices=tuple(chosen[place] for place in encoded.indices))


def _weights(tokenizer: LatentSpace) -> list[Tensor]:
    assert isinstance(tokenizer, nn.Module)
    return [v.detach().cpu().contiguous() for v in tokenizer.state_dict().values()]
