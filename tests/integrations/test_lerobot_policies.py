"""LeRobot checkpoints, built from a config, saved and loaded offline. Imports alone cost some 20 s of one core."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
pytest.importorskip("diffusers", reason="the lerobot extra is not installed")

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, TRUE_STATE, Camera, WorldSpec
from worldsim.errors import PolicyError, StorageError
from worldsim.evaluate.policies import discover, load_policy, policy_digest
from worldsim.integrations.lerobot import policies as lerobot_policies
from worldsim.integrations.lerobot.checkpoint import lerobot
from worldsim.integrations.lerobot.kinds import KINDS
from worldsim.integrations.lerobot.policies import load
from worldsim.policies.discovery import LEROBOT_TYPES
from worldsim.protocols import Policy
from worldsim.testing.policies import check_policy

pytestmark = pytest.mark.integration
CAMERA = "observation.images.top"
PX = 64
SMALL = {
    "act": {
        "chunk_size": 4,
        "n_action_steps": 3,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 4,
    },
    "diffusion": {
        "horizon": 8,
        "n_action_steps": 3,
        "down_dims": (16, 32),
        "n_groups": 4,
        "num_train_timesteps": 3,
        "diffusion_step_embed_dim": 8,
        "crop_shape": None,
        "clip_sample": False,
        "spatial_softmax_num_keypoints": 4,
    },
    "vqbet": {
        "n_obs_steps": 2,
        "crop_shape": None,
        "action_chunk_size": 3,
        "n_action_pred_token": 2,
        "gpt_n_layer": 1,
        "gpt_n_head": 2,
        "gpt_hidden_dim": 16,
        "gpt_input_dim": 16,
        "gpt_output_dim": 16,
        "vqvae_embedding_dim": 8,
        "vqvae_enc_hidden_dim": 8,
        "spatial_softmax_num_keypoints": 4,
    },
    "tdmpc": {
        "horizon": 3,
        "n_action_repeats": 1,
        "n_action_steps": 2,
        "latent_dim": 8,
        "q_ensemble_size": 2,
        "mlp_dim": 16,
        "image_encoder_hidden_dim": 8,
        "state_encoder_hidden_dim": 8,
        "n_gaussian_samples": 16,
        "n_pi_samples": 4,
        "n_elites": 4,
        "cem_iterations": 2,
    },
}
NORMAL_VECTOR = {"mean": [0.1, -0.1], "std": [0.5, 0.2], "min": [-0.4, -0.3], "max": [0.4, 0.3]}


def tensors(stats):
    """Statistics as LeRobot takes them."""
    return {k: {s: torch.tensor(v) for s, v in values.items()} for k, values in stats.items()}


def build(folder, kind, *, cameras=(CAMERA,), state=True, stats=None, **changes):
    """Build a LeRobot policy with random weights and save it with its processors, as its trainer does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        types = lerobot("configs.types")
        factory = lerobot("policies.factory")
    torch.manual_seed(3)
    inputs = {c: types.PolicyFeature(type=types.FeatureType.VISUAL, shape=(3, PX, PX)) for c in cameras}
    inputs |= {STATE: types.PolicyFeature(type=types.FeatureType.STATE, shape=(2,))} if state else {}
    config = factory.make_policy_config(
        kind,
        input_features=inputs,
        output_features={"action": types.PolicyFeature(type=types.FeatureType.ACTION, shape=(2,))},
        device="cpu",
        push_to_hub=False,
        **({} if kind == "tdmpc" else {"pretrained_backbone_weights": None}),
        **{**SMALL[kind], **changes},
    )
    with warnings.catch_warnings(action="ignore"):
        policy = factory.get_policy_class(kind)(config)
    pixel = {"mean": [[[0.5]]] * 3, "std": [[[0.2]]] * 3, "min": [[[0.0]]] * 3, "max": [[[1.0]]] * 3}
    full = {STATE: NORMAL_VECTOR, "action": NORMAL_VECTOR} | dict.fromkeys(cameras, pixel)
    processors = factory.make_pre_post_processors(config, dataset_stats=tensors(full if stats is None else stats(full)))
    if kind != "tdmpc":  # a checkpoint as training leaves it: the backbone default is in its config
        config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return policy.eval(), processors


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder, network and processors by type, built once."""
    root = tmp_path_factory.mktemp("lerobot")
    made = {}
    for kind in SMALL:
        folder = root / kind / "checkpoints" / "000010" / "pretrained_model"
        made[kind] = (folder, *build(folder, kind, cameras=(IMAGE if kind == "tdmpc" else CAMERA,)))
    return made


def seen(n, t):
    g = torch.Generator().manual_seed(100 + t)
    return {
        IMAGE: torch.randint(0, 256, (n, PX, PX, 3), dtype=torch.uint8, generator=g),
        STATE: torch.rand(n, 2, generator=g) - 0.5,
    }


def play(policy, n, steps=8, rows=slice(None)):
    """Actions [rows, steps, 2] for the observations of n episodes, played with these rows only."""
    keys = torch.arange(10, 10 + n)[rows]
    carry, actions = policy.initial(len(keys)), []
    for t in range(steps):
        action, carry = policy.act({k: v[rows] for k, v in seen(n, t).items()}, carry, keys)
        actions.append(action)
    return torch.stack(actions, dim=1)


@pytest.mark.parametrize("kind", SMALL)
def test_plays_like_any_policy(built, kind):
    policy = load_policy(str(built[kind][0]))
    assert isinstance(policy, Policy)
    assert policy.needs == {IMAGE, STATE}
    assert (policy.action_dim, policy.proprio_dim, policy.image_size) == (2, 2, (PX, PX))
    actions = play(policy, 3)
    assert actions.shape == (3, 8, 2)
    assert len(actions.flatten(0, 1).unique(dim=0)) == 24  # all actions differ: no stale chunk


@pytest.mark.parametrize("kind", SMALL)
def test_an_episode_does_not_see_its_neighbours(built, kind):
    policy = load(built[kind][0])
    together = play(policy, 4)
    torch.testing.assert_close(play(policy, 4, rows=slice(2, 3)), together[2:3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(play(policy, 4, rows=slice(1, 4)), together[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", SMALL)
def test_two_groups_may_take_turns(built, kind):
    """What LeRobot's own queue cannot do: interleave the episodes of two groups on one network."""
    policy = load(built[kind][0])
    alone = play(policy, 2)
    keys, others = torch.arange(10, 12), torch.arange(50, 55)
    carry, other = policy.initial(2), policy.initial(5)
    for t in range(8):
        action, carry = policy.act(seen(2, t), carry, keys)
        _, other = policy.act(seen(5, t + 30), other, others)
        torch.testing.assert_close(action, alone[:, t], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", SMALL)
def test_same_keys_same_actions_whatever_the_global_generator(built, kind):
    torch.manual_seed(1)
    first = play(load(built[kind][0]), 2)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    policy = load(built[kind][0])
    torch.random.set_rng_state(before)
    assert torch.equal(first, play(policy, 2))
    assert torch.equal(before, torch.random.get_rng_state())  # and it is left as it was


def test_act_equals_lerobots_own_select_action(built):
    folder, network, (before, after) = built["act"]
    network.reset()
    expected = []
    for t in range(8):
        raw = seen(3, t)
        batch = {CAMERA: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE]}
        expected.append(after(network.select_action(before(batch))))
    torch.testing.assert_close(play(load(folder), 3), torch.stack(expected, dim=1))


