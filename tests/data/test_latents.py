"""The latent cache: encodes once, notices changes, survives unreadable episodes and damage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data import toys
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.latents import EncodedEpisodes, encode_episodes
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError


class Counting:
    """An encoder that counts frames."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, recorded: Episode) -> Tensor:
        frames = torch.from_numpy(recorded.frames[IMAGE])
        self.frames += len(frames)
        return frames.movedim(-1, 1).float().mean((2, 3), keepdim=True)


def cached(path: Path, data: Path, encode: Counting, key: str = "k") -> EncodedEpisodes:
    dataset = open_dataset(data)
    normalize = dataset.action_spec.normalize
    return encode_episodes(dataset.episode, dataset.episodes, encode=encode, normalize=normalize, path=path, key=key)


def test_every_frame_is_encoded_once(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "d", 3)
    encode = Counting()
    first = cached(tmp_path / "c", data, encode)
    again = cached(tmp_path / "c", data, encode)
    assert encode.frames == 5 + 6 + 7 and first.indices == again.indices == (0, 1, 2)
    for i, (a, b) in enumerate(zip(first.episodes, again.episodes, strict=True)):
        written = toys.episode(i, steps=4 + i)
        assert torch.allclose(a.z_FCHW[:, :, 0, 0], torch.from_numpy(written.frames[IMAGE]).float().mean((1, 2)))
        assert np.allclose(a.action_FA.numpy() * 0.4, written.action, atol=1e-6)
        for name in ("z_FCHW", "proprio_FP", "action_FA", "progress_F", "success_F"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    cached(tmp_path / "c", data, encode, key="another tokenizer")
    assert encode.frames == 2 * 18


def test_an_unreadable_episode_is_left_out(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "d", 8)
    (data / "data/chunk-000/file-002.parquet").write_bytes(b"gone")
    assert cached(tmp_path / "c", data, Counting()).indices == (0, 1, 3, 4, 5, 6, 7)
    for i in (3, 4):
        (data / f"data/chunk-000/file-00{i}.parquet").write_bytes(b"gone")
    with pytest.raises(StorageError, match=r"2 of 8 episodes are unreadable.*file-003"):
        cached(tmp_path / "c2", data, Counting())
    assert not (tmp_path / "c2").exists()


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "d", 2)
    cached(tmp_path / "c", data, Counting())
    file = tmp_path / "c/model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StorageError, match="model.safetensors"):
        cached(tmp_path / "c", data, Counting())


def test_split(tmp_path: Path) -> None:
    episodes = cached(tmp_path / "c", toys.write(tmp_path / "d", 5), Counting())
    trained, held = episodes.split({0, 2, 4})
    assert trained.indices == (1, 3) and held.indices == (0, 2, 4)
    assert held.longest == 9 and held.proprio_dim == 3
    with pytest.raises(InvalidInputError, match="Collect more"):
        episodes.split({0, 1, 2, 3, 4})
