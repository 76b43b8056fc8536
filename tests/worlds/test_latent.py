import json
from pathlib import Path

import pytest
import torch

from tests.worlds import toy
from worldsim import storage
from worldsim.core import IMAGE, STATE
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.testing import check_world
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld


@pytest.fixture(scope="module")
def world() -> LatentWorld:
    return toy.world()


@pytest.fixture
def folder(world: LatentWorld, tmp_path: Path) -> Path:
    world.save_pretrained(tmp_path / "world", manifest={"command": "test"})
    return tmp_path / "world"


def test_keeps_the_contract(world: LatentWorld) -> None:
    check_world(world)


def test_an_episode_is_the_same_alone_and_in_a_batch(world: LatentWorld) -> None:
    starts, keys = world.starts(torch.arange(5)), torch.arange(5)
    actions = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(0)) * 6 - 3
    _, together = world.rollout(world.reset(starts, keys), actions)
    for i in range(5):
        one = {k: v[i : i + 1] for k, v in starts.items()}
        _, alone = world.rollout(world.reset(one, keys[i : i + 1]), actions[i : i + 1])
        assert torch.allclose(alone.latent, together.latent[i : i + 1], atol=1e-5)
        difference = world.decode(alone.latent).int() - world.decode(together.latent[i : i + 1]).int()
        assert int(difference.abs().max()) <= 1


def test_states_branch_and_nothing_is_mutated(world: LatentWorld) -> None:
    state = world.reset(world.starts(torch.arange(2)), torch.arange(2))
    before = state.z.clone()
    branched = state.repeat(3)
    _, step = world.step(branched, torch.ones(6, 2))
    assert torch.equal(state.z, before)
    assert torch.allclose(step.latent[0], step.latent[2])


def test_saving_and_loading_changes_nothing(world: LatentWorld, folder: Path) -> None:
    again = load_world(folder)
    starts = world.starts(torch.arange(3))
    first = [w.step(w.reset(starts, torch.arange(3)), torch.ones(3, 2))[1].latent for w in (world, again)]
    assert torch.equal(*first)
    assert again.num_starts == world.num_starts


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "starts.npz"])
def test_a_corrupt_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(StorageError, match=name):
        load_world(folder)


def test_a_missing_weight_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="model.safetensors"):
        load_world(folder)


def test_weights_of_another_configuration_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["predictor_config"]["width"] = 17
    storage.write_json(folder / "config.json", config)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = storage.digest_file(folder / "config.json")
    storage.write_json(folder / "manifest.json", manifest)
    with pytest.raises(StorageError, match="another configuration"):
        load_world(folder)


def test_a_wrong_name_gets_the_close_match() -> None:
    with pytest.raises(UnknownNameError, match="Unknown world"):
        load_world("no/such/world")


def test_bad_starts_and_actions_are_refused(world: LatentWorld) -> None:
    starts = dict(world.starts(torch.arange(2)))
    with pytest.raises(InvalidInputError, match="lack"):
        world.reset({IMAGE: starts[IMAGE]}, torch.arange(2))
    with pytest.raises(InvalidInputError, match="Resize"):
        world.reset({IMAGE: starts[IMAGE][:, ::2], STATE: starts[STATE]}, torch.arange(2))
    state = world.reset(starts, torch.arange(2))
    with pytest.raises(InvalidInputError, match="expected"):
        world.step(state, torch.zeros(2, 3))
    with pytest.raises(InvalidInputError, match="NaN"):
        world.step(state, torch.full((2, 2), float("nan")))
    with pytest.raises(InvalidInputError, match="actions"):
        world.step(state, torch.zeros(1, 2))


def test_a_world_computes_in_the_type_it_is_loaded_with(tmp_path: Path) -> None:
    world = toy.world()
    world.save_pretrained(tmp_path / "world")
    double = load_world(tmp_path / "world", dtype=torch.float64)
    starts, keys, action = world.starts(torch.arange(3)), torch.arange(3), torch.ones(3, 2)
    one, two = (w.step(w.reset(starts, keys), action)[1] for w in (world, double))
    assert two.latent.dtype == torch.float64 and world.spec.device == "cpu"
    assert torch.allclose(one.latent.double(), two.latent, atol=1e-4)
    assert double.decode(two.latent).dtype == torch.uint8


def test_weights_that_are_not_finite_are_named_at_load(tmp_path: Path) -> None:
    world = toy.world()
    with torch.no_grad():
        next(iter(world.heads.parameters())).view(-1)[0] = float("nan")
    world.save_pretrained(tmp_path / "world")
    with pytest.raises(StorageError, match=r"world.*NaN or infinity \(heads"):
        load_world(tmp_path / "world")
