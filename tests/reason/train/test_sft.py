import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.reason.toy import items, texts
from tests.train import toy
from worldsim import storage
from worldsim.core import IMAGE
from worldsim.errors import InvalidInputError, StorageError, TrainingError, UnknownNameError
from worldsim.optimize import Schedule
from worldsim.reason.items.video import StateLayout
from worldsim.reason.train.arguments import Adapter
from worldsim.reason.train.evaluation import evaluate_items
from worldsim.reason.train.items import ItemsConfig, open_task_items, open_videos
from worldsim.reason.train.run import SPENT, is_done
from worldsim.reason.train.sft import TrainReasonSft, answer_weights, target_reply, train_reason_sft, weighted_loss
from worldsim.reason.vlm.model import VLM
from worldsim.reason.vlm.tiny import TinyConfig
from worldsim.train.config import resolve

ASKED = ItemsConfig(
    tasks=("arrow", "outcome"),
    options={"arrow": {"frames": 4}, "outcome": {"frames": 4}},
    videos=24,
    held_out=6,
    final_eval=6,
    quick_eval=4,
    layout=StateLayout(agent=(0, 1)),
)
TINY = TinyConfig(hidden=32, heads=2, layers=2, depth=1, vocab=320, patch=16)


class Killed(Exception):
    """Stands for a kill at an awkward moment."""


def killer(step):
    def watch(stage, at, steps, values):
        if stage.startswith("reason") and at >= step:
            raise Killed

    return watch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=36)


def recipe(data, out, **changes):
    base = TrainReasonSft(
        data=str(data),
        out=str(out),
        tiny=TINY,
        items=ASKED,
        warm=Schedule(steps=3, batch=8, lr=1e-3),
        steps=4,
        batch=4,
        evaluate_every=2,
        save_every=2,
        max_new_tokens=4,
    )
    return dataclasses.replace(base, **changes)


def begun(data, out, **changes):
    """A model after one step, to go on from."""
    return train_reason_sft(recipe(data, out, **{"warm": Schedule(steps=0), "steps": 1, "evaluate_every": 0} | changes))


def untrained(folder):
    """A model that knows the words of the items without footage."""
    VLM.tiny(texts(items(20)), TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    return train_reason_sft(recipe(data, tmp_path_factory.mktemp("sft") / "run", tower="train", keep=(2, 4)))


def weights(folder):
    return VLM.from_pretrained(folder).model.state_dict()


def test_the_folder_says_what_was_done_and_how_well(folder, data):
    manifest = storage.read_manifest(folder, kind="vlm")
    assert manifest["config"]["data"] == str(data) and manifest["steps"] == 4
    for name in ("accuracy/arrow", "fast/arrow", "blind/arrow", "format/outcome", "accuracy/outcome/success"):
        assert 0 <= manifest["figures"][name] <= 1
    assert manifest["figures"]["items/arrow"] == 6
    assert manifest["core_seconds"].keys() == {"warm-up", "reason-sft"} and manifest["core_seconds"]["reason-sft"] > 0
    lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in line for line in lines) and any("accuracy/arrow" in line for line in lines)
    assert lines[-1]["step"] == 4 and "final/blind/arrow" in lines[-1]
    assert (folder.parent / "checkpoints/checkpoint-4" / SPENT).exists() and (folder.parent / "config.json").exists()


def test_all_parts_of_the_model_are_trained(folder, data):
    made = open_task_items(str(data), ASKED, size=32, seed=0)
    before, after = VLM.tiny(made.texts(), TINY).model.state_dict(), weights(folder)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert before.keys() == after.keys()
    assert not still, "the visual weights must move, and all others"


def test_a_killed_run_ends_with_the_same_weights(folder, data, tmp_path):
    same = {"tower": "train", "keep": (2, 4)}
    with pytest.raises(Killed):
        train_reason_sft(recipe(data, tmp_path / "run", **same), progress=killer(4))
    assert not (tmp_path / "run/model").exists()
    half = tmp_path / "run/checkpoints/checkpoint-3"
    half.mkdir()  # as a kill leaves it while it is written
    again = train_reason_sft(recipe(data, tmp_path / "run", **same))
    assert not half.exists()
    first, second = weights(folder), weights(again)
    assert all(torch.equal(first[k], second[k]) for k in first)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_models_on_the_way_are_kept(folder):
    kept = folder.parent / "kept"
    assert storage.read_manifest(kept / "2", kind="vlm")["steps"] == 2
    early, last, end = weights(kept / "2"), weights(kept / "4"), weights(folder)
    assert all(torch.equal(last[k], end[k]) for k in end)
    assert not all(torch.equal(early[k], end[k]) for k in end)


