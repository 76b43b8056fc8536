"""Several datasets as one, drawn from by weight; what differs between them is named."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data import toys
from worldsim.core import IMAGE, STATE, TASK, row_texts
from worldsim.data.episode import Episode
from worldsim.data.latents import encode_episodes
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.windows import ClipSampler
from worldsim.errors import InvalidInputError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("joined")
    toys.write(place / "a", 2)
    toys.as_foreign(toys.write(place / "b", 3, task="pull it"))
    return place


def test_episodes_follow_each_other(place: Path) -> None:
    both = open_datasets((str(place / "a"), str(place / "b")))
    a, b = open_dataset(place / "a"), open_dataset(place / "b")
    assert both.episodes == 5 and [both.length(i) for i in range(5)] == [5, 6, 5, 6, 7]
    assert np.array_equal(both.episode(3).frames[IMAGE], b.episode(1).frames[IMAGE])
    assert [both.episode(i).task for i in (1, 2)] == ["push it", "pull it"] and both.tasks == ("push it", "pull it")
    assert both.seeds == (100, 101, -1, -1, -1) and both.behaviours[:2] == ("b0", "b1")
    starts = both.starts([4, 0]).rows
    assert np.array_equal(starts[STATE].numpy(), [b.episode(2).proprio[0], a.episode(0).proprio[0]])
    assert row_texts(starts[TASK]) == ("pull it", "push it")
    assert both.digest not in (a.digest, b.digest)
    assert both.action_spec.low[0] == min(a.action_spec.low[0], b.action_spec.low[0])
    with pytest.raises(InvalidInputError, match="episodes 0 to 4"):
        both.episode(5)
    assert open_datasets((str(place / "a"),)).digest == open_datasets(str(place / "a")).digest == a.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 20}, "different rates: 10.0 and 20.0"),
        ({"action": ["w", "v"]}, "different actions: .*w"),
        ({"camera": "observation.images.top"}, r"different cameras"),
    ],
)
def test_what_differs_is_named(place: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    other = shutil.copytree(place / "b", tmp_path / "c")
    declared = toys.features(other)
    if "action" in change:
        declared["action"]["names"] = change["action"]
    elif "camera" in change:
        declared[change["camera"]] = declared.pop(IMAGE)
    else:
        toys.edit_info(other, **change)
        for index in range(3):
            toys.edit_rows(other, index, timestamp=[t / 20 for t in range(5 + index)])
    toys.edit_info(other, features=declared)
    if "camera" in change:
        for index in range(3):
            toys.rename_column(other, index, IMAGE, change["camera"])
    with pytest.raises(InvalidInputError, match=words):
        open_datasets((str(place / "b"), str(other)))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_are_one_positive_number_each(place: Path, weights: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInputError, match="one positive number"):
        open_datasets((str(place / "a"), str(place / "b")), weights=weights)
    with pytest.raises(InvalidInputError, match="no dataset"):
        open_datasets(())


def test_windows_are_drawn_by_weight(place: Path, tmp_path: Path) -> None:
    both = open_datasets((str(place / "a"), str(place / "b")), weights=(9.0, 1.0))

    def encode(episode: Episode) -> torch.Tensor:
        return torch.full((len(episode.proprio), 1, 1, 1), float(episode.task == "pull it"))

    encoded = encode_episodes(
        both.episode, both.episodes, encode=encode, normalize=lambda a: a, path=tmp_path / "c", key="k"
    )
    shares = []
    for some in (encoded, encoded.weighted(both.weights)):
        sampler = ClipSampler(some.episodes, history=1, idle_A=torch.zeros(2))
        start = torch.arange(len(sampler.z))[:, None, None, None]
        table = (sampler.windows(2)[1],) * 2
        clip = sampler.batch(table, 2, 4000, seed=0, step=0)
        shares.append(float((clip.z_BTCHW[:, 0] == 1).float().mean()))
        assert start.shape[0] == 29
    assert shares[0] == pytest.approx(0.6, abs=0.15) and shares[1] == pytest.approx(0.1, abs=0.04)
