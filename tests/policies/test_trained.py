import json

import pytest
import torch

from worldsim.core import IMAGE, STATE, TRUE_STATE, Camera
from worldsim.errors import InvalidInputError, PolicyError, StorageError, UnknownNameError
from worldsim.policies import load_trained
from worldsim.policies.pixel import PixelPolicy, PixelPolicyConfig, SpatialSoftmax
from worldsim.policies.state import StatePolicy
from worldsim.protocols import Policy


def seen(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        IMAGE: torch.randint(0, 256, (n, 16, 24, 3), dtype=torch.uint8, generator=g),
        STATE: torch.rand(n, 2, generator=g),
        TRUE_STATE: torch.rand(n, 4, generator=g),
    }


@pytest.fixture(params=["pixel", "state"])
def make(request):
    return request.getfixturevalue(f"make_{request.param}")


def test_is_a_policy_with_limited_actions(make, spec):
    policy = make()
    assert isinstance(policy, Policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(50)
    action, _ = policy.act(seen(5), policy.initial(5), torch.arange(5))
    assert action.shape == (5, 2)
    assert action.dtype == torch.float32
    assert (action.abs() <= torch.tensor(spec.high)).all()
    assert not action.requires_grad


def test_an_episode_does_not_see_its_neighbours(make):
    policy, everything = make(chunk=3, executed=2), [seen(7, seed=t) for t in range(5)]
    carry, lone_carry = policy.initial(7), policy.initial(1)
    for observation in everything:
        together, carry = policy.act(observation, carry, torch.arange(7))
        alone, lone_carry = policy.act({k: v[3:4] for k, v in observation.items()}, lone_carry, torch.tensor([3]))
        torch.testing.assert_close(together[3:4], alone, atol=1e-6, rtol=1e-5)


def test_chunks_are_executed_from_the_queue_of_the_episode(make, spec):
    policy = make(chunk=4, executed=3)
    first, others = seen(2), [seen(2, seed=t) for t in (1, 2)]
    carry = policy.initial(2)
    taken = []
    for observation in [first, *others]:
        action, carry = policy.act(observation, carry, torch.arange(2))
        taken.append(action)
    with torch.no_grad():
        planned = spec.check(spec.denormalize(policy(first)[:, :3]))
    torch.testing.assert_close(torch.stack(taken, dim=1), planned)
    fresh, _ = policy.act(seen(2, seed=9), carry, torch.arange(2))
    again, _ = policy.act(seen(2, seed=9), policy.initial(2), torch.arange(2))
    torch.testing.assert_close(fresh, again)


def test_rows_that_run_dry_alone_are_planned_alone(make):
    policy = make(chunk=2, executed=2)
    _, ahead = policy.act(seen(1), policy.initial(1), torch.arange(1))
    mixed = type(ahead).cat([ahead, policy.initial(1)])
    action, after = policy.act(seen(2, seed=4), mixed, torch.arange(2))
    old, _ = policy.act({k: v[:1] for k, v in seen(2, seed=4).items()}, ahead, torch.arange(1))
    new, _ = policy.act({k: v[1:] for k, v in seen(2, seed=4).items()}, policy.initial(1), torch.arange(1))
    torch.testing.assert_close(action, torch.cat([old, new]))
    assert after.left.tolist() == [0, 1]


def test_the_carry_is_not_mutated(make):
    policy = make(chunk=2, executed=2)
    carry = policy.initial(2)
    policy.act(seen(2), carry, torch.arange(2))
    assert carry.left.tolist() == [0, 0]
    assert (carry.queue == 0).all()


def test_saved_and_loaded_policies_act_alike(make, tmp_path):
    policy = make(chunk=2)
    policy.save_pretrained(tmp_path / "p", manifest={"step": 7})
    loaded = load_trained(tmp_path / "p")
    assert type(loaded) is type(policy)
    assert loaded.config == policy.config
    assert not loaded.training
    for a, b in zip(policy.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    assert json.loads((tmp_path / "p/manifest.json").read_text())["step"] == 7


def test_half_precision_halves_the_file_and_stays_close(make, tmp_path):
    policy = make(hidden=128)
    policy.save_pretrained(tmp_path / "full")
    policy.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_trained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    torch.testing.assert_close(loaded(seen(3)), policy(seen(3)), atol=2e-2, rtol=0)


def test_weights_that_are_not_finite_are_not_saved(make, tmp_path):
    policy = make()
    with torch.no_grad():
        next(policy.parameters()).fill_(1e30)
    with pytest.raises(InvalidInputError, match="float16"):
        policy.save_pretrained(tmp_path / "p", half=True)
    assert not (tmp_path / "p").exists()


def test_nan_from_the_network_names_the_policy(make, tmp_path):
    policy = make()
    with torch.no_grad():
        next(policy.parameters()).fill_(float("nan"))
    policy.name = "run7/000100"
    with pytest.raises(PolicyError, match=r"run7/000100.*NaN"):
        policy.act(seen(2), policy.initial(2), torch.arange(2))


def test_missing_key_is_named(make):
    policy = make()
    missing = sorted(policy.needs)[0]
    observation = {k: v for k, v in seen(2).items() if k != missing}
    with pytest.raises(PolicyError, match=missing):
        policy.act(observation, policy.initial(2), torch.arange(2))


def test_wrong_shapes_are_explained(make_pixel, make_state):
    with pytest.raises(PolicyError, match=r"16, 24, 3"):
        make_pixel().act(
            {**seen(2), IMAGE: torch.zeros(2, 64, 64, 3, dtype=torch.uint8)}, make_pixel().initial(2), torch.arange(2)
        )
    with pytest.raises(PolicyError, match="uint8"):
        make_pixel().act({**seen(2), IMAGE: torch.zeros(2, 16, 24, 3)}, make_pixel().initial(2), torch.arange(2))
    with pytest.raises(PolicyError, match=STATE):
        make_pixel().act({**seen(2), STATE: torch.zeros(2, 3)}, make_pixel().initial(2), torch.arange(2))
    with pytest.raises(PolicyError, match=TRUE_STATE):
        make_state().act({**seen(2), TRUE_STATE: torch.zeros(2, 3)}, make_state().initial(2), torch.arange(2))


def test_another_class_in_the_folder(make_pixel, tmp_path):
    make_pixel().save_pretrained(tmp_path / "p")
    with pytest.raises(StorageError, match="'pixel' policy, expected 'state'"):
        StatePolicy.from_pretrained(tmp_path / "p")


def _edit(folder, **changes):
    """Change config.json and its digest, as a user who edits the file and its manifest would."""
    from worldsim.storage import digest_file

    config, manifest = (
        json.loads((folder / "config.json").read_text()),
        json.loads((folder / "manifest.json").read_text()),
    )
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    manifest["sha256"]["config.json"] = digest_file(folder / "config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_edited_configs_are_refused_with_a_reason(make_pixel, tmp_path):
    folder = tmp_path / "p"
    make_pixel().save_pretrained(folder)
    _edit(folder, policy="pixl")
    with pytest.raises(UnknownNameError, match="'pixel'"):
        load_trained(folder)
    _edit(folder, policy="pixel", hiden=3)
    with pytest.raises(StorageError, match="'hidden'"):
        load_trained(folder)
    make_pixel().save_pretrained(folder)
    _edit(folder, hidden=20)
    with pytest.raises(StorageError, match=r"head\.0\.weight"):
        load_trained(folder)


def test_config_refuses_nonsense(spec):
    good = {"action": spec, "proprio_mean": (0.0,), "proprio_std": (1.0,)}
    for wrong, match in [
        ({"proprio_std": (0.0,)}, "proprio"),
        ({"executed": 2}, "executed"),
        ({"image_size": (30, 64)}, "image_size"),
        ({"channels": ()}, "positive"),
        ({"more_cameras": (Camera(height=64, width=64),)}, "different keys"),
        ({"more_cameras": (Camera(key="observation.images.top", height=64, width=30),)}, r"images\.top"),
    ]:
        with pytest.raises(InvalidInputError, match=match):
            PixelPolicyConfig(**{**good, **wrong})


def test_spatial_softmax_finds_a_peak():
    maps = torch.zeros(1, 2, 8, 16)
    maps[0, 0, 2, 12] = 100.0
    maps[0, 1, 7, 0] = 100.0
    where = SpatialSoftmax(8, 16)(maps)
    expected = [(12.5 / 16) * 2 - 1, (0.5 / 16) * 2 - 1, (2.5 / 8) * 2 - 1, (7.5 / 8) * 2 - 1]
    torch.testing.assert_close(where, torch.tensor([expected]))


def test_default_bank_of_28_fits_in_8_mb(spec, tmp_path):
    PixelPolicy(PixelPolicyConfig(action=spec, proprio_mean=(0.0, 0.0), proprio_std=(1.0, 1.0))).save_pretrained(
        tmp_path / "p", half=True
    )
    size = sum(f.stat().st_size for f in (tmp_path / "p").iterdir())
    assert 28 * size < 6e6
