import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, TRUE_STATE, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, PolicyError, StorageError, UnknownNameError
from worldsim.evaluate.policies import discover, load_policy, policy_digest
from worldsim.optimize import Schedule
from worldsim.policies.degraded import Degradation
from worldsim.policies.pixel import PixelPolicy, PixelPolicyConfig
from worldsim.policies.scripted import PushExpert
from worldsim.policies.trained import TrainedPolicy
from worldsim.storage import read_json
from worldsim.train.config import resolve
from worldsim.train.recipes import policy as module
from worldsim.train.recipes.imitation import Demonstrations, Examples, read_demonstrations
from worldsim.train.recipes.policy import TrainPolicy, cloning_loss, shift_frames, train_policy

SPEC = ActionSpec(names=("vx", "vy"), units=("m/s", "m/s"), low=(-0.4, -0.4), high=(0.4, 0.4), rate_hz=10)
PX = 16


def dot(at):
    """A frame with a bright dot at a place in -1..1."""
    y, x = np.mgrid[0:PX, 0:PX] / (PX - 1) * 2 - 1
    level = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 0.05) * 255
    return np.repeat(level[..., None], 3, axis=-1).astype(np.uint8)


def episode(seed, steps=12, true_state=True):
    """The wanted velocity points to the dot, whose place is also the true state; recorded actions are noisy."""
    g = np.random.default_rng(seed)
    spots, places = g.uniform(-0.8, 0.8, (steps + 1, 2)), g.uniform(-0.3, 0.3, (steps + 1, 2))
    action = np.clip(spots[:-1] * 0.4 + g.normal(0, 0.02, (steps, 2)), -0.4, 0.4)
    unknown = np.full(steps + 1, np.nan, np.float32)
    return Episode(
        frames={IMAGE: np.stack([dot(s) for s in spots])},
        proprio=places.astype(np.float32),
        action=action.astype(np.float32),
        success=unknown,
        progress=unknown,
        reward=unknown[1:],
        true_state=np.concatenate([spots, np.ones_like(spots)], axis=1).astype(np.float32) if true_state else None,
        seed=seed,
    )


def write(path, *, true_state=True, episodes=8):
    dims = {"proprio_dim": 2, "true_state_dim": 4 if true_state else 0}
    spec = RecordSpec(
        action=SPEC, cameras=(Camera(height=PX, width=PX),), has_success=False, has_progress=False, **dims
    )
    with episode_writer(path, spec) as writer:
        for i in range(episodes):
            writer.write(episode(i, true_state=true_state))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("policy") / "data")


def small(data, out, **changes):
    values = {
        "options": {"channels": [6], "hidden": 16, "stride_px": 2},
        "schedule": Schedule(steps=8, batch=16, lr=1e-2, warmup=2),
        "shift_px": 1,
        **changes,
    }
    return TrainPolicy(data=data, out=str(out), **values)


def test_a_bank_holds_every_run_and_checkpoint(data, tmp_path):
    config = small(data, tmp_path / "bank", episodes=(3, 0), seeds=(0, 1), checkpoints=(2, 5))
    assert train_policy(config) == tmp_path / "bank"
    found = discover([tmp_path / "bank"])
    runs = ("all_s0", "all_s1", "n3_s0", "n3_s1")
    assert [f.removeprefix(f"{tmp_path}/bank/") for f in found] == [f"{r}/{s:06d}" for r in runs for s in (2, 5, 8)]
    assert len({policy_digest(f) for f in found}) == 12
    manifest = read_json(tmp_path / "bank/n3_s1/000005/manifest.json")
    assert (manifest["step"], manifest["recipe"]["episodes"], manifest["recipe"]["seed"]) == (5, 3, 1)
    assert manifest["recipe"]["data_digest"] == open_dataset(data).digest
    assert not (tmp_path / "bank/.training").exists()


def test_same_command_same_weights_and_other_seeds_do_not_matter(data, tmp_path):
    torch.manual_seed(5)
    train_policy(small(data, tmp_path / "a", seeds=(0, 1), checkpoints=(4,)))
    torch.manual_seed(6)
    train_policy(small(data, tmp_path / "b", seeds=(1,), checkpoints=(4,)))
    for step in ("000004", "000008"):
        assert policy_digest(f"{tmp_path}/a/all_s1/{step}") == policy_digest(f"{tmp_path}/b/all_s1/{step}")


