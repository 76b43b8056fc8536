"""Policies that read instructions, and checkpoints that name pretrained models: offline, from the hub's cache, without their code."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
pytest.importorskip("diffusers", reason="the lerobot extra is not installed")
pytest.importorskip("transformers", reason="the reason extra is not installed")

sys.path.append(str(Path(__file__).parent))
from hub_cache import cached_model, edit, shrink_pi, tiny_clip, tiny_smolvlm, tiny_tokenizer

from worldsim.core import IMAGE, STATE, TASK, text_rows
from worldsim.errors import MissingExtraError, PolicyError, StorageError
from worldsim.integrations.lerobot.checkpoint import lerobot
from worldsim.integrations.lerobot.policies import load

pytestmark = pytest.mark.integration
NAME = "someone/tiny-clip"


def feature(kind, *shape):
    types = lerobot("configs.types")
    return types.PolicyFeature(type=types.FeatureType[kind], shape=shape)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A multi-task diffusion transformer, as training leaves it, and the cache with its CLIP."""
    root = tmp_path_factory.mktemp("language")
    clip = cached_model(root / "cache", NAME, tiny_clip)
    with warnings.catch_warnings(action="ignore"):
        factory = lerobot("policies.factory")
        config = factory.make_policy_config(
            "multi_task_dit",
            input_features={IMAGE: feature("VISUAL", 3, 32, 32), STATE: feature("STATE", 2)},
            output_features={"action": feature("ACTION", 2)},
            device="cpu",
            push_to_hub=False,
            horizon=4,
            n_action_steps=2,
            n_obs_steps=2,
            hidden_dim=16,
            num_layers=1,
            num_heads=2,
            timestep_embed_dim=8,
            num_train_timesteps=3,
            clip_sample=False,
            image_crop_shape=None,
            vision_encoder_name=str(clip),
            text_encoder_name=str(clip),
            tokenizer_max_length=8,
        )
        torch.manual_seed(0)
        policy = factory.get_policy_class("multi_task_dit")(config)
        with torch.no_grad():
            for weight in policy.noise_predictor.parameters():
                weight += 0.3 * torch.randn_like(weight)  # the text is multiplied by zeros at first
        low, high = torch.tensor([-0.4, -0.4]), torch.tensor([0.4, 0.4])
        stats = {key: {"min": low, "max": high} for key in (STATE, "action")}
        stats[IMAGE] = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.2)}
        processors = factory.make_pre_post_processors(config, dataset_stats=stats)
        folder = root / "pretrained_model"
        for part in (policy, *processors):
            part.save_pretrained(folder)
    edit(folder / "config.json", lambda c: c.update(vision_encoder_name=NAME, text_encoder_name=NAME))
    edit(folder / "policy_preprocessor.json", _rename_tokenizer)
    return folder, root / "cache", policy.eval(), processors


def _rename_tokenizer(content, name=NAME):
    for step in content["steps"]:
        if step["registry_name"] == "tokenizer_processor":
            step["config"]["tokenizer_name"] = name


@pytest.fixture
def checkpoint(made, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(made[1]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the socket block answers every request
    return made[0]


def observation(tasks, step=0):
    g = torch.Generator().manual_seed(step)
    n = len(tasks)
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=g)
    return {
        IMAGE: pixels.expand(n, -1, -1, -1),
        STATE: torch.rand(1, 2, generator=g).expand(n, -1) - 0.5,
        TASK: text_rows(tasks),
    }


def test_each_episode_is_given_its_own_task(checkpoint):
    policy = load(checkpoint)
    assert policy.needs == {IMAGE, STATE, TASK}
    same = torch.full((3,), 7)
    action, _ = policy.act(observation(["push the block", "pull the block", "push the block"]), policy.initial(3), same)
    assert not torch.allclose(action[0], action[1], atol=1e-4)
    torch.testing.assert_close(action[0], action[2])
    given, _ = load(checkpoint, task="pull the block").act(
        {key: value for key, value in observation(["push"] * 3).items() if key != TASK}, policy.initial(3), same
    )
    torch.testing.assert_close(given[0], action[1])  # the caller's word counts for all episodes
    with pytest.raises(PolicyError, match="needs 'task'"):
        policy.act({key: observation(["push"])[key] for key in (IMAGE, STATE)}, policy.initial(1), same[:1])


def test_what_it_does_equals_lerobots_own(made, checkpoint):
    network, (before, after) = made[2:]
    policy, keys, task = load(checkpoint), torch.tensor([3]), "push the block left"
    from worldsim.integrations.lerobot.policies import KeyedRandomness, fold

    network.reset()
    carry = policy.initial(1)
    for t in range(5):
        raw = observation([task], t)
        batch = {IMAGE: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE], "task": [task]}
        with warnings.catch_warnings(action="ignore"), KeyedRandomness(fold(keys, t)):
            expected = after(network.select_action(before(batch)))
        action, carry = policy.act(raw, carry, keys)
        torch.testing.assert_close(action, expected)