def test_a_tower_that_was_warmed_up_stays_as_it_is(data, tmp_path):
    made = train_reason_sft(recipe(data, tmp_path / "run", steps=3, keep=(1,), evaluate_every=0))
    early, end = weights(made.parent / "kept/1"), weights(made)
    assert all(torch.equal(early[k], end[k]) == ("visual" in k) for k in end)


def test_the_same_command_again_does_nothing_and_another_is_refused(folder, data):
    made = (folder / "manifest.json").stat().st_mtime_ns
    assert train_reason_sft(recipe(data, folder.parent, tower="train", keep=(2, 4))) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(InvalidInputError, match="another request"):
        train_reason_sft(recipe(data, folder.parent, lr=1e-4))


def test_a_setting_that_came_later_had_its_default(folder, data):
    path = folder / "manifest.json"
    before = path.read_text()
    saved = json.loads(before)
    del saved["config"]["schedule"]
    path.write_text(json.dumps(saved))
    try:
        assert is_done(folder.parent, recipe(data, folder.parent, tower="train", keep=(2, 4)))
        with pytest.raises(InvalidInputError, match="another request"):
            is_done(folder.parent, recipe(data, folder.parent, tower="train", keep=(2, 4), schedule="constant"))
    finally:
        path.write_text(before)


def test_a_tiny_models_pixels_are_normalised_by_the_footage(folder, data):
    made = open_task_items(str(data), ASKED, size=32, seed=0)
    mean, deviation = made.pixels()
    image = VLM.from_pretrained(folder).processor.image_processor
    assert list(image.image_mean) == pytest.approx(mean) and list(image.image_std) == pytest.approx(deviation)
    shown = torch.cat([i.frames for i in made.training(200)]).double() / 255
    assert shown.mean((0, 1, 2)).tolist() == pytest.approx(mean, abs=1e-4) and min(deviation) >= 0.02


def test_an_adapter_on_a_folder_is_merged_into_plain_weights(folder, data, tmp_path):
    changes = {"model": str(folder), "size": 32, "adapter": Adapter(rank=2), "evaluate_every": 0, "steps": 2}
    made = train_reason_sft(recipe(data, tmp_path / "run", **changes))
    before, after = weights(folder), weights(made)
    assert before.keys() == after.keys()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and not any("norm" in k or "embed" in k for k in moved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keep": (9,)}, "keep"),
        ({"keep": (1,), "adapter": Adapter(rank=2)}, "adapter"),
        ({"answer_weight": 0.0}, "answer_weight"),
    ],
)
def test_settings_that_cannot_be(data, tmp_path, change, says):
    with pytest.raises(InvalidInputError, match=says):
        recipe(data, tmp_path, **change)
    with pytest.raises(UnknownNameError, match="freeze"):
        recipe(data, tmp_path, tower="frieze")


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(data, tmp_path):
    with pytest.raises(TrainingError, match="reason-sft is nan at step"):
        train_reason_sft(recipe(data, tmp_path / "run", lr=1e30, warmup=0, steps=6, clip=1e30, evaluate_every=0))
    assert list((tmp_path / "run/checkpoints").glob(f"*/{SPENT}"))


def test_the_fast_share_is_learned_without_thoughts(data):
    item = open_task_items(str(data), ASKED, size=32, seed=0).training(2)[0]
    assert target_reply(item, fast=False) == item.completion
    assert target_reply(item, fast=True) == f"<think></think><answer>{item.answer}</answer>"


def test_the_answer_weighs_more_and_nothing_else_counts(folder):
    vlm = VLM.from_pretrained(folder)
    asked = items(3)
    batch = vlm.encode(asked, [i.completion for i in asked])
    weights = answer_weights(vlm, batch["labels"], [i.answer for i in asked], 5.0)
    for row, item in enumerate(asked):
        heavy = batch["input_ids"][row][weights[row] == 5.0]
        assert vlm.tokenizer.decode(heavy) == f"{item.answer}</answer><|im_end|>"
        assert torch.equal(weights[row] > 0, batch["labels"][row] != -100)
    logits = torch.randn(*batch["labels"].shape, 400)
    even = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(weighted_loss(logits, batch["labels"], (weights > 0).float()), even)


def test_held_out_videos_are_never_learned_from(data):
    made = open_task_items(str(data), ASKED, size=32, seed=5)
    learned = {i.provenance.episode for i in made.training(60)}
    examined = {i.provenance.episode for i in made.held_out(30)}
    assert learned and examined and not learned & examined
    other = open_task_items(str(data), ASKED, size=32, seed=6)
    assert [i.prompt for i in other.held_out(4)] == [i.prompt for i in made.held_out(4)]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(other.held_out(4), made.held_out(4), strict=True))


