"""A dataset of a few short episodes without success, as real recordings are."""

from pathlib import Path

import pytest

from tests.tokenizers.scenes import SIZE
from tests.train import toy
from worldsim.core import Camera
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer

EPISODES, STEPS = 6, 9


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("label") / "data"
    spec = RecordSpec(
        action=toy.ACTION,
        cameras=(Camera(height=SIZE, width=SIZE),),
        proprio_dim=2,
        task="Push the L to the middle.",
        has_success=False,
        has_progress=False,
    )
    with episode_writer(path, spec) as writer:
        for i in range(EPISODES):
            writer.write(toy.episode(i, steps=STEPS))
    return path
