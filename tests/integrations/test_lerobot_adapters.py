"""LoRA checkpoints, as LeRobot's trainer writes them: put onto their base where it is at hand, refused by name where not."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
pytest.importorskip("diffusers", reason="the lerobot extra is not installed")
pytest.importorskip("peft", reason="the lerobot extra is not installed")

sys.path.append(str(Path(__file__).parent))
from hub_cache import edit
from test_lerobot_policies import CAMERA, build, seen

from worldsim.core import IMAGE, STATE
from worldsim.errors import StorageError
from worldsim.evaluate.policies import load_policy, policy_refs
from worldsim.evaluate.triage import prepare
from worldsim.integrations.lerobot.policies import load

pytestmark = pytest.mark.integration
LORA = {"method_type": "lora", "target_modules": r".*encoder.*linear[12]", "r": 2, "lora_alpha": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, an adapter on it, and what LeRobot's own adapted policy does."""
    root = tmp_path_factory.mktemp("adapters")
    network, processors = build(root / "base", "act")
    network.config.pretrained_path = root / "base"
    with warnings.catch_warnings(action="ignore"):
        adapted = network.wrap_with_peft(peft_cli_overrides=LORA)
        torch.manual_seed(5)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.5 * torch.randn_like(weight))
        folder = root / "run" / "checkpoints" / "000200" / "pretrained_model"
        adapted.save_pretrained(folder)
        adapted.config._save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder, adapted.eval(), processors


def test_an_adapter_acts_as_lerobots_own_adapted_policy(made):
    folder, adapted, (before, after) = made
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    policy, raw = load_policy(str(folder)), seen(2, 0)
    batch = {CAMERA: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE]}
    action, _ = policy.act(raw, policy.initial(2), torch.arange(2))
    adapted.base_model.model.reset()
    torch.testing.assert_close(action, after(adapted.base_model.model.select_action(before(batch))))
    base = load(folder.parents[3] / "base")
    assert not torch.allclose(action, base.act(raw, base.initial(2), torch.arange(2))[0], atol=1e-3)


def test_adapters_and_bases_are_ranked_together_and_what_lacks_its_base_is_named(made, tmp_path):
    root = made[0].parents[3]
    names = [ref.name for ref in policy_refs([str(root)])]
    assert sorted(names) == ["000200", "base"]
    lost = shutil.copytree(root, tmp_path / "copy")
    edit(
        lost / made[0].relative_to(root) / "adapter_config.json",
        lambda c: c.update(base_model_name_or_path="someone/far"),
    )
    remarks = prepare([str(lost)], world="push", truth=0).remarks
    assert any(
        "000200/pretrained_model was left out: a LoRA adapter whose base" in r and "someone/far" in r for r in remarks
    )


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"peft_type": "IA3"}, "'IA3' adapter"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config"),
        ({"target_modules": "nothing_like_it"}, "does not fit its base"),
        ({"r": 3}, "does not fit its base"),
    ],
)
def test_adapters_that_are_not_known_are_refused(made, tmp_path, changed, match):
    folder = shutil.copytree(made[0], tmp_path / "p")
    edit(folder / "adapter_config.json", lambda c: c.update(changed))
    with pytest.raises(StorageError, match=match):
        load(folder)


def test_weights_of_an_adapter_are_all_used(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "p")
    weights = load_file(folder / "adapter_model.safetensors")
    for change in (
        lambda w: dict(list(w.items())[1:]),
        lambda w: w | {"base_model.model.x.lora_A.weight": torch.zeros(2, 2)},
    ):
        save_file(change(weights), folder / "adapter_model.safetensors")
        with pytest.raises(StorageError, match="does not fit its base"):
            load(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
