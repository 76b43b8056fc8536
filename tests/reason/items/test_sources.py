import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import toys
from tests.reason.films import dreamer, dreamt, filmed, policies, record_videos, simulator
from worldsim.core import IMAGE
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.sources import (
    DatasetVideos,
    FolderVideos,
    JoinedSource,
    SourceSubset,
    VideoList,
    skip_unreadable,
    split,
    subsample,
)
from worldsim.reason.items.video import Provenance, StateLayout, Video, layout_of, resize_frames
from worldsim.reason.tasks import TASKS
from worldsim.reason.tasks.base import Items
from worldsim.video import write_mp4

ORIGIN = Provenance(kind="file", episode="a")


def still(frames: int = 4, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, side, side, 3), dtype=np.uint8)


def test_videos_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="Video a: frames must be uint8"):
        Video(frames=torch.zeros(1, 8, 8, 3, dtype=torch.uint8), provenance=ORIGIN)
    frames = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(InvalidInputError, match="Video a: action must have 2 rows"):
        Video(frames=frames, provenance=ORIGIN, action=torch.zeros(3, 2))
    with pytest.raises(InvalidInputError, match="success"):
        Video(frames=frames, provenance=ORIGIN, success=float("nan"))


def test_fitting_keeps_colours_and_enlarges_by_repeating() -> None:
    frames = torch.from_numpy(still(2, 8))
    assert torch.equal(resize_frames(frames, 16)[:, ::2, 1::2], frames)
    small = resize_frames(frames, 4)
    mean = frames.float().reshape(2, 4, 2, 4, 2, 3).mean(dim=(2, 4))
    assert (small.float() - mean).abs().max() <= 0.5
    assert resize_frames(torch.from_numpy(still(2, 8))[:, :, :6], 8).shape == (2, 8, 8, 3)