def test_diffusion_equals_lerobots_own_select_action_on_the_same_noise(built, monkeypatch):
    folder, network, (before, after) = built["diffusion"]

    monkeypatch.setitem(
        lerobot_policies._DRAWS, torch.randn, lambda keys, step, shape, stream: torch.zeros(len(keys), *shape)
    )
    ours = play(load(folder), 3)
    monkeypatch.setattr(
        torch, "randn", lambda *a, size=None, generator=None, layout=None, **k: torch.zeros(size or a[0], **k)
    )
    network.reset()
    expected = []
    for t in range(8):
        raw = seen(3, t)
        batch = {CAMERA: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE]}
        expected.append(after(network.select_action(before(batch))))
    torch.testing.assert_close(ours, torch.stack(expected, dim=1))


@pytest.mark.parametrize("kind", ["vqbet", "tdmpc"])
def test_types_with_queues_inside_equal_lerobots_own_select_action_on_the_same_noise(built, kind):
    """Their queues, and TD-MPC's mean of the last plan, are handed in and out."""
    folder, network, (before, after) = built[kind]
    keys = torch.arange(10, 11)
    noise = policy_noise(keys)
    network.reset()
    expected = []
    for t in range(8):
        raw = seen(1, t)
        camera = next(iter(network.config.image_features))
        batch = {camera: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE]}
        with warnings.catch_warnings(action="ignore"), noise(t):
            expected.append(after(network.select_action(before(batch))))
    torch.testing.assert_close(play(load(folder), 1), torch.stack(expected, dim=1))