def test_a_killed_run_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    schedule = Schedule(steps=8, batch=16, lr=1e-2, warmup=2, save_every_s=0.0)
    config = small(data, tmp_path / "killed", seeds=(0, 1), checkpoints=(3, 6), schedule=schedule)
    train_policy(small(data, tmp_path / "uninterrupted", seeds=(0, 1), checkpoints=(3, 6), schedule=schedule))
    original, calls = module.cloning_loss, []

    def dies(*args, **kwargs):
        loss_at = original(*args, **kwargs)

        def inner(step):
            calls.append(step)
            if len(calls) in (5, 13):
                raise KeyboardInterrupt
            return loss_at(step)

        return inner

    monkeypatch.setattr(module, "cloning_loss", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_policy(config)
    train_policy(config)
    assert calls.count(0) == 2  # each run began once
    for run in ("all_s0", "all_s1"):
        for step in ("000003", "000006", "000008"):
            assert policy_digest(f"{tmp_path}/killed/{run}/{step}") == policy_digest(
                f"{tmp_path}/uninterrupted/{run}/{step}"
            )


def test_finished_runs_are_kept_and_other_settings_refused(data, tmp_path):
    train_policy(small(data, tmp_path / "bank"))
    before = (tmp_path / "bank/all_s0/000008/model.safetensors").stat().st_mtime_ns
    train_policy(small(data, tmp_path / "bank", seeds=(0, 1)))
    assert (tmp_path / "bank/all_s0/000008/model.safetensors").stat().st_mtime_ns == before
    assert (tmp_path / "bank/all_s1/000008").is_dir()
    with pytest.raises(InvalidInputError, match="another request"):
        train_policy(small(data, tmp_path / "bank", shift_px=0))


def test_unfinished_folder_of_another_request(data, tmp_path):
    (tmp_path / "bank/.training").mkdir(parents=True)
    (tmp_path / "bank/.training/request.json").write_text(json.dumps({"config": 1}))
    (tmp_path / "bank/.training/all_s0").mkdir()
    with pytest.raises(InvalidInputError, match="config: was 1, .*data_digest: was None"):
        train_policy(small(data, tmp_path / "bank"))


@pytest.mark.parametrize(("kind", "options"), [("pixel", {"channels": [8], "stride_px": 2}), ("state", {"depth": 2})])
def test_it_learns_what_is_shown(data, tmp_path, kind, options):
    schedule = Schedule(steps=150, batch=64, lr=1e-2, warmup=10)
    config = small(data, tmp_path / "p", kind=kind, options={"hidden": 32, **options}, schedule=schedule, shift_px=0)
    train_policy(config)
    policy = load_policy(str(tmp_path / "p/all_s0/000150"))
    fresh = episode(99)
    seen = {IMAGE: fresh.frames[IMAGE][:-1], STATE: fresh.proprio[:-1], TRUE_STATE: fresh.true_state[:-1]}
    action, _ = policy.act({k: torch.from_numpy(v) for k, v in seen.items()}, policy.initial(12), torch.arange(12))
    assert np.corrcoef(action.flatten(), fresh.action.flatten())[0, 1] > 0.9


WRIST, TOP = "observation.images.wrist", "observation.images.top"


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """The same episodes; the top camera sees the dot, the smaller one at the wrist nothing."""
    path = tmp_path_factory.mktemp("stereo") / "data"
    cameras = (Camera(key=WRIST, height=8, width=12), Camera(key=TOP, height=PX, width=PX))
    with episode_writer(
        path,
        RecordSpec(
            action=SPEC, cameras=cameras, proprio_dim=2, true_state_dim=4, has_success=False, has_progress=False
        ),
    ) as writer:
        for i in range(8):
            seen = episode(i)
            blank = np.full((len(seen.proprio), 8, 12, 3), 90, np.uint8)
            writer.write(dataclasses.replace(seen, frames={WRIST: blank, TOP: seen.frames[IMAGE]}))
    return str(path)


def test_it_learns_from_any_of_several_cameras(stereo, tmp_path):
    schedule = Schedule(steps=150, batch=64, lr=1e-2, warmup=10)
    options = {"hidden": 32, "channels": [8], "stride_px": 2}
    config = small(stereo, tmp_path / "p", options=options, schedule=schedule, shift_px=0)
    train_policy(config)
    policy = load_policy(str(tmp_path / "p/all_s0/000150"))
    assert policy.needs == {WRIST, TOP, STATE} and [c.size for c in policy.config.cameras] == [(8, 12), (PX, PX)]
    fresh = episode(99)
    blank = np.full((12, 8, 12, 3), 90, np.uint8)
    seen = {WRIST: blank, TOP: fresh.frames[IMAGE][:-1], STATE: fresh.proprio[:-1]}
    seen = {k: torch.from_numpy(v) for k, v in seen.items()}
    action, _ = policy.act(seen, policy.initial(12), torch.arange(12))
    assert np.corrcoef(action.flatten(), fresh.action.flatten())[0, 1] > 0.9
    for wrong in ({k: v for k, v in seen.items() if k != TOP}, {**seen, WRIST: seen[TOP]}):
        with pytest.raises(PolicyError, match="wrist|top"):
            policy.act(wrong, policy.initial(12), torch.arange(12))


def test_a_policy_looks_through_the_cameras_it_is_given(stereo, tmp_path):
    for kind, cameras, needs in [
        ("pixel", ("top",), {TOP, STATE}),
        ("pixel", ("top", "wrist"), {WRIST, TOP, STATE}),
        ("state", (), {TRUE_STATE, STATE}),
    ]:
        options = {} if kind == "state" else {"channels": [6], "hidden": 16, "stride_px": 2}
        out = tmp_path / f"{kind}{len(cameras)}"
        train_policy(small(stereo, out, kind=kind, cameras=cameras, options=options))
        assert load_policy(str(out / "all_s0/000008")).needs == needs
    main = load_policy(str(tmp_path / "pixel2/all_s0/000008")).config
    assert (main.camera, main.image_size, main.more_cameras[0].key) == (TOP, (PX, PX), WRIST)


def test_chunks_do_not_reach_into_the_next_episode():
    actions = (torch.arange(3.0)[:, None], 10 + torch.arange(2.0)[:, None])
    observations = tuple({STATE: torch.zeros(len(a), 1)} for a in actions)
    examples = Demonstrations(observations=observations, actions=actions).examples([1, 0], chunk=2)
    assert examples.action_NKA[..., 0].tolist() == [[10, 11], [11, 11], [0, 1], [1, 2], [2, 2]]
    assert examples.valid_NK.tolist() == [[1, 1], [1, 0], [1, 1], [1, 1], [1, 0]]


def test_a_teacher_replaces_the_recorded_actions(data):
    dataset = open_dataset(data)
    recorded = read_demonstrations(
        dataset, needs=frozenset({IMAGE, STATE}), teacher=PushExpert(), quality=Degradation()
    )
    source, expert = dataset.episode(3), PushExpert()
    steps = source.steps
    given = {TRUE_STATE: torch.tensor(source.true_state[:-1]), STATE: torch.tensor(source.proprio[:-1])}
    wanted, _ = expert.act(given, expert.initial(steps), torch.arange(steps))
    torch.testing.assert_close(recorded.actions[3], SPEC.normalize(SPEC.check(wanted)))
    assert recorded.observations[3].keys() == {IMAGE, STATE}
    assert len(recorded.observations[3][IMAGE]) == steps


def test_qualities_change_the_recorded_actions(data):
    dataset = open_dataset(data)
    plain, halved = (
        read_demonstrations(dataset, needs=frozenset({STATE}), teacher=None, quality=Degradation(gain=gain))
        for gain in (1, 0.5)
    )
    torch.testing.assert_close(plain.actions[2], torch.tensor(dataset.episode(2).action) / 0.4)
    torch.testing.assert_close(halved.actions[2], plain.actions[2] * 0.5)


def test_what_the_data_does_not_hold(tmp_path):
    data = write(tmp_path / "blind", true_state=False, episodes=2)
    for changes in ({"kind": "state", "options": {}}, {"teacher": "worldsim.policies.scripted:PushExpert"}):
        with pytest.raises(InvalidInputError, match="environment_state"):
            train_policy(small(data, tmp_path / "p", **changes))


def test_bad_requests(data, tmp_path):
    for changes, error, match in [
        ({"kind": "pixle"}, UnknownNameError, "'pixel'"),
        ({"options": {"hiden": 3}}, UnknownNameError, "'hidden'"),
        ({"episodes": (99,)}, InvalidInputError, "99 episodes.*has 8"),
        ({"cameras": ("wrist",)}, UnknownNameError, "wrist"),
        ({"teacher": "no.such:thing"}, InvalidInputError, r"no\.such"),
    ]:
        with pytest.raises(error, match=match):
            train_policy(small(data, tmp_path / f"p{match[:3]}", **changes))
    for changes, match in [
        ({"checkpoints": (9,)}, r"1\.\.8"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"shift_px": -1}, "shift_px"),
    ]:
        with pytest.raises(InvalidInputError, match=match):
            small(data, tmp_path, **changes)
    with pytest.raises(StorageError):
        train_policy(small(str(tmp_path / "nothing"), tmp_path / "p"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2**31))
