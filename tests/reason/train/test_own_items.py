"""A user's own clips and questions, and the script of the README, word for word."""

import dataclasses
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.reason.toy import item
from tests.reason.train.test_grpo import task
from tests.reason.train.test_sft import Killed, killer, recipe, untrained, weights
from tests.train import toy
from worldsim import storage
from worldsim.core import IMAGE
from worldsim.errors import InvalidInputError, StorageError
from worldsim.optimize import Schedule
from worldsim.reason.items.own_clips import ClipItems, Question
from worldsim.reason.items.sources import FolderVideos, skip_unreadable
from worldsim.reason.train.grpo import train_reason_grpo
from worldsim.reason.train.items import ItemsConfig, split_items
from worldsim.reason.train.sft import train_reason_sft
from worldsim.reason.vlm.model import VLM
from worldsim.video import write_mp4

SCRIPT = Path(__file__).parents[3] / "docs/grpo_own_clips.py"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twenty good files and a torn one."""
    path = tmp_path_factory.mktemp("clips")
    for seed in range(20):
        episode = toy.episode(seed)
        write_mp4(
            path / ("yes" if episode.success[-1] else "no") / f"{seed:02d}.mp4", episode.frames[IMAGE], rate_hz=10
        )
    (path / "no/torn.mp4").write_bytes(
        (path / "no/00.mp4").read_bytes()[:300] if (path / "no/00.mp4").exists() else b"?"
    )
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("start") / "model")


def yes_or_no(clip):
    return Question(text="Is it in the middle?", options=("yes", "no"), answer=clip.policy)


def test_the_script_of_the_readme_is_all_a_user_needs(clips, start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(clips), str(start), str(tmp_path / "run"), "3"])
    assert len(SCRIPT.read_text().splitlines()) <= 30
    runpy.run_path(str(SCRIPT), run_name="__main__")
    made = Path(capsys.readouterr().out.strip())
    assert made == tmp_path / "run/model" and VLM.from_pretrained(made).encoder.shown == "video"
    before, after = weights(start), weights(made)
    assert not [k for k in before if "visual" in k and torch.equal(before[k], after[k])]
    manifest = storage.read_manifest(made, kind="vlm")
    assert manifest["skipped_videos"] == 1 and manifest["figures"]["items/own"] == 4
    logged = {k for line in (made.parent / "metrics.jsonl").read_text().splitlines() for k in json.loads(line)}
    assert {"rewards/brief/mean", "rewards/accuracy/mean", "reward/own"} <= logged
    before = (made / "manifest.json").stat().st_mtime_ns
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (made / "manifest.json").stat().st_mtime_ns == before, "the same command again does nothing"


def test_clips_become_items_in_which_each_clip_has_its_question(clips):
    source = skip_unreadable(FolderVideos(clips), share=0.1, shortest=8)
    made = ClipItems(source, yes_or_no, frames=5, size=32)
    assert len(made) == 20 and len(made.bad) == 1 and "torn.mp4" in made.bad[0]
    one = made[-1]
    assert one.frames.shape == (5, 32, 32, 3) and one.taken == (0, 3, 6, 9, 12) and one.number == 19
    assert one.clip and one.times_s[-1] == pytest.approx(1.2) and one.group == one.answer == "yes"
    assert one.prompt.startswith("Is it in the middle?\nOptions: yes, no\n") and one.task == "own"
    assert torch.equal(made[3:5][1].frames, made[4].frames)
    half = ClipItems(source, lambda clip: yes_or_no(clip) if "0.mp4" in clip.episode else None, frames=5, size=32)
    assert sorted(i.provenance.episode[-6:] for i in half) == ["00.mp4", "10.mp4"]


def test_what_is_wrong_with_a_clip_or_a_question_is_said_by_name(clips, tmp_path):
    source = skip_unreadable(FolderVideos(clips), share=0.1)
    with pytest.raises(InvalidInputError, match=r"Clip no/\d\d\.mp4 has 13 frames; 20 are to be shown"):
        ClipItems(source, yes_or_no, frames=20, size=32)[0]
    with pytest.raises(InvalidInputError, match=r"about clip no/\d\d\.mp4: KeyError: 'no/"):
        ClipItems(source, lambda clip: {}[clip.episode], size=32)
    with pytest.raises(InvalidInputError, match="a Question or None is expected, not str"):
        ClipItems(source, lambda clip: "yes?", size=32)
    with pytest.raises(InvalidInputError, match="the right answer among them; got .*'maybe'"):
        ClipItems(source, lambda clip: Question(text="?", options=("yes", "no"), answer="maybe"), size=32)
    with pytest.raises(InvalidInputError, match="No question was asked about any of 20 clips"):
        ClipItems(source, lambda clip: None, size=32)
    with pytest.raises(InvalidInputError, match="frames must be at least 1"):
        ClipItems(source, yes_or_no, frames=0)
    with pytest.raises(StorageError, match=r"torn\.mp4"):
        ClipItems(FolderVideos(clips), yes_or_no, size=32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="holds no video file"):
        FolderVideos(tmp_path / "empty")


class Patchy(Sequence):
    """Twenty toy items, some of which cannot be made."""

    def __init__(self, *bad):
        self._bad = bad

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index in self._bad:
            raise StorageError(f"Clip {index} is gone.")
        return item(index)


def test_own_items_are_parted_by_video_and_bad_ones_counted():
    asked = ItemsConfig(share=0.25, bad_share=0.1)
    parts = split_items(Patchy(3, 7), asked, seed=0)
    assert parts.bad == ("3: Clip 3 is gone.", "7: Clip 7 is gone.")
    learned = {i.provenance.episode for i in parts.training(200)}
    examined = {i.provenance.episode for i in parts.held_out(50)}
    assert len(learned) == 14 and len(examined) == 4 and not learned & examined and "7" not in learned | examined
    once = [i.number for i in parts.training(28)]
    assert sorted(once[:14]) == sorted(once[14:]) and once[:14] != once[14:], "each time round another order"
    assert [i.number for i in parts.training(28)[3:5]] == once[3:5]
    assert [i.number for i in split_items(Patchy(3, 7), asked, seed=1).training(28)] != once
    assert len(parts.held_out(2)) == 2 and len(parts.texts(5)) == 10
    with pytest.raises(InvalidInputError, match=r"3 of 20 items are bad.*share of 0.1.*3: Clip 3 is gone"):
        split_items(Patchy(3, 7, 9), asked, seed=0)
    with pytest.raises(InvalidInputError, match="0 of 0 items"):
        split_items([], asked, seed=0)
    with pytest.raises(InvalidInputError, match="two groups"):
        split_items([item(1), item(1)], asked, seed=0)


def test_a_folder_belongs_to_the_items_it_was_begun_with(start, tmp_path):
    config = task(
        "mine", start, tmp_path / "run", steps=2, evaluate_every=0, items=ItemsConfig(final_eval=2, quick_eval=2)
    )
    made = train_reason_grpo(config, items=Patchy())
    assert train_reason_grpo(config, items=Patchy()) == made
    with pytest.raises(InvalidInputError, match="another request"):
        train_reason_grpo(config, items=[item(n, task="half") for n in range(20)])
    half = recipe("mine", tmp_path / "half", warm=Schedule(steps=0), steps=3, save_every=1, evaluate_every=0)
    half = dataclasses.replace(half, items=config.items)
    with pytest.raises(Killed):
        train_reason_sft(half, items=Patchy(), progress=killer(2))
    with pytest.raises(InvalidInputError, match="another request.*items"):
        train_reason_sft(half, items=[item(n, task="half") for n in range(20)])
    with pytest.raises(InvalidInputError, match="another request.*config"):
        train_reason_sft(dataclasses.replace(half, lr=1e-4), items=Patchy())
    done = storage.read_manifest(train_reason_sft(half, items=Patchy()), kind="vlm")
    assert done["figures"]["items/side"] == 2 and done["items_digest"]
