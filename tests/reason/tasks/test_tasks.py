"""Items of every task: what they hold, that they repeat themselves, that labels are even, and that answers are true."""

import collections
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reason.films import filmed, footage, mixed_footage
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.reason.items.footage import COMPASS, Footage, compass_point
from worldsim.reason.items.item import PLACEHOLDER, Item, Mixture, balanced_label, draw_items
from worldsim.reason.items.sources import SourceSubset, VideoList
from worldsim.reason.items.video import Provenance, Video
from worldsim.reason.items.windows import balance
from worldsim.reason.tasks import TASKS
from worldsim.reason.tasks.actions import describe_action, direction
from worldsim.reason.tasks.base import Items
from worldsim.reason.tasks.permanence import BAR_RGB, find_scene
from worldsim.reason.tasks.puzzle import CORNERS
from worldsim.reason.train.rewards import accuracy_reward, format_reward

NAMES = sorted(TASKS)


def items(name: str, count: int = 60, *, seed: int = 0, split: str = "train", **config: object) -> Items:
    part = mixed_footage() if name == "dreamed" else footage()
    return Items(TASKS.build(name, config), part[split != "train"], count=count, seed=seed, split=split)


def same(a: Item, b: Item) -> bool:
    fields = [f.name for f in dataclasses.fields(Item) if f.name not in ("frames", "frame_facts")]
    facts = [i.frame_facts for i in (a, b)]
    if [f is None for f in facts].count(True) == 1 or (facts[0] is not None and facts[0].labels != facts[1].labels):
        return False
    one, other = (None if f is None else f.numbers for f in facts)
    if (one is None) != (other is None):
        return False
    if one is not None and not torch.equal(one.nan_to_num(9), other.nan_to_num(9)):
        return False
    return torch.equal(a.frames, b.frames) and all(getattr(a, f) == getattr(b, f) for f in fields)


@pytest.mark.parametrize("name", NAMES)
def test_items_are_complete_and_repeat_themselves(name: str) -> None:
    made, again, other = items(name), items(name), items(name, seed=1)
    for k in (0, 7, 59):
        item = made[k]
        assert same(item, again[k])
        assert item.number == k and item.task == name
        assert item.frames.dtype == torch.uint8 and item.frames.shape[1:] == (32, 32, 3)
        assert 0 <= item.difficulty <= 1
        assert len(item.frames) == len(item.taken)
    assert same(made[-1], again[59])
    assert not all(same(made[k], other[k]) for k in range(8))
    with pytest.raises(IndexError):
        made[60]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_even(name: str) -> None:
    made = items(name, 101)
    for count in (101, 40):
        by_question = collections.defaultdict(collections.Counter)
        for item in made[:count]:
            by_question[item.options][item.answer] += 1
        for options, seen in by_question.items():
            missing = name == "outcome" and len(options) == 5  # a bin that no episode falls into
            assert missing or len(seen) == len(options)
            assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_ideal_reply_and_the_literal_follower_score_in_full(name: str) -> None:
    for item in items(name)[:6]:
        assert item.answer in item.prompt.splitlines()[1]
        literal = item.prompt.splitlines()[-1].replace(PLACEHOLDER, item.answer)
        for reply in (literal, item.completion):
            assert accuracy_reward([reply], answer=[item.answer]) == [1.0]
            assert format_reward([reply]) == [1.0]
        wrong = next(o for o in item.options if o != item.answer)
        assert accuracy_reward([item.completion], answer=[wrong]) == [0.0]


def test_arrow_turns_the_clip_round() -> None:
    for item in items("arrow")[:10]:
        steps = set(np.diff(item.taken))
        assert steps == ({3} if item.answer == "forward" else {-3})


def test_arrow_thinks_of_what_happened() -> None:
    part, _ = footage()
    agree = 0
    for item in items("arrow")[:20]:
        card = next(c for c in part.summaries if c.provenance == item.provenance)
        rows = list(item.taken)
        assert card.object_xy is not None and card.agent_xy is not None and item.frame_facts is not None
        numbers = item.frame_facts.numbers.numpy()
        went = card.object_xy[rows[-1]] - card.object_xy[rows[0]]
        goes, side = item.think.removesuffix(" of it").replace("object goes ", "").split("; agent ")
        assert goes == compass_point(went)
        points = {c: k * math.pi / 4 for k, c in enumerate(COMPASS)}
        agree += (math.cos(points[goes] - points[side]) < 0) == (item.answer == "forward")
        low, high = np.array(part.limits).T
        assert np.allclose((numbers[:, :2] + 1) / 2 * (high - low) + low, card.object_xy[rows], atol=1e-5)
        assert np.allclose((numbers[:, 2:4] + 1) / 2 * (high - low) + low, card.agent_xy[rows], atol=1e-5)
    assert agree >= 17  # what is pushed goes away from who pushes