def test_shifts_move_pictures(most, m, seed):
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (m, 9, 11, 3), dtype=torch.uint8, generator=g)
    moved = shift_frames(image, most, g)
    assert moved.shape == image.shape
    padded = torch.nn.functional.pad(image.permute(0, 3, 1, 2).float(), (most,) * 4, mode="replicate").byte()
    for i in range(m):
        windows = [
            padded[i, :, y : y + 9, x : x + 11].permute(1, 2, 0)
            for y in range(2 * most + 1)
            for x in range(2 * most + 1)
        ]
        assert any(torch.equal(moved[i], w) for w in windows)


def test_each_picture_has_its_own_shift():
    image = torch.arange(7 * 7 * 3, dtype=torch.uint8).reshape(1, 7, 7, 3).expand(64, -1, -1, -1)
    assert len(shift_frames(image, 1, torch.Generator().manual_seed(0)).flatten(1).unique(dim=0)) == 9


def test_settings_from_the_command_line():
    overrides = [
        "data=d",
        "out=o",
        "options.hidden=64",
        "seeds=[0,1]",
        "qualities=[{},{gain: 0.7}]",
        "schedule.steps=300",
    ]
    config = resolve("policy", overrides)
    assert config == TrainPolicy(
        data="d",
        out="o",
        options={"hidden": 64},
        seeds=(0, 1),
        qualities=(Degradation(), Degradation(gain=0.7)),
        schedule=Schedule(steps=300, batch=128, lr=2e-3),
    )


