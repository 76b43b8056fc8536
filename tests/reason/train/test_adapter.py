"""LoRA: the weights stand still while small matrices learn, and the folder that is left needs no peft."""

from types import SimpleNamespace

import pytest
import torch

from tests.reason.toy import items as toy_items
from tests.reason.train.test_grpo import OWN, task
from tests.reason.train.test_sft import Killed, begun, killer, recipe, weights
from tests.train import toy
from worldsim.errors import InvalidInputError
from worldsim.reason.train import run as reason_run
from worldsim.reason.train.arguments import Adapter, freeze_tower
from worldsim.reason.train.grpo import train_reason_grpo
from worldsim.reason.train.sft import train_reason_sft
from worldsim.reason.vlm.model import VLM

LORA = {"adapter": Adapter(rank=2, alpha=16.0), "steps": 3, "warmup": 0, "evaluate_every": 2, "save_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=24)


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    return begun(data, tmp_path_factory.mktemp("sft") / "run")


def sft(data, start, out, **options):
    return train_reason_sft(recipe(data, out, model=str(start), size=32, **LORA), **options)


def grpo(data, start, out, **options):
    return train_reason_grpo(task(data, start, out, kl=0.05, **LORA), rewards=OWN, **options)


def grpo_video(data, start, out, **options):
    return train_reason_grpo(task(data, start, out, shown="video", **LORA), rewards=OWN, **options)


@pytest.mark.parametrize("train", [sft, grpo, grpo_video])
def test_weights_stand_still_while_an_adapter_learns_and_take_it_in_at_the_end(
    data, start, tmp_path, train, monkeypatch
):
    batch = VLM.from_pretrained(start).encode(toy_items(3))
    seen = {}
    plain = reason_run.merge_adapters

    def spy(model):
        with torch.no_grad():
            seen["logits"] = model.eval()(**batch).logits
        seen["moving"] = {k for k, p in model.named_parameters() if p.requires_grad}
        seen["learned"] = [k for k, p in model.named_parameters() if "lora_B" in k and p.abs().max() > 0]
        base = model.get_base_model().state_dict()
        seen["still"] = {k.replace(".base_layer", ""): v.clone() for k, v in base.items() if "lora_" not in k}
        return plain(model)

    monkeypatch.setattr(reason_run, "merge_adapters", spy)
    made = train(data, start, tmp_path / "run")
    before, after = weights(start), weights(made)
    assert seen["still"].keys() == before.keys() == after.keys()
    assert all(torch.equal(seen["still"][k], before[k]) for k in before)
    assert seen["moving"] and all("lora_" in k for k in seen["moving"])
    assert any("visual" in k for k in seen["learned"]) and any("language_model" in k for k in seen["learned"])
    with torch.no_grad():
        again = VLM.from_pretrained(made).model(**batch).logits
        unlike = VLM.from_pretrained(start).model(**batch).logits
    torch.testing.assert_close(again, seen["logits"], rtol=0, atol=1e-5)
    assert (unlike - again).abs().max() > 1e-3


@pytest.mark.parametrize("train", ["sft", "grpo"])
def test_an_adapter_leaves_a_frozen_tower_alone(data, start, tmp_path, train):
    if train == "sft":
        made = train_reason_sft(recipe(data, tmp_path / "run", model=str(start), size=32, tower="freeze", **LORA))
    else:
        made = train_reason_grpo(task(data, start, tmp_path / "run", tower="freeze", **LORA), rewards=OWN)
    before, after = weights(start), weights(made)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert any("language_model" in k for k in moved) and not [k for k in moved if "visual" in k]


def test_an_adapters_run_goes_on_where_it_was_killed(data, start, tmp_path):
    full = grpo_video(data, start, tmp_path / "full")
    torch.manual_seed(99)  # nothing may hang on what the generator did before
    with pytest.raises(Killed):
        grpo_video(data, start, tmp_path / "run", progress=killer(3))
    reported = []
    again = grpo_video(data, start, tmp_path / "run", progress=lambda stage, step, *rest: reported.append(step))
    assert min(reported) == 3, "the steps before the checkpoint are not taken again"
    first, second = weights(full), weights(again)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_tower_of_another_name_cannot_be_frozen():
    nameless = SimpleNamespace(base_model=SimpleNamespace(model=SimpleNamespace()))
    with pytest.raises(InvalidInputError, match="tower=train"), freeze_tower(nameless, wanted=True):
        pass
    with freeze_tower(nameless, wanted=False):
        pass
