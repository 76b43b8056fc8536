"""SFT and GRPO with real video: the model sees what it is trained on, which stock TRL would not let it."""

import dataclasses
import json

import pytest
import torch

from tests.reason.train.test_grpo import OWN, task
from tests.reason.train.test_sft import ASKED, TINY, begun, recipe, weights
from tests.train import toy
from worldsim import storage
from worldsim.errors import InvalidInputError, MissingExtraError, UnknownNameError
from worldsim.reason.train import grpo as reason_grpo
from worldsim.reason.train.grpo import _trainer, train_reason_grpo
from worldsim.reason.train.items import open_task_items
from worldsim.reason.train.run import TrainingRun
from worldsim.reason.vlm.model import VLM

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")
MIXED = dataclasses.replace(ASKED, tasks=("arrow", "order"), options={"arrow": {"frames": 3}})
"""Clips of three frames, which are shown as videos, and shuffled frames, which are not."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=24)


@pytest.fixture(scope="module")
def starts(data, tmp_path_factory):
    """A model of each family after one step of SFT."""
    shown = {"warmup": 0, "items": MIXED, "shown": "video"}
    return {
        f: begun(data, tmp_path_factory.mktemp(f) / "run", tiny=dataclasses.replace(TINY, family=f), **shown)
        for f in FAMILIES
    }


def trainer_of(data, start, out, **changes):
    config = task(data, start, out, items=MIXED, **changes)
    vlm = reason_grpo._begin(config)
    run = TrainingRun(folder=out, stage="reason-grpo", items=[], max_new_tokens=5)
    return vlm, _trainer(config, vlm, open_task_items(str(data), MIXED, size=32, seed=0), run, OWN)


@pytest.mark.parametrize("family", FAMILIES)
def test_sft_with_video_moves_all_weights_the_visual_ones_too(data, starts, family):
    parts = open_task_items(str(data), MIXED, size=32, seed=0)
    before = VLM.tiny(parts.texts(), dataclasses.replace(TINY, family=family)).model.state_dict()
    after = weights(starts[family])
    assert any("visual" in k for k in before) and not [k for k in before if torch.equal(before[k], after[k])]
    assert VLM.from_pretrained(starts[family]).encoder.shown == "video"
    figures = storage.read_manifest(starts[family], kind="vlm")["figures"]
    assert figures["items/arrow"] == figures["items/order"] == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_grpo_with_video_moves_the_visual_weights(data, starts, family, tmp_path):
    clips = dataclasses.replace(MIXED, tasks=("arrow",))  # no picture in it that could move them instead
    changes = {"steps": 1, "evaluate_every": 0, "items": clips, "kl": 0.05, "warmup": 0}
    made = train_reason_grpo(task(data, starts[family], tmp_path / "run", **changes), rewards=OWN)
    before, after = weights(starts[family]), weights(made)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert not still and VLM.from_pretrained(made).encoder.shown == "video"
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    kl = [line["kl"] for line in lines if "kl" in line]
    assert kl and abs(kl[0]) < 1e-6, "the reference sees the video too"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # trl and peft ask for it
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_to_videos_are_as_likely_in_training_as_when_they_were_drawn(data, starts, family, tmp_path):
    vlm, trainer = trainer_of(data, starts[family], tmp_path)
    drawn, plain = [], vlm.model.generate

    def generate(**call):
        assert len(call["video_grid_thw"]) == len(call["image_grid_thw"]) // 3 == 4
        found = plain(**call, return_dict_in_generate=True, output_logits=True)
        drawn.append(torch.stack(found.logits, dim=1).log_softmax(-1))
        return found.sequences

    trainer.model.generate = generate
    kinds = {i["task"]: i for i in (trainer.train_dataset[k] for k in range(8))}
    batch = trainer._prepare_inputs([kinds["arrow"]] * 4 + [kinds["order"]] * 4)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    assert not batch["prompt_mask"].all(), "prompts of several lengths, padded on the left"
    call = (trainer.model, ids, mask, batch["completion_ids"].shape[1])
    scored, entropy, _ = trainer._get_per_token_logps_and_entropies(
        *call, compute_entropy=True, num_images=batch["num_images"]
    )
    parts, _, _ = trainer._get_per_token_logps_and_entropies(*call, batch_size=3, num_images=batch["num_images"])
    torch.testing.assert_close(parts, scored, rtol=0, atol=1e-5)
    assert entropy.shape == scored.shape and {i.task for i in batch["num_images"]} == {"arrow", "order"}
    said = drawn[0]
    for row in range(8):  # the trainer shuffles what it has drawn
        own, seen = batch["completion_ids"][row], batch["completion_mask"][row].bool()
        near = [
            (said[k, : len(own)].gather(1, own[:, None])[:, 0] - scored[row])[seen].abs().max().item() for k in range(8)
        ]
        assert min(near) < 1e-4


def test_a_group_is_made_once_and_given_to_the_rewards(data, starts, tmp_path, monkeypatch):
    made = []
    plain = reason_grpo._columns

    def columns(vlm, asked, rows):
        found = plain(vlm, asked, rows)
        made.append((len(rows), len({id(i) for i in found["item"]})))
        return found

    def far(completions, *, item, **columns):
        return [len(i.frames) + float(len(set(c[0]["content"])) % 3) for i, c in zip(item, completions, strict=True)]

    monkeypatch.setattr(reason_grpo, "_columns", columns)
    changes = {"steps": 1, "evaluate_every": 0, "items": MIXED}
    made_model = train_reason_grpo(task(data, starts["qwen3_vl"], tmp_path / "run", **changes), rewards={"far": far})
    assert made_model.exists() and made == [(8, 2)]


def test_clips_can_be_shown_as_pictures_after_all(data, starts, tmp_path):
    vlm, trainer = trainer_of(data, starts["qwen3_vl"], tmp_path, shown="images")
    assert vlm.encoder.shown == "images" and "images" in trainer.train_dataset[0]


def test_vllm_is_asked_for_before_anything_is_done(data, starts, tmp_path, monkeypatch):
    config = task(data / "nowhere", tmp_path / "no model", tmp_path / "run", vllm=True)
    with pytest.raises(MissingExtraError, match=r'vllm is not installed.*pip install "trl\[vllm\]"'):
        train_reason_grpo(config)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(reason_grpo, "find_spec", lambda name: object())
    with pytest.raises(InvalidInputError, match="vLLM no videos"):
        train_reason_grpo(task(data, starts["qwen3_vl"], tmp_path / "run", vllm=True))


def test_ways_to_show_are_named(data, tmp_path):
    for make in (recipe, lambda data, out, **changes: task(data, "", out, **changes)):
        with pytest.raises(UnknownNameError, match="Did you mean 'video'"):
            make(data, tmp_path, shown="vidio")