def test_compass_points() -> None:
    around = [compass_point(np.array([math.cos(a), math.sin(a)], np.float32)) for a in np.arange(8) * math.pi / 4 + 0.3]
    assert around == list(COMPASS)
    assert (
        compass_point(np.array([1.0, -0.3], np.float32)) == "E"
        and compass_point(np.array([-1.0, -0.3], np.float32)) == "W"
    )


def test_order_names_the_frames_as_they_happened() -> None:
    for item in items("order")[:12]:
        happened = [item.taken[int(place) - 1] for place in item.answer]
        assert happened == sorted(happened)


def test_puzzle_quarters_make_the_frame_again() -> None:
    part, _ = footage()
    for item in items("puzzle")[:12]:
        named = {str(n): c for n, c in enumerate(item.frame_facts.labels, start=1) if c is not None}
        assert {f"{corner} {number}" for number, corner in named.items()} == set(item.think.split("; "))
        assert item.think.endswith(f"{item.group} {item.answer}")
        assert named[item.answer] == item.group and f"Which is the {item.group}?" in item.prompt
        place = {corner: int(number) - 1 for number, corner in named.items()}
        quarter = [item.frames[place[c]] for c in CORNERS]
        video = next(v for v, c in enumerate(part.summaries) if c.provenance == item.provenance)
        full = part.frames(video, [item.taken[1]], size=64)[0]
        rows = [torch.cat(quarter[:2], dim=1), torch.cat(quarter[2:], dim=1)]
        assert torch.equal(torch.cat(rows), full)


def test_permanence_edits_only_what_it_says() -> None:
    part, _ = footage()
    thing = find_scene(part, size=64)
    groups = set()
    for item in items("permanence", 40)[:40]:
        words = item.frame_facts.labels
        assert item.answer == ("yes" if words[0] == words[-1] else "no")
        assert item.think == f"{words[0]} before; {words[-1]} after"
        assert words[3:5] == ("hidden", "hidden")
        video = next(v for v, c in enumerate(part.summaries) if c.provenance == item.provenance)
        honest = part.frames(video, item.taken)
        for number, word in enumerate(words):
            frame, original = item.frames[number].float(), honest[number].float()
            if word == "there":
                assert torch.equal(frame, original)
            elif word == "hidden":
                bar = (frame == torch.tensor(BAR_RGB)).all(dim=-1).all(dim=0)
                assert 3 <= int(bar.sum()) < 32
            else:
                assert (frame - original).abs().max() > 60
        red = [float((f.float() - torch.tensor([205.0, 52, 45])).abs().sum(-1).le(60).sum()) for f in item.frames]
        assert all((r > 0) == (w == "there") for r, w in zip(red, words, strict=True) if w != "hidden")
        groups.add(item.group)
    assert groups == {"stays there", "stays missing", "stays other", "vanishes", "appears", "swapped"}
    assert thing.color_C[0] > 0.3 > -0.3 > thing.color_C[1]  # the block is red


def test_permanence_changes_every_state_into_every_other() -> None:
    seen = collections.Counter((w[0], w[-1]) for w in (i.frame_facts.labels for i in items("permanence", 180)[:]))
    same_state = [count for (a, b), count in seen.items() if a == b]
    changed = [count for (a, b), count in seen.items() if a != b]
    assert len(same_state) == 3 and sum(same_state) == 90 and min(same_state) > 15
    assert len(changed) == 6 and min(changed) > 5


def test_next_action_is_what_the_agent_did() -> None:
    part, _ = footage()
    for item in items("next_action")[:20]:
        card = next(c for c in part.summaries if c.provenance == item.provenance)
        assert card.action_xy is not None and card.agent_xy is not None
        last = item.taken[-1]
        moved = card.agent_xy[last + 3] - card.agent_xy[last]
        axis, sign = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "down": (1, -1)}[item.answer]
        assert moved[axis] * sign > abs(moved[1 - axis]) * 0.5


def test_directions_in_words() -> None:
    assert describe_action(np.array([0.5, -1.0], np.float32)) == "right 4 down 9"
    assert [direction(np.array(a, np.float32)) for a in ([1, 0.2], [-1, 0], [0.1, 2], [0, -1])] == [0, 1, 2, 3]


def test_effect_shows_the_true_future_in_the_named_place() -> None:
    for item in items("effect")[:20]:
        assert item.taken[int(item.answer) - 1] == item.taken[3] + 6
        assert len(set(item.taken[4:])) == 4
        assert not set(item.taken[4:]) & set(item.taken[:4])


def test_outcome_tells_success_and_progress() -> None:
    part, _ = footage()
    for item in items("outcome")[:40]:
        card = next(c for c in part.summaries if c.provenance == item.provenance)
        assert item.taken[0] == 0 and item.taken[-1] == card.frames - 1
        if item.group == "success":
            assert item.answer == ("yes" if card.success == 1 else "no")
        else:
            low, high = map(int, item.answer.split("-"))
            assert card.progress is not None and low <= 100 * card.progress[-1] <= high