def test_a_device_on_the_command_line_reaches_every_recipe():
    there = ["data=d", "out=o"]
    assert resolve("policy", there, device="meta").device == resolve("world", there, device="meta").device == "meta"
    assert resolve("reason-sft", [*there, "cpu=false"], device="cpu").cpu
    with pytest.raises(InvalidInputError, match="CUDA_VISIBLE_DEVICES"):
        resolve("reason-sft", there, device="meta")


def test_a_policy_is_trained_on_the_device_asked_for(data, tmp_path):
    with pytest.raises(RuntimeError, match="meta"):  # its loss has no value, so it was computed there
        train_policy(small(data, tmp_path / "bank", schedule=Schedule(steps=1, batch=4), device="meta"))
    with pytest.raises(InvalidInputError, match="cuda:99"):
        train_policy(small(data, tmp_path / "bank", device="cuda:99"))


def test_a_checkpoint_has_had_the_steps_it_is_named_after(data, tmp_path, monkeypatch):
    original, losses, saved = module.cloning_loss, [], []
    save = TrainedPolicy.save_pretrained

    def counted(*args, **kwargs):
        loss_at = original(*args, **kwargs)
        return lambda step: (losses.append(step), loss_at(step))[1]

    def recorded(self, path, **kwargs):
        saved.append((kwargs["manifest"]["step"], path.name, len(losses)))
        save(self, path, **kwargs)

    monkeypatch.setattr(module, "cloning_loss", counted)
    monkeypatch.setattr(TrainedPolicy, "save_pretrained", recorded)
    train_policy(small(data, tmp_path / "p", checkpoints=(1, 5)))
    assert saved == [(1, "000001", 1), (5, "000005", 5), (8, "000008", 8)]


def test_batches_follow_seed_and_step():
    torch.manual_seed(0)
    sizes = {"image_size": (16, 24), "channels": (4,), "hidden": 8}
    policy = PixelPolicy(PixelPolicyConfig(action=SPEC, proprio_mean=(0.0, 0.0), proprio_std=(1.0, 1.0), **sizes))
    g = torch.Generator().manual_seed(0)
    seen = {IMAGE: torch.randint(0, 256, (50, 16, 24, 3), dtype=torch.uint8, generator=g), STATE: torch.rand(50, 2)}
    examples = Examples(observation=seen, action_NKA=torch.rand(50, 1, 2, generator=g), valid_NK=torch.ones(50, 1))

    def loss(seed, step):
        return cloning_loss(policy, examples, batch=4, seed=seed, shift_px=1)(step)[0].item()

    assert loss(0, 3) == loss(0, 3)
    assert len({loss(0, 3), loss(1, 3), loss(0, 4)}) == 3