def test_a_pretrained_model_that_is_not_at_hand_is_named_and_not_fetched(made, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StorageError, match=r"'someone/tiny-clip', which the hub's cache lacks.*hf download"):
        load(checkpoint)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_pretrained_model_with_code_is_refused(made, checkpoint, tmp_path, monkeypatch, file):
    shutil.copytree(made[1], tmp_path / "cache")
    snapshot = next((tmp_path / "cache").rglob("model.safetensors")).parent
    (snapshot / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    content = json.loads((snapshot / file).read_text()) if (snapshot / file).exists() else {}
    (snapshot / file).write_text(
        json.dumps({**content, "auto_map": {"AutoConfig": "custom.C", "AutoTokenizer": "custom.C"}})
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StorageError, match="brings code of its own"):
        load(checkpoint)
    assert not (tmp_path / "ran").exists()


def test_a_pretrained_model_of_pickles_is_refused(made, checkpoint, tmp_path, monkeypatch):
    shutil.copytree(made[1], tmp_path / "cache")
    weights = next((tmp_path / "cache").rglob("model.safetensors"))
    weights.rename(weights.with_name("pytorch_model.bin"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StorageError, match="no safetensors"):
        load(checkpoint)


def vla(folder, kind, tensors):
    """A local folder of a VLA, with these weights."""
    folder.mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"):
        config = lerobot("policies.factory").make_policy_config(
            kind,
            input_features={IMAGE: feature("VISUAL", 3, 64, 64), STATE: feature("STATE", 2)},
            output_features={"action": feature("ACTION", 2)},
            device="cpu",
            push_to_hub=False,
        )
    config._save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    step = {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "someone/tokens", "max_length": 8}}
    for name, steps in (("policy_preprocessor", [step]), ("policy_postprocessor", [])):
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))
    return folder


def test_a_pi0_folder_is_measured_before_three_billion_weights_are_made(checkpoint, tmp_path, monkeypatch):
    folder = vla(tmp_path / "pi0", "pi0", {"x": torch.zeros(1)})
    with pytest.raises(StorageError, match=r"missing \['model.*unexpected \['x'\].*\(1 stored, \d+ expected\)"):
        load(folder)


def test_a_smolvla_folder_without_its_backbone_says_what_to_fetch(checkpoint, tmp_path):
    folder = vla(tmp_path / "smolvla", "smolvla", {"x": torch.zeros(1)})
    with pytest.raises(StorageError, match=r"SmolVLM2-500M-Video-Instruct', which the hub's cache lacks"):
        load(folder)


