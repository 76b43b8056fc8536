"""Cache of encoded episodes on disk: every frame is encoded once, and training never touches pixels again.

One safetensors file for one (dataset, encoder) pair. Runs where only torch, numpy and safetensors are installed.

Shape legend: E episodes, F frames of an episode, N frames in all, C H W latent, P proprio, A action.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim import storage
from worldsim.data.episode import Episode
from worldsim.data.windows import EncodedEpisode
from worldsim.errors import InvalidInputError, StorageError

_TENSORS = ("_FCHW", "_FP", "_FA", "_F")
BATCH = 512
MOST_BAD = 0.2
"""Encoding stops when more than this share of the episodes cannot be read."""

HELD_OUT_EVERY = 10
"""Every tenth episode is never trained on: it gives the starts and the figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedEpisodes:
    """Encoded episodes and the indices they have in their dataset."""

    episodes: tuple[EncodedEpisode, ...]
    indices: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Frames of the longest episode."""
        return max(int(e.z_FCHW.shape[0]) for e in self.episodes)

    @property
    def proprio_dim(self) -> int:
        """P."""
        return int(self.episodes[0].proprio_FP.shape[1])

    def split(self, held_out: Collection[int]) -> tuple["EncodedEpisodes", "EncodedEpisodes"]:
        """Separate the episodes with some dataset indices: (the others, those).

        Raises:
            InvalidInputError: One side would be empty.
        """
        sides = []
        for wanted in (False, True):
            rows = [k for k, index in enumerate(self.indices) if (index in held_out) is wanted]
            if not rows:
                raise InvalidInputError(
                    f"{len(self.indices)} episodes cannot be split into training and held-out ones. Collect more."
                )
            episodes, indices = tuple(self.episodes[k] for k in rows), tuple(self.indices[k] for k in rows)
            sides.append(EncodedEpisodes(episodes=episodes, indices=indices))
        return sides[0], sides[1]

    def and_also(self, others: "EncodedEpisodes") -> "EncodedEpisodes":
        """These and others; an index may then stand twice."""
        return EncodedEpisodes(episodes=(*self.episodes, *others.episodes), indices=(*self.indices, *others.indices))

    def weighted(self, weights: Sequence[float]) -> "EncodedEpisodes":
        """The same episodes, each with the weight of its dataset index; as they are where there are no weights."""
        if not weights:
            return self
        pairs = zip(self.episodes, self.indices, strict=True)
        return dataclasses.replace(self, episodes=tuple(dataclasses.replace(e, weight=weights[i]) for e, i in pairs))


def hold_out(lengths: Sequence[int], *, every: int, source: str) -> frozenset[int]:
    """Indices of the episodes to hold out, of those that hold an action.

    Args:
        lengths: Frames of each episode.
        every: One of so many is held out, the first among them.
        source: The dataset, for messages.

    Raises:
        InvalidInputError: Fewer than two hold an action.
    """
    usable = [i for i, length in enumerate(lengths) if length > 1]
    if len(usable) < 2:
        raise InvalidInputError(
            f"{source} has {len(usable)} episode{'' if len(usable) == 1 else 's'} of two or more frames; one is needed to "
            "train on and one to measure on. "
            "Collect more, or longer ones."
        )
    return frozenset(usable[::every])


def encode_episodes(
    episode: Callable[[int], Episode],
    count: int,
    *,
    encode: Callable[[Episode], Tensor],
    normalize: Callable[[Tensor], Tensor],
    path: Path,
    key: str,
    stride: int = 1,
    on_episode: Callable[[int], None] | None = None,
) -> EncodedEpisodes:
    """Encode all episodes, or read them from `path` if they were encoded before with the same key.

    Args:
        episode: Reads episode i.
        count: How many there are.
        encode: An episode -> its latents [F', C, H, W], with F' = 1 + (F - 1) // stride; frames left over are not used.
        normalize: Actions in physical units [..., A] -> network units [..., E].
        path: The cache file's folder.
        key: Digest of dataset and encoder; another key means another cache.
        stride: Frames per latent frame; a step then takes so many actions, flattened to [stride * E].
        on_episode: Called after each episode, for progress bars.

    Raises:
        StorageError: More than a fifth of the episodes are unreadable, or the cache cannot be written.
    """
    if path.exists():
        config, tensors, manifest = storage.load_folder(path, kind="latents")
        if manifest.get("key") == key:
            return _unpack(config["indices"], config["tasks"], tensors)
    encoded, indices, bad = [], [], []
    for i in range(count):
        try:
            encoded.append(_encode(episode(i), encode, normalize, stride))
            indices.append(i)
        except (StorageError, InvalidInputError) as error:
            bad.append(f"episode {i}: {error}")
            if len(bad) > MOST_BAD * count:
                raise StorageError(f"{len(bad)} of {count} episodes are unreadable. The last: {bad[-1]}") from error
        if on_episode is not None:
            on_episode(i + 1)
    config = {"indices": indices, "tasks": [e.task for e in encoded]}
    storage.save_folder(
        path, kind="latents", config=config, tensors=_pack(encoded), manifest={"key": key, "skipped": bad}
    )
    return EncodedEpisodes(episodes=tuple(encoded), indices=tuple(indices))


@torch.inference_mode()
def _encode(
    recorded: Episode, encode: Callable[[Episode], Tensor], normalize: Callable[[Tensor], Tensor], stride: int
) -> EncodedEpisode:
    """One episode's latents and numbers, one row per latent frame."""
    action_FE = normalize(torch.tensor(recorded.action, dtype=torch.float32))
    steps = len(action_FE) // stride
    return EncodedEpisode(
        z_FCHW=encode(recorded).clone(),
        proprio_FP=torch.tensor(recorded.proprio, dtype=torch.float32)[: steps * stride + 1 : stride],
        action_FA=action_FE[: steps * stride].reshape(steps, stride * action_FE.shape[1]),
        progress_F=torch.tensor(recorded.progress, dtype=torch.float32)[: steps * stride + 1 : stride],
        success_F=torch.tensor(recorded.success, dtype=torch.float32)[: steps * stride + 1 : stride],
        task=recorded.task,
    )


def _pack(episodes: Sequence[EncodedEpisode]) -> dict[str, Tensor]:
    """End to end, with the lengths."""
    names = [f.name for f in dataclasses.fields(EncodedEpisode) if f.name.endswith(_TENSORS)]
    packed = {n: torch.cat([getattr(e, n) for e in episodes]) for n in names}
    return {**packed, "length": torch.tensor([len(e.z_FCHW) for e in episodes])}


def _unpack(indices: Sequence[int], tasks: Sequence[str], tensors: dict[str, Tensor]) -> EncodedEpisodes:
    lengths = tensors["length"].tolist()
    names = [f.name for f in dataclasses.fields(EncodedEpisode) if f.name.endswith(_TENSORS)]
    parts = {n: torch.split(tensors[n], [k - (n == "action_FA") for k in lengths]) for n in names}
    rows: list[dict[str, Any]] = [{n: parts[n][i] for n in names} for i in range(len(lengths))]
    episodes = tuple(EncodedEpisode(**row, task=task) for row, task in zip(rows, tasks, strict=True))
    return EncodedEpisodes(episodes=episodes, indices=tuple(int(i) for i in indices))
