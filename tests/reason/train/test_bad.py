"""Bad input in the middle of a training: it is named, and no checkpoint is lost."""

import dataclasses
import json
import shutil

import pytest

from tests.reason.toy import items
from tests.reason.train.test_grpo import task, variety
from tests.reason.train.test_sft import recipe, untrained
from tests.train import toy
from worldsim.core import IMAGE
from worldsim.errors import InvalidInputError, StorageError
from worldsim.optimize import Schedule
from worldsim.reason.items.own_clips import ClipItems, Question
from worldsim.reason.items.sources import FolderVideos
from worldsim.reason.train.grpo import train_reason_grpo
from worldsim.reason.train.items import ItemsConfig
from worldsim.reason.train.run import SPENT
from worldsim.reason.train.sft import train_reason_sft
from worldsim.video import write_mp4

FEW = ItemsConfig(final_eval=2, quick_eval=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture
def films(tmp_path):
    for seed in range(12):
        write_mp4(tmp_path / f"films/{seed:02d}.mp4", toy.episode(seed, steps=9).frames[IMAGE], rate_hz=10)
    return tmp_path / "films"


def settings(start, out, **changes):
    return task("mine", start, out, items=FEW, steps=3, evaluate_every=1, save_every=1, warmup=0, **changes)


def test_a_reward_that_raises_on_the_way_is_named_and_can_be_repaired(start, tmp_path):
    def breaks(completions, *, trainer_state, number, **columns):
        if trainer_state.global_step == 2:
            raise ZeroDivisionError(f"no length for {number[0]}")
        return variety(completions)

    asked = items(20)
    config = settings(start, tmp_path / "run")
    with pytest.raises(
        InvalidInputError, match=r"Reward own raised on item 0, task \w+, number \d+.*ZeroDivisionError"
    ):
        train_reason_grpo(config, items=asked, rewards={"own": breaks})
    assert [p.parent.name for p in (tmp_path / "run/checkpoints").glob(f"*/{SPENT}")] != []
    reported = []
    watch = lambda stage, step, *rest: reported.append(step)  # noqa: E731
    assert (
        train_reason_grpo(config, items=asked, rewards={"own": variety}, progress=watch).exists() and min(reported) == 3
    )


def test_a_clip_that_goes_bad_on_the_way_is_named_and_nothing_is_lost(films, tmp_path):
    contents = {p: p.read_bytes() for p in films.iterdir()}
    asked = ClipItems(
        FolderVideos(films),
        lambda clip: Question(text="Even?", options=("yes", "no"), answer="no" if int(clip.episode[:2]) % 2 else "yes"),
        frames=4,
        size=32,
        cache_mb=0,
    )

    def watch(stage, step, *rest):
        if step == 2:
            for path in films.iterdir():
                path.write_bytes(b"gone bad")

    config = recipe("mine", tmp_path / "run", warm=Schedule(steps=0), steps=4, save_every=1, evaluate_every=2)
    config = dataclasses.replace(config, items=FEW, shown="video")
    with pytest.raises(StorageError, match=r"films/\d\d\.mp4 cannot be read as a video"):
        train_reason_sft(config, items=asked, progress=watch)
    assert list((tmp_path / "run/checkpoints").glob(f"*/{SPENT}"))
    for path, content in contents.items():
        path.write_bytes(content)
    reported = []
    assert train_reason_sft(config, items=asked, progress=lambda stage, step, *rest: reported.append(step)).exists()
    assert min(reported) == 4


def test_too_many_bad_files_stop_a_training_before_it_begins(films, tmp_path):
    (films / "03.mp4").write_bytes(b"torn")
    (films / "05.mp4").write_bytes(b"torn")
    asked = dataclasses.replace(FEW, tasks=("arrow",), options={"arrow": {"frames": 4}})
    config = dataclasses.replace(recipe(films, tmp_path / "run", warm=Schedule(steps=0)), items=asked)
    with pytest.raises(InvalidInputError, match=r"videos are bad, more than the share of 0\.05.*0[35]\.mp4"):
        train_reason_sft(config)
    assert not (tmp_path / "run").exists()


def test_videos_that_are_too_short_or_frames_too_small_are_said(films, tmp_path):
    asked = dataclasses.replace(FEW, tasks=("arrow",), options={"arrow": {"frames": 8, "stride": 2}})
    config = dataclasses.replace(recipe(films, tmp_path / "run", warm=Schedule(steps=0)), items=asked)
    with pytest.raises(
        InvalidInputError, match=r"needs videos of 15 frames; the longest of \d+ has 10 \(video \d\d\.mp4"
    ):
        train_reason_sft(config)
    with pytest.raises(InvalidInputError, match="size >= 8; got .* size=4"):
        train_reason_sft(dataclasses.replace(config, model=str(tmp_path / "none"), size=4))


def test_a_model_folder_without_videos_is_refused_where_videos_are_to_be_shown(start, tmp_path):
    shutil.copytree(start, tmp_path / "old")
    (tmp_path / "old/manifest.json").unlink()
    path = tmp_path / "old/processor_config.json"
    facts = json.loads(path.read_text())
    del facts["video_processor"]
    path.write_text(json.dumps(facts))
    with pytest.raises(StorageError, match="video processor"):
        train_reason_grpo(settings(tmp_path / "old", tmp_path / "run", shown="video"), items=items(20))
    assert not (tmp_path / "run").exists()
