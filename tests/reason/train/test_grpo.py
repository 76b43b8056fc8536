import dataclasses
import json

import pytest
import torch

from tests.reason.train.test_sft import ASKED, Killed, begun, killer, weights
from tests.train import toy
from worldsim import storage
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.reason.train.arguments import Adapter
from worldsim.reason.train.grpo import TrainReasonGrpo, _trainer, easy_first, train_reason_grpo
from worldsim.reason.train.items import open_task_items
from worldsim.reason.train.rewards import random_reward, text_of
from worldsim.reason.train.run import TrainingRun
from worldsim.reason.vlm.model import VLM


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=36)


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    return begun(data, tmp_path_factory.mktemp("sft") / "run")


def task(data, start, out, **changes):
    base = TrainReasonGrpo(
        data=str(data),
        out=str(out),
        model=str(start),
        items=ASKED,
        steps=4,
        batch=8,
        group=4,
        lr=1e-3,
        max_new_tokens=5,
        evaluate_every=2,
        save_every=2,
    )
    return dataclasses.replace(base, **changes)


def variety(completions, **columns):
    """Untrained models never answer; this tells their replies apart."""
    return [float(len(set(text_of(c))) % 5) for c in completions]


OWN = {"variety": variety}


@pytest.fixture(scope="module")
def folder(data, start, tmp_path_factory):
    return train_reason_grpo(task(data, start, tmp_path_factory.mktemp("grpo") / "run"), rewards=OWN)


def test_rewards_move_all_weights_the_visual_ones_too(folder, start):
    before, after = weights(start), weights(folder)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert not still
    manifest = storage.read_manifest(folder, kind="vlm")
    assert manifest["start_figures"].keys() == manifest["figures"].keys()
    assert manifest["core_seconds"].keys() == {"reason-sft", "reason-grpo"}


def test_a_frozen_tower_stands_still_and_the_rest_learns(data, start, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("worldsim.reason.train.rewards.KNOWN", 0.0)
    made = train_reason_grpo(task(data, start, tmp_path / "run", tower="freeze", steps=2), rewards=OWN)
    before, after = weights(start), weights(made)
    assert all(torch.equal(before[k], after[k]) == ("visual" in k) for k in before)
    assert "of arrow right: rewards have little left to teach" in caplog.text
    with pytest.raises(UnknownNameError, match="way to treat the tower"):
        task(data, start, tmp_path, tower="auto")


def test_the_metrics_tell_tasks_and_kinds_apart(folder):
    lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    logged = {k for line in lines for k in line}
    assert {"reward/arrow", "reward/outcome/success", "rewards/variety/mean", "rewards/accuracy/mean"} <= logged
    assert {"accuracy/arrow", "blind/outcome", "final/fast/arrow"} <= logged


def test_a_killed_run_ends_with_the_same_weights(folder, data, start, tmp_path):
    with pytest.raises(Killed):
        train_reason_grpo(task(data, start, tmp_path / "run"), progress=killer(4), rewards=OWN)
    again = train_reason_grpo(task(data, start, tmp_path / "run"), rewards=OWN)
    first, second = weights(folder), weights(again)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # trl and peft ask for it
def test_replies_are_as_likely_in_training_as_when_they_were_drawn(data, start, tmp_path):
    vlm = VLM.from_pretrained(start)
    parts = open_task_items(str(data), ASKED, size=32, seed=0)
    run = TrainingRun(folder=tmp_path, stage="reason-grpo", items=[], max_new_tokens=5)
    trainer = _trainer(task(data, start, tmp_path / "run"), vlm, parts, run, OWN)
    drawn, plain = [], vlm.model.generate

    def generate(**call):
        found = plain(**call, return_dict_in_generate=True, output_logits=True)
        drawn.append(torch.stack(found.logits, dim=1).log_softmax(-1))
        return found.sequences

    trainer.model.generate = generate
    rows = [r for k in range(2) for r in [trainer.train_dataset[k]] * 4]
    assert len({r["prompt"][0]["content"][-1]["text"] for r in rows}) > 1, (
        "prompts of several lengths, padded on the left"
    )
    batch = trainer._prepare_inputs(rows)
    scored, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
        **{k: batch[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )
    said = drawn[0]
    for row in range(8):  # the trainer shuffles what it has drawn
        ids, mask = batch["completion_ids"][row], batch["completion_mask"][row].bool()
        near = [
            (said[k, : len(ids)].gather(1, ids[:, None])[:, 0] - scored[row])[mask].abs().max().item() for k in range(8)
        ]
        assert min(near) < 1e-4


def test_easy_items_come_first_within_their_task():
    from tests.reason.toy import items

    found = items(40)
    order = easy_first(found)
    assert sorted(order) == list(range(40))
    assert [found[i].task for i in order] == [i.task for i in found]
    for name in ("side", "half"):
        hard = [found[i].difficulty for i in order if found[i].task == name]
        assert hard == sorted(hard)


def test_the_random_control_pays_by_step_and_place_only():
    class State:
        global_step = 3

    reward = random_reward(0)
    assert reward(["a"] * 64, trainer_state=State) == reward(["b"] * 64, trainer_state=State)
    assert 16 < sum(reward(["a"] * 64, trainer_state=State)) < 48
    assert reward(["a"] * 64, trainer_state=State) != reward(["a"] * 64)


def test_a_reward_that_fails_is_named_with_its_item(data, start, tmp_path):
    def broken(completions, *, answer, **columns):
        return [float("nan") for _ in completions]

    with pytest.raises(InvalidInputError, match="Reward broken returned nan for item 0, task"):
        train_reason_grpo(task(data, start, tmp_path / "run", steps=1, evaluate_every=0), rewards={"broken": broken})


def test_an_adapter_and_a_reference_model(data, start, tmp_path):
    changes = {"adapter": Adapter(rank=2), "kl": 0.05, "steps": 1, "evaluate_every": 0, "curriculum": "difficulty"}
    made = train_reason_grpo(task(data, start, tmp_path / "run", **changes), rewards=OWN)
    assert weights(start).keys() == weights(made).keys()


def test_bad_settings(data, start, tmp_path):
    for wrong in ({"batch": 10}, {"group": 1}, {"temperature": 0.0}, {"reward_weights": (1.0,)}):
        with pytest.raises(InvalidInputError):
            task(data, start, tmp_path, **wrong)
    for unknown in ({"rewards": ("acuracy",), "reward_weights": (1.0,)}, {"curriculum": "difficlty"}):
        with pytest.raises(UnknownNameError, match="Did you mean"):
            task(data, start, tmp_path, **unknown)
    with pytest.raises(InvalidInputError, match="model to begin with"):
        train_reason_grpo(task(data, "", tmp_path / "run"))