def policy_noise(keys):
    """The noise that the adapter lends a network at a step."""
    return lambda step: lerobot_policies.KeyedRandomness(lerobot_policies.fold(keys, step))


def test_a_tdmpc_policy_that_repeats_its_actions(tmp_path):
    build(tmp_path / "p", "tdmpc", n_action_repeats=2, n_action_steps=1)
    actions = play(load(tmp_path / "p"), 2, steps=4)
    assert torch.equal(actions[:, 0], actions[:, 1]) and not torch.equal(actions[:, 1], actions[:, 2])


FAULTY = {
    "no statistics": (
        lambda full: {},
        r"action lacks.*observation\.state lacks|observation\.state lacks.*action lacks",
    ),
    "other keys": (lambda full: {f"so100.buffer.{k}": v for k, v in full.items()}, r"statistics of so100\.buffer"),
    "no action": (lambda full: {k: v for k, v in full.items() if k != "action"}, "action lacks mean and std"),
    "NaN": (
        lambda full: full | {"action": NORMAL_VECTOR | {"std": [0.1, float("nan")]}},
        "action has a std that is NaN",
    ),
    "zero": (
        lambda full: full | {STATE: NORMAL_VECTOR | {"std": [0.0, 0.0]}},
        "observation.state has no spread in channel 0, 1",
    ),
    "shape": (
        lambda full: full | {"action": {k: [*v, 1.0] for k, v in NORMAL_VECTOR.items()}},
        r"shape \[3\], expected \[2\]",
    ),
    "image": (lambda full: full | {CAMERA: {"mean": [[[0.5]]] * 3}}, "images.top lacks std"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_checkpoint_without_its_statistics_is_refused(tmp_path, name):
    change, match = FAULTY[name]
    build(tmp_path / "p", "act", stats=change)
    with pytest.raises(StorageError, match=match):
        load(tmp_path / "p")


def test_a_checkpoint_whose_normaliser_was_taken_out_is_refused(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    _edit(
        folder, "policy_preprocessor.json", lambda c: c.update(steps=[s for s in c["steps"] if "state_file" not in s])
    )
    with pytest.raises(StorageError, match=r"observation\.state is MEAN_STD .* no normaliser"):
        load(folder)


def test_a_constant_action_channel_is_fine(tmp_path):
    build(tmp_path / "p", "act", stats=lambda full: full | {"action": NORMAL_VECTOR | {"std": [0.5, 0.0]}})
    assert play(load(tmp_path / "p"), 1)[0, :, 1].unique().tolist() == pytest.approx([-0.1])


def test_a_joint_that_was_locked_in_training_is_given_as_it_was(tmp_path):
    build(tmp_path / "p", "act", stats=lambda full: full | {STATE: NORMAL_VECTOR | {"std": [0.1, 0.0]}})
    policy, keys = load(tmp_path / "p"), torch.arange(1)
    one, other = seen(1, 0), seen(1, 0)
    other[STATE] = other[STATE] + torch.tensor([0.0, 1e-3])
    given = other[STATE].clone()
    acted = [policy.act(raw, policy.initial(1), keys)[0] for raw in (one, other)]
    assert torch.equal(*acted) and torch.equal(other[STATE], given)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"cameras": (Camera(height=32, width=32),)}, "of 64x64 pixels, the world draws 32x32"),
        ({"cameras": ()}, "1 cameras.*the world draws nothing"),
        ({"proprio_dim": 7}, "2 proprioceptive values, the world has 7"),
        ({"names": ("x", "y", "z")}, r"2 actions, the world takes 3 \(x, y, z\)"),
        ({"rate_hz": 30.0}, "acts at 10 Hz, the world at 30 Hz"),
        ({}, ""),
    ],
)
def test_what_a_world_does_not_give_is_named_at_load(built, tmp_path, changed, match):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    (folder / "train_config.json").write_text(json.dumps({"env": {"fps": 10}}))
    names = changed.get("names", ("x", "y"))
    spec = WorldSpec(
        action=ActionSpec(
            names=names,
            units=("m/s",) * len(names),
            low=(-1.0,) * len(names),
            high=(1.0,) * len(names),
            rate_hz=changed.get("rate_hz", 10.0),
        ),
        cameras=changed.get("cameras", (Camera(height=PX, width=PX),)),
        latent_shape=(1, 1, 1),
        proprio_dim=changed.get("proprio_dim", 2),
        horizon=10,
    )
    if not match:
        assert load_policy(str(folder), spec=spec).needs == {IMAGE, STATE}
        return
    with pytest.raises((PolicyError, StorageError), match=match):
        load_policy(str(folder), spec=spec)