def test_a_smolvla_folder_is_measured_before_it_is_built(checkpoint, tmp_path, monkeypatch):
    from transformers import SmolVLMConfig

    folder = vla(tmp_path / "smolvla", "smolvla", {"x": torch.zeros(1)})
    cached_model(tmp_path / "cache", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", SmolVLMConfig().save_pretrained)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises((StorageError, MissingExtraError), match=r"do not fit|could not be built|num2words"):
        load(folder)


def test_a_smolvla_runs_offline_and_reads_tasks(tmp_path, monkeypatch):
    pytest.importorskip("num2words", reason="the lerobot extra is not installed")
    name = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with warnings.catch_warnings(action="ignore"):
        snapshot = cached_model(tmp_path / "cache", name, tiny_smolvlm)
        factory = lerobot("policies.factory")
        config = factory.make_policy_config(
            "smolvla",
            input_features={IMAGE: feature("VISUAL", 3, 32, 32), STATE: feature("STATE", 2)},
            output_features={"action": feature("ACTION", 2)},
            device="cpu",
            push_to_hub=False,
            vlm_model_name=str(snapshot),
            num_vlm_layers=2,
            chunk_size=4,
            n_action_steps=2,
            num_steps=2,
            resize_imgs_with_padding=(64, 64),
            empty_cameras=1,
            expert_width_multiplier=1.0,
        )
        vector = {"mean": torch.tensor([0.1, -0.1]), "std": torch.tensor([0.5, 0.2])}
        parts = [factory.get_policy_class("smolvla")(config)]
        parts += factory.make_pre_post_processors(config, dataset_stats={STATE: vector, "action": vector})
        for part in parts:
            part.save_pretrained(tmp_path / "p")
    edit(tmp_path / "p" / "config.json", lambda c: c.update(vlm_model_name=name))
    edit(tmp_path / "p" / "policy_preprocessor.json", lambda c: _rename_tokenizer(c, name))
    policy = load(tmp_path / "p")
    assert policy.needs == {IMAGE, STATE, TASK}
    same = torch.full((3,), 7)
    action, _ = policy.act(observation(["push the block", "pull the block", "push the block"]), policy.initial(3), same)
    assert not torch.allclose(action[0], action[1], atol=1e-5)
    torch.testing.assert_close(action[0], action[2])


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_pi0_runs_offline_reads_tasks_and_moves_relative_to_where_a_chunk_begins(kind, tmp_path, monkeypatch):
    name = "google/paligemma-3b-pt-224"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = cached_model(tmp_path / "cache", name, tiny_tokenizer)
    module, factory = lerobot(f"policies.{kind}.modeling_{kind}"), lerobot("policies.factory")
    shrink_pi(module, monkeypatch)
    tokenizer, processors = lerobot("processor").TokenizerProcessorStep, lerobot(f"policies.{kind}.processor_{kind}")
    monkeypatch.setattr(processors, "TokenizerProcessorStep", lambda tokenizer_name, **k: tokenizer(str(snapshot), **k))
    config = factory.make_policy_config(
        kind,
        input_features={IMAGE: feature("VISUAL", 3, 32, 32), STATE: feature("STATE", 2)},
        output_features={"action": feature("ACTION", 2)},
        device="cpu",
        push_to_hub=False,
        chunk_size=4,
        n_action_steps=2,
        num_inference_steps=2,
        image_resolution=(56, 56),
        tokenizer_max_length=8,
        max_state_dim=4,
        max_action_dim=4,
        use_relative_actions=True,
    )
    vector = {"mean": torch.tensor([0.1, -0.1]), "std": torch.tensor([0.5, 0.2])}
    vector |= {"q01": torch.tensor([-0.4, -0.4]), "q99": torch.tensor([0.4, 0.4])}
    with warnings.catch_warnings(action="ignore"):
        parts = [factory.get_policy_class(kind)(config)]
        parts += factory.make_pre_post_processors(config, dataset_stats={STATE: vector, "action": vector})
        for part in parts:
            part.save_pretrained(tmp_path / "p")
    edit(tmp_path / "p" / "policy_preprocessor.json", lambda c: _rename_tokenizer(c, name))
    policy, same = load(tmp_path / "p"), torch.full((3,), 7)
    assert policy.needs == {IMAGE, STATE, TASK}
    seen = observation(["push the block", "pull the block", "push the block"])
    action, carry = policy.act(seen, policy.initial(3), same)
    assert not torch.allclose(action[0], action[1], atol=1e-5)
    torch.testing.assert_close(action[0], action[2])
    following, _ = policy.act(observation(["push the block"] * 3, step=1), carry, same)
    for file in ("policy_preprocessor.json", "policy_postprocessor.json"):
        edit(tmp_path / "p" / file, _make_absolute)
    plain = load(tmp_path / "p")
    offset, carry = plain.act(seen, plain.initial(3), same)
    torch.testing.assert_close(action, offset + seen[STATE])
    torch.testing.assert_close(following, plain.act(seen, carry, same)[0] + seen[STATE])


def _make_absolute(content):
    for step in content["steps"]:
        if step["registry_name"] in ("relative_actions_processor", "absolute_actions_processor"):
            step["config"]["enabled"] = False