def test_dreams_are_called_dreamed() -> None:
    for item in items("dreamed")[:12]:
        assert (item.answer == "dreamed") == (item.provenance.kind == "dream")
        assert item.think == ""


def test_items_know_whether_they_are_one_clip() -> None:
    clips = {name for name in NAMES if items(name)[3].clip}
    assert clips == {"arrow", "dreamed", "next_action", "outcome", "permanence"}
    videos = [mixed_footage()[0]._source.video(i) for i in range(len(mixed_footage()[0]))]
    origins = [dataclasses.replace(v.provenance, rate_hz=5.0 + i % 2) for i, v in enumerate(videos)]
    uneven = VideoList([dataclasses.replace(v, provenance=o) for v, o in zip(videos, origins, strict=True)])
    assert not Items(TASKS.build("dreamed", {}), Footage(uneven, size=32), count=2)[0].clip, "times would tell"


def test_what_a_source_lacks_is_said() -> None:
    videos = [filmed().video(i) for i in range(3)]
    bare = [Video(frames=v.frames, provenance=v.provenance) for v in videos]
    silent = Footage(VideoList(bare), size=32)
    for name, words in {
        "next_action": "video 0 has no actions.*items.layout.action",
        "effect": "has no actions",
        "outcome": "0 are known to succeed",
        "dreamed": "Real and dreamed",
    }.items():
        with pytest.raises(InvalidInputError, match=words):
            Items(TASKS.build(name, {}), silent, count=4)
    assert Items(TASKS.build("arrow", {}), silent, count=4)[0].think == ""
    frozen = Video(frames=videos[0].frames[:1].repeat(30, 1, 1, 1), provenance=Provenance(kind="file", episode="x"))
    with pytest.raises(InvalidInputError, match="Nothing moves"):
        Items(TASKS.build("arrow", {}), Footage(VideoList([frozen]), size=32), count=4)
    with pytest.raises(InvalidInputError, match="No thing of one colour"):
        Items(TASKS.build("permanence", {}), Footage(VideoList([frozen]), size=32), count=4)
    with pytest.raises(InvalidInputError, match="videos of 71 frames; the longest of 3 has 41"):
        Items(TASKS.build("arrow", {"stride": 10}), silent, count=4)
    with pytest.raises(UnknownNameError, match="arrow"):
        TASKS.build("arow", {})


def test_balanced_is_even_over_every_run() -> None:
    for n in (2, 3, 6):
        labels = [balanced_label(5, k, n) for k in range(60)]
        assert all(sorted(labels[i : i + n]) == list(range(n)) for i in range(0, 60, n))
    assert len({tuple(balanced_label(5, k, 3) for k in range(i, i + 3)) for i in range(0, 60, 3)}) > 3


def test_level_takes_out_what_leans() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    rows[:, 0] += 0.5
    chosen = balance(rows, keep=0.6)
    assert len(set(chosen.tolist())) == 240
    for prefix in (60, 240):
        assert np.abs(rows[chosen[:prefix]].mean(axis=0)).max() < 0.06


def test_a_mixture_has_exact_shares_and_each_tasks_own_order() -> None:
    parts = [items("arrow", 30), items("puzzle", 30), items("order", 5)]
    mixed = Mixture(parts, weights=[2, 1, 1], count=40)
    made = mixed[:]
    assert collections.Counter(i.task for i in made) == {"arrow": 20, "puzzle": 10, "order": 10}
    assert [i.number for i in made if i.task == "arrow"] == list(range(20))
    assert [i.number for i in made if i.task == "order"] == [0, 1, 2, 3, 4] * 2
    assert same(mixed[3], Mixture(parts, weights=[2, 1, 1], count=40)[3])
    assert [i.task for i in made] != [i.task for i in Mixture(parts, weights=[2, 1, 1], count=40, seed=1)]
    assert len(Mixture(parts)) == 65
    with pytest.raises(InvalidInputError, match="3 positive weights"):
        Mixture(parts, weights=[1, 0, 1])


def test_a_sheet_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    draw_items(items("arrow")[:2], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width >= 8 * 112
        assert len(picture.getcolors(maxcolors=1 << 20) or []) > 10


def test_held_out_items_come_from_other_videos() -> None:
    train, held = items("arrow"), items("arrow", split="held")
    seen = [{(i.provenance.policy, i.provenance.episode) for i in part[:]} for part in (train, held)]
    assert not seen[0] & seen[1]
    assert len(SourceSubset(filmed(), [0])) == 1


def test_outcome_thinks_of_how_progress_went() -> None:
    part, _ = footage()
    for item in items("outcome")[:8]:
        card = next(c for c in part.summaries if c.provenance == item.provenance)
        assert card.progress is not None
        known = card.progress[list(item.taken)]
        name, *tenths = item.think.split()
        assert name == "progress" and len(tenths) == len(known)
        for digit, true in zip(tenths, known, strict=True):
            assert digit == "-" if np.isnan(true) else int(digit) == min(9, int(10 * true))
