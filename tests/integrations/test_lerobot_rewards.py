"""LeRobot's reward classifier: built offline around an encoder of the hub's cache, strictly, and without its code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.integrations.hub_cache import cached_model, edit

pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
pytest.importorskip("diffusers", reason="the lerobot extra is not installed")

from huggingface_hub import constants

from worldsim.errors import InvalidInputError, StorageError
from worldsim.integrations.lerobot.checkpoint import lerobot
from worldsim.integrations.lerobot.rewards import PROCESSOR, read_reward_model

pytestmark = pytest.mark.integration
CAMERA = "observation.images.top"
ENCODER = "tiny/resnet"


def tiny_resnet(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic")
    ).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier as LeRobot saves it, with the statistics that its training took."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cached_model(tmp_path / "hub", ENCODER, tiny_resnet)
    types, made = lerobot("configs.types"), lerobot("rewards.classifier.configuration_classifier")
    config = made.RewardClassifierConfig(
        input_features={CAMERA: types.PolicyFeature(types.FeatureType.VISUAL, (3, 128, 128))},
        output_features={"next.reward": types.PolicyFeature(types.FeatureType.REWARD, (1,))},
        num_cameras=1,
        hidden_dim=16,
        latent_dim=16,
        model_name=str(snapshot),
    )
    network = lerobot("rewards.classifier.modeling_classifier").Classifier(config)
    config.model_name = ENCODER
    path = tmp_path / "pretrained_model"
    path.mkdir()
    network._save_pretrained(path)
    stats = {CAMERA: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}}
    before, _ = lerobot("rewards.factory").make_reward_pre_post_processors(config, dataset_stats=stats)
    before.save_pretrained(path)
    return path


def frames(count: int = 5) -> dict[str, np.ndarray]:
    return {CAMERA: np.random.default_rng(0).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)}


def test_probabilities_are_those_of_lerobot(folder: Path, tmp_path: Path) -> None:
    found = read_reward_model(folder)(frames())
    config = lerobot("configs.rewards").RewardModelConfig.from_pretrained(str(folder))
    config.model_name = str(next((tmp_path / "hub").glob("models--*/snapshots/*")))
    theirs = lerobot("rewards.classifier.modeling_classifier").Classifier.from_pretrained(str(folder), config=config)
    x = (torch.from_numpy(frames()[CAMERA]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = theirs.predict([x]).probabilities.numpy()
    assert np.allclose(found, expected, atol=1e-5) and found.std() > 0


def test_frames_of_another_size_are_scaled_and_absent_cameras_named(folder: Path) -> None:
    model = read_reward_model(folder)
    assert model({CAMERA: frames()[CAMERA][:, ::2, ::2]}).shape == (5,)
    with pytest.raises(InvalidInputError, match=f"looks at {CAMERA}"):
        model({"observation.images.wrist": frames()[CAMERA]})


def change_config(**values: object):
    return lambda folder: edit(folder / "config.json", lambda c: c.update(values))


def drop_weight(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored.pop(sorted(stored)[0])
    save_file(stored, folder / "model.safetensors")


def bring_code(folder: Path) -> None:
    for config in (folder.parent / "hub").rglob("snapshots/*/config.json"):
        edit(config, lambda c: c.update(auto_map={"AutoModel": "modeling_resnet.ResNet10"}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_config(type="sarm"), r"rewards.sarm.compute_rabc_weights.*--rewards FILE"),
        (change_config(type=["x"]), "reward_classifier"),
        (change_config(num_classes=3), "success needs two"),
        (change_config(hidden_dim=10**12), "hidden_dim"),
        (change_config(model_name="none/here"), "hub's cache lacks"),
        (change_config(model_name="../hub"), "no name on the hub"),
        (bring_code, "brings code of its own"),
        (drop_weight, "do not fit"),
        (lambda f: (f / "x.pkl").write_bytes(b""), "pickle"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors missing"),
        (lambda f: (f / PROCESSOR).unlink(), "without their normalisation"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, change, says: str) -> None:
    change(folder)
    with pytest.raises(StorageError, match=says):
        read_reward_model(folder)


def test_the_folder_names_its_type(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["type"] == "reward_classifier"