def test_temporal_ensemble_equals_lerobots_own(tmp_path):
    network, (before, after) = build(tmp_path / "p", "act", n_action_steps=1, temporal_ensemble_coeff=0.3)
    network.reset()
    expected = []
    for t in range(6):
        raw = seen(2, t)
        batch = {CAMERA: raw[IMAGE].permute(0, 3, 1, 2).float() / 255, STATE: raw[STATE]}
        expected.append(after(network.select_action(before(batch))))
    torch.testing.assert_close(play(load(tmp_path / "p"), 2, steps=6), torch.stack(expected, dim=1))


def test_noise_depends_on_the_key(built):
    policy = load(built["diffusion"][0])
    same = {k: v.expand(2, *v.shape[1:]) for k, v in seen(1, 0).items()}
    action, _ = policy.act(same, policy.initial(2), torch.tensor([1, 2]))
    assert not torch.allclose(action[0], action[1])


@pytest.mark.parametrize("kind", SMALL)
def test_contract(built, kind):
    spec = ActionSpec(names=("x", "y"), units=("m/s", "m/s"), low=(-1.0, -1.0), high=(1.0, 1.0), rate_hz=10)
    world = WorldSpec(
        action=spec, cameras=(Camera(height=PX, width=PX),), latent_shape=(1, 1, 1), proprio_dim=2, horizon=10
    )
    check_policy(load(built[kind][0]), world)


def test_discovery_and_digest(built, tmp_path):
    folder = built["act"][0]
    assert discover([folder.parents[2]]) == [str(folder)]
    assert policy_digest(str(folder)) != policy_digest(str(built["diffusion"][0]))


@pytest.mark.parametrize(
    "name",
    [
        "policy_preprocessor.json",
        "policy_postprocessor.json",
        "policy_preprocessor_step_3_normalizer_processor.safetensors",
    ],
)
def test_missing_processors_are_named(built, tmp_path, name):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    (folder / name).unlink()
    with pytest.raises(StorageError, match=name):
        load_policy(str(folder))