def test_a_folder_of_video_files(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for name in ("good/b.mp4", "good/a.mp4", "c.MP4"):
        write_mp4(tmp_path / name, still(5), rate_hz=10)
    source = FolderVideos(tmp_path)
    assert [source.video(i).provenance.episode for i in range(3)] == ["c.MP4", "good/a.mp4", "good/b.mp4"]
    assert source.video(1).provenance.policy == "good" and source.video(1).provenance.rate_hz == 10
    assert len(source.video(0)) == 5
    with pytest.raises(StorageError, match="holds no video file"):
        FolderVideos(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="there are 3"):
        source.video(3)


def test_bad_files_are_skipped_and_counted_up_to_a_share(tmp_path: Path) -> None:
    for i in range(6):
        write_mp4(tmp_path / f"{i}.mp4", still(6), rate_hz=10)
    (tmp_path / "1.mp4").write_bytes(b"no video at all")
    write_mp4(tmp_path / "4.mp4", still(1), rate_hz=10)
    write_mp4(tmp_path / "5.mp4", still(3), rate_hz=10)
    source = FolderVideos(tmp_path)
    with pytest.raises(StorageError, match=r"1\.mp4"):
        source.video(1)
    with pytest.raises(InvalidInputError, match=r"4\.mp4"):
        source.video(4)
    good = skip_unreadable(source, share=0.5, shortest=4)
    assert len(good) == 3
    assert [good.video(i).provenance.episode for i in range(3)] == ["0.mp4", "2.mp4", "3.mp4"]
    assert len(good.bad) == 3
    assert "1.mp4" in good.bad[0]
    with pytest.raises(InvalidInputError, match=r"3 of 6 videos are bad.*1\.mp4"):
        len(skip_unreadable(source, share=0.4, shortest=4))


def test_dataset_episodes(tmp_path: Path) -> None:
    source = DatasetVideos(toys.write(tmp_path / "d", 3, true_state_dim=4))
    for i in range(3):
        video, written = source.video(i), toys.episode(i, steps=4 + i, true_state_dim=4)
        assert np.array_equal(video.frames.numpy(), written.frames[IMAGE])
        assert video.action is not None and np.array_equal(video.action.numpy(), written.action)
        assert video.true_state is not None and np.array_equal(video.true_state.numpy(), written.true_state)
        assert video.success == written.success[-1]
        assert video.provenance == Provenance(
            kind="dataset", episode=str(i), seed=written.seed, policy=f"b{i % 2}", rate_hz=toys.spec().action.rate_hz
        )


def test_a_dreamed_dataset_is_labelled_and_asked_about(tmp_path: Path) -> None:
    real = DatasetVideos(toys.write(tmp_path / "real", 6))
    dream = DatasetVideos(toys.write(tmp_path / "dream", 6, dreamed_by="push"))
    both = JoinedSource([real, dream])
    kinds = [both.video(i).provenance.kind for i in range(12)]
    assert kinds == ["dataset"] * 6 + ["dream"] * 6
    assert [both.provenance(i) for i in range(12)] == [both.video(i).provenance for i in range(12)]
    with pytest.raises(InvalidInputError, match="there are 6"):
        dream.provenance(6)
    tasks = [TASKS.build("dreamed", {"frames": 2, "stride": 1}), TASKS.build("outcome", {"frames": 2})]
    items = [item for task in tasks for item in Items(task, Footage(both, size=16), count=4)]
    assert {item.answer for item in items[:4]} == {"real", "dreamed"}
    assert {item.provenance.kind for item in items} == {"dataset", "dream"}
    for by in ("policy", "seed"):
        sides = [{both.provenance(i) for i in part.indices} for part in split(both, by=by, share=0.4)]
        groups = [{o.policy if by == "policy" else str(o.seed) for o in side} for side in sides]
        assert not groups[0] & groups[1]
        assert all({o.kind for o in side} == {"dataset", "dream"} for side in sides)


def test_what_a_dataset_does_not_know_stays_unknown(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "d", toys.spec(has_success=False, has_progress=False)) as writer:
        writer.write(toys.episode(0))
    video = DatasetVideos(tmp_path / "d").video(0)
    assert video.success is None
    assert video.true_state is None


def test_rollouts_of_the_simulator_repeat_themselves() -> None:
    part = filmed().video(3)
    rate_hz = simulator().spec.action.rate_hz
    assert part.provenance == Provenance(kind="simulator", episode="3", seed=3, policy="expert", rate_hz=rate_hz)
    assert part.frames.shape == (41, 64, 64, 3)
    assert part.true_state is not None and part.true_state.shape == (41, 4)
    alone = record_videos(simulator(), policies()["expert"], simulator().starts(torch.tensor([3])), torch.tensor([3]))
    assert torch.equal(alone.video(0).frames, part.frames)
    assert part.success is not None and part.progress is not None and part.progress[1:].isfinite().all()


def test_dreams_are_decoded_throughout() -> None:
    video = dreamt().video(0)
    assert video.provenance.kind == "dream"
    assert video.true_state is None
    assert len(video) == 31
    first = dreamer().starts(torch.tensor([0]))["observation.image"]
    assert torch.equal(video.frames[:1], dreamer().roundtrip(first))
    assert video.progress is not None and video.progress.isfinite().all()


def test_splits_share_no_group() -> None:
    source = filmed()
    for by in ("episode", "seed", "policy"):
        train, held = split(source, by=by, share=0.3, seed=1)
        assert sorted(train.indices + held.indices) == list(range(len(source)))
        assert split(source, by=by, share=0.3, seed=1)[1].indices == held.indices
    groups = [{p.video(i).provenance.seed for i in range(len(p))} for p in split(source, by="seed")]
    assert not groups[0] & groups[1]
    policy = [{p.video(i).provenance.policy for i in range(len(p))} for p in split(source, by="policy")]
    assert not policy[0] & policy[1]
    with pytest.raises(InvalidInputError, match="two groups"):
        split(SourceSubset(source, range(5)), by="policy")
    with pytest.raises(InvalidInputError, match="share"):
        split(source, share=1.0)


def test_footage_keeps_few_frames_and_gives_the_same_ones() -> None:
    source = JoinedSource([SourceSubset(filmed(), range(6)), VideoList([filmed().video(0)])])
    small, large = Footage(source, size=32, cache_mb=0), Footage(source, size=32)
    for video in range(7):
        assert torch.equal(small.frames(video, [0, 5]), large.frames(video, [0, 5]))
    assert torch.equal(large.frames(0, [3, 1]), large.frames(6, [3, 1]))
    with pytest.raises(InvalidInputError, match="a video at least"):
        Footage(VideoList([]))


def test_places_are_described_by_cell_and_heading() -> None:
    states = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.95, 0.5, 0.0, 1.0], [1.0, 1.0, -1.0, 0.0]])
    video = Video(
        frames=torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        provenance=ORIGIN,
        true_state=states,
        proprio=torch.tensor([[0.2, 0.1], [0.3, 0.1], [0.4, 0.1]]),
        layout=layout_of("worldsim/Push-v0"),
    )
    footage = Footage(VideoList([video]), size=8, limits=((0.0, 1.0), (0.0, 1.0)))
    assert footage.describe_places(0, [0, 1, 2]) == "object 000 952 995; agent 21 31 41"
    bare = Video(frames=video.frames, provenance=ORIGIN)
    unknown = dataclasses.replace(video, layout=layout_of("somebody/Else-v0"))
    for one in (bare, unknown):
        plain = Footage(VideoList([one]), size=8)
        assert plain.describe_places(0, [0, 1]) == plain.describe_motion(0, [0, 1]) == ""
        assert plain.frame_facts(0, [0, 1]).numbers.isnan().all()