def test_an_exam_leaves_the_model_and_the_generator_as_they_were(folder, data):
    vlm = VLM.from_pretrained(folder)
    vlm.model.train()
    before = torch.get_rng_state()
    figures = evaluate_items(
        vlm, open_task_items(str(data), ASKED, size=32, seed=0).held_out(4), max_new_tokens=4
    ).figures()
    assert vlm.model.training and torch.equal(torch.get_rng_state(), before)
    assert figures["items/arrow"] == 4
    with pytest.raises(InvalidInputError, match="needs items"):
        evaluate_items(vlm, [])


def test_bad_settings_and_folders(data, tmp_path):
    with pytest.raises(UnknownNameError, match="episode"):
        ItemsConfig(by="epsode")  # type: ignore[arg-type]
    for wrong in (
        lambda: ItemsConfig(tasks=()),
        lambda: ItemsConfig(options={"order": {}}),
        lambda: recipe(data, tmp_path, fast=1.5),
        lambda: recipe(data, tmp_path, steps=0),
    ):
        with pytest.raises(InvalidInputError):
            wrong()
    with pytest.raises(StorageError, match="no video file"):
        train_reason_sft(recipe(tmp_path / "nothing", tmp_path / "run"))
    with pytest.raises(StorageError, match="nothing is downloaded"):
        train_reason_sft(recipe(data, tmp_path / "run", model=str(tmp_path / "nowhere")))
    with pytest.raises(UnknownNameError, match="arrow"):
        train_reason_sft(recipe(data, tmp_path / "run", items=ItemsConfig(tasks=("arow",), videos=4)))


def test_a_folder_of_files_without_states_needs_no_warm_up(data, tmp_path):
    from worldsim.data.lerobot.read import open_dataset
    from worldsim.video import write_mp4

    dataset = open_dataset(data)
    for index in range(12):
        write_mp4(tmp_path / f"films/{index:02d}.mp4", dataset.episode(index).frames[IMAGE], rate_hz=10)
    (tmp_path / "films/99.mp4").write_bytes(b"no film")
    asked = ItemsConfig(tasks=("arrow",), options={"arrow": {"frames": 4}}, final_eval=2, quick_eval=2, bad_share=0.3)
    changes = {"items": asked, "steps": 1, "evaluate_every": 0}
    with pytest.raises(InvalidInputError, match="warm.steps=0"):
        train_reason_sft(recipe(tmp_path / "films", tmp_path / "a", **changes))
    made = train_reason_sft(recipe(tmp_path / "films", tmp_path / "b", warm=Schedule(steps=0), **changes))
    assert storage.read_manifest(Path(made), kind="vlm")["skipped_videos"] == 1


def test_the_recipes_are_read_from_the_command_line():
    from worldsim.cli.train import RECIPES as NAMES
    from worldsim.train.config import RECIPES, resolve, to_yaml

    assert set(NAMES) == set(RECIPES)
    overrides = [
        "data=d",
        "out=o",
        "items.tasks=[arrow]",
        "items.options.arrow.stride=3",
        "adapter.rank=4",
        "tiny.size=64",
    ]
    config = resolve("reason-sft", overrides)
    assert config.items.tasks == ("arrow",) and config.items.options == {"arrow": {"stride": 3}}
    assert config.adapter.rank == 4 and config.tiny.size == 64 and "answer_weight" in to_yaml(config)
    assert resolve("reason-grpo", ["data=d", "out=o", "model=m", "rewards=[random]", "reward_weights=[1]"]).model == "m"
    with pytest.raises(UnknownNameError, match="curriculum"):
        resolve("reason-grpo", ["data=d", "out=o", "curriculm=none"])


def test_several_datasets_are_one_source(data, tmp_path):
    other = toy.write(tmp_path / "other", episodes=6)
    config = resolve("reason-sft", [f"data=[{data},{other}]", f"out={tmp_path / 'x'}"])
    assert list(config.data) == [str(data), str(other)]
    assert len(open_videos(config.data)) == len(open_videos(f"{data}, {other}")) == 36 + 6
    asked = dataclasses.replace(ASKED, by="seed", share=0.5, videos=0, held_out=100)
    made = open_task_items(config.data, asked, size=32, seed=0)
    sides = [{c.provenance.seed for c in side.summaries} for side in (made.train, made.held)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(made.train) + len(made.held) == 36 + 6
    for nothing in ([], f"{data},"):
        with pytest.raises(InvalidInputError, match="name one folder or several"):
            open_videos(nothing)