def test_weights_that_do_not_fit_are_named(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    weights = load_file(folder / "model.safetensors")
    lost = next(k for k in weights if "action_head" in k)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors")
    with pytest.raises(StorageError, match=lost):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(StorageError, match="do not fit"):
        load(folder)


def test_configs_that_lerobot_does_not_read(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    config = json.loads((folder / "config.json").read_text())
    for changed, match in [({"type": "akt"}, "akt"), ({"dim_modle": 3}, "dim_modle")]:
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(StorageError, match=match):
            load(folder)


def test_processor_steps_by_import_path_are_refused(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    file = folder / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    content["steps"][0] = {"class": "os.path.join", "config": {}}
    file.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"os\.path\.join"):
        load(folder)


def _edit(folder, file, change):
    """Rewrite one JSON file of a checkpoint."""
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def test_a_step_that_names_a_folder_of_code_never_runs_it(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    code = tmp_path / "code"
    code.mkdir()
    (code / "processing.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass P: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        (code / name).write_text(json.dumps({"auto_map": {"AutoProcessor": "processing.P"}}))
    for kind, match in [("action_tokenizer_processor", "may run code"), ("tokenizer_processor", "may hold code")]:
        settings = {"action_tokenizer_name": str(code), "tokenizer_name": str(code), "trust_remote_code": True}
        step = {"registry_name": kind, "config": settings}
        _edit(folder, "policy_preprocessor.json", lambda c, step=step: c.update(steps=[step]))
        with pytest.raises(StorageError, match=match):
            load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_network_that_names_a_folder_of_code_never_runs_it(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    code = tmp_path / "code"
    code.mkdir()
    (code / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    auto = {"AutoConfig": "modeling.C", "AutoModel": "modeling.M"}
    (code / "config.json").write_text(json.dumps({"auto_map": auto, "model_type": "x"}))
    config = json.loads((folder / "config.json").read_text())
    shared = {k: config[k] for k in ("input_features", "output_features", "device")}
    for changed, match in [
        ({"type": "gaussian_actor", "vision_encoder_name": str(code)}, "may hold code"),
        ({"type": "gaussian_actor", "vision_encoder_name": "someone/encoder"}, "gaussian_actor"),
        ({"type": "smolvla", "vlm_model_name": str(code)}, "may hold code"),
    ]:
        (folder / "config.json").write_text(json.dumps({**shared, **changed}))
        with pytest.raises(StorageError, match=match):
            load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("steps", ["x", 3, None, [3], {"a": 1}, [{"registry_name": 3}], [{}]])
def test_processor_steps_of_the_wrong_type_are_refused(built, tmp_path, steps):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    _edit(folder, "policy_preprocessor.json", lambda c: c.update(steps=steps))
    with pytest.raises(StorageError, match=r"policy_preprocessor\.json"):
        load(folder)


def test_a_state_file_lies_in_the_folder(built, tmp_path):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    for state in ("../../x", 3):
        step = {"registry_name": "normalizer_processor", "state_file": state}
        _edit(folder, "policy_preprocessor.json", lambda c, step=step: c.update(steps=[step]))
        with pytest.raises(StorageError, match="state_file"):
            load(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("chunk_size", 10**9), ("chunk_size", -1), ("n_obs_steps", "x"), ("dim_model", 10**12)]
)
def test_sizes_out_of_range_are_refused(built, tmp_path, name, value):
    folder = shutil.copytree(built["act"][0], tmp_path / "p")
    _edit(folder, "config.json", lambda c: c.update({name: value}))
    with pytest.raises(StorageError, match=name):
        load(folder)


def test_an_act_policy_computes_in_another_dtype(built):
    exact, rough = load(built["act"][0]), load(built["act"][0], dtype=torch.bfloat16, device="cpu")
    (one, _), (other, _) = (p.act(seen(2, 0), p.initial(2), torch.arange(2)) for p in (exact, rough))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_several_cameras_are_matched_by_name(tmp_path):
    wrist = "observation.images.wrist"
    network, (before, after) = build(tmp_path / "p", "act", cameras=(CAMERA, wrist))
    policy = load(tmp_path / "p", cameras=[Camera(key=key, height=PX, width=PX) for key in (wrist, CAMERA)])
    assert policy.needs == {CAMERA, wrist, STATE}
    here = seen(2, 0)
    both = {CAMERA: here[IMAGE], wrist: here[IMAGE] // 8, STATE: here[STATE]}
    action, _ = policy.act(both, policy.initial(2), torch.arange(2))
    batch = {key: both[key].permute(0, 3, 1, 2).float() / 255 for key in (CAMERA, wrist)} | {STATE: both[STATE]}
    torch.testing.assert_close(action, after(network.select_action(before(batch))))
    with pytest.raises(StorageError, match=r"2 cameras.*wrist.*observation\.image"):
        load(tmp_path / "p", cameras=[Camera(height=PX, width=PX)])


def test_the_only_camera_is_the_worlds_only_camera_whatever_their_names(built):
    policy = load(built["act"][0], cameras=[Camera(key="observation.images.front", height=PX, width=PX)])
    assert policy.needs == {"observation.images.front", STATE}


def test_sizes_and_keys_that_a_world_cannot_give(built):
    policy = load(built["act"][0])
    good = seen(2, 0)
    for wrong, match in [
        ({**good, IMAGE: torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, r"\(2, 64, 64, 3\) is expected"),
        ({**good, STATE: torch.zeros(2, 7)}, STATE),
        ({STATE: good[STATE], TRUE_STATE: good[STATE]}, "needs 'observation.image'"),
    ]:
        with pytest.raises(PolicyError, match=match):
            policy.act(wrong, policy.initial(2), torch.arange(2))


def test_nan_weights_are_reported(built):
    policy = load(built["act"][0])
    with torch.no_grad():
        for weight in policy._checkpoint.network.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match="NaN"):
        policy.act(seen(1, 0), policy.initial(1), torch.arange(1))


def test_discovery_knows_the_types_that_are_run():
    assert sorted(KINDS) == sorted(LEROBOT_TYPES)