def test_another_scene_is_served_by_its_layout_or_refused_by_name() -> None:
    frames = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    states = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.95, 0.5], [9.0, 1.0, 1.0]])
    video = Video(frames=frames, provenance=ORIGIN, true_state=states, layout=StateLayout(object=(1, 2)))
    assert Footage(VideoList([video]), size=8).describe_places(0, [0, 1, 2]) == "object 00 95 99"
    with pytest.raises(InvalidInputError, match=r"Video a: the layout's heading is in columns \(3, 4\) of true_state"):
        Video(frames=frames, provenance=ORIGIN, true_state=states, layout=StateLayout(heading=(3, 4)))
    with pytest.raises(InvalidInputError, match="two different columns"):
        StateLayout(agent=(1, 1))
    moving = Video(frames=frames, provenance=ORIGIN, action=torch.ones(2, 7))
    with pytest.raises(InvalidInputError, match=r"Task effect asks in which direction.*video a.*items\.layout\.action"):
        Items(TASKS.build("effect", {}), Footage(VideoList([moving]), size=8), count=4)


def test_a_dataset_names_the_layout_of_its_task(tmp_path: Path) -> None:
    path = toys.write(tmp_path / "d", 1, true_state_dim=4)
    assert DatasetVideos(path).video(0).layout == StateLayout()
    given = StateLayout(object=(2, 3))
    assert DatasetVideos(path, layout=given).video(0).layout == given
    extra = tmp_path / "d" / "meta" / "worldsim.json"
    about = json.loads(extra.read_text())
    about["spec"]["task_id"] = "worldsim/Push-v0"
    extra.write_text(json.dumps(about))
    assert DatasetVideos(path).video(0).layout == layout_of("worldsim/Push-v0") != StateLayout()


def test_the_data_half_imports_without_language_models_simulators_or_codecs() -> None:
    absent = [
        "transformers",
        "trl",
        "peft",
        "datasets",
        "gymnasium",
        "mujoco",
        "av",
        "pyarrow",
        "PIL",
        "scipy",
        "lerobot",
    ]
    modules = "items.sources items.footage items.windows items.item tasks train.rewards"
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {modules.split()!r}: importlib.import_module('worldsim.reason.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_over_files_alone(tmp_path: Path) -> None:
    """What a user with nothing but video files does: skip the bad ones, ask, and get complete items."""
    for i in range(4):
        write_mp4(tmp_path / f"{i}.mp4", filmed().video(i).frames.numpy(), rate_hz=10)
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:400])
    source = skip_unreadable(FolderVideos(tmp_path), share=0.3)
    footage = Footage(source, size=32)
    assert len(footage) == 4 and "torn.mp4" in source.bad[0]
    for name in ("arrow", "order", "puzzle", "permanence"):
        item = Items(TASKS.build(name, {}), footage, count=8)[5]
        assert item.provenance.kind == "file" and item.answer in item.options


@pytest.mark.parametrize(
    ("count", "most", "left"), [(10, 3, [0, 3, 6]), (4, 4, [0, 1, 2, 3]), (4, 0, [0, 1, 2, 3]), (5, 9, [0, 1, 2, 3, 4])]
)
def test_a_source_is_subsampled_evenly(count: int, most: int, left: list[int]) -> None:
    class Numbered:
        def __len__(self) -> int:
            return count

        def video(self, index: int) -> int:
            return index

    few = subsample(Numbered(), most)
    assert [few.video(i) for i in range(len(few))] == left
