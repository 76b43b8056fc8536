"""Worlds of several cameras, of compressed time, conditioned on text, and of discrete actions: trained, checked, played, planned in."""

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from tests.train import toy
from worldsim.actions import ActionPart, ActionSpec
from worldsim.conditions import POSES
from worldsim.core import IMAGE, STATE, TASK, Camera, text_rows
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.evaluate.triage import prepare
from worldsim.optimize import Schedule
from worldsim.planners import MPC, make_planner
from worldsim.testing import check_world
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.triage.report import ReportData, write_report
from worldsim.worlds import load_world, world_spec
from worldsim.worlds.latent import LearnedWorld

SIDE = "observation.images.side"
TASKS = ("push the L", "leave the L alone")
STEERING = ActionSpec(
    names=("x", "turn"),
    units=("px", "1"),
    low=(-3, 0),
    high=(3, 2),
    rate_hz=10,
    parts=(
        ActionPart(name="x", shape=(1,), path=("x",)),
        ActionPart(name="turn", kind="discrete", dtype="int64", path=("turn",)),
    ),
)
SHORT = Schedule(steps=8, batch=8, lr=1e-3)


def two_cameras(episode: Episode, number: int) -> Episode:
    frames = {IMAGE: episode.frames[IMAGE], SIDE: np.ascontiguousarray(episode.frames[IMAGE][:, ::2, 8:40])}
    return dataclasses.replace(episode, frames=frames, task=TASKS[number % 2])


def write(path: Path, *, action: ActionSpec = toy.ACTION, cameras: bool = False) -> Path:
    made = (Camera(height=toy.SIZE, width=toy.SIZE), Camera(key=SIDE, height=toy.SIZE // 2, width=32))
    spec = RecordSpec(
        action=action, cameras=made if cameras else made[:1], proprio_dim=2, has_success=True, has_progress=True
    )
    with episode_writer(path, spec) as writer:
        for i in range(12):
            episode = two_cameras(toy.episode(i), i) if cameras else toy.episode(i)
            if action is STEERING:
                turn = np.random.default_rng(i).integers(0, 3, len(episode.action))
                episode = dataclasses.replace(
                    episode, action=np.stack([episode.action[:, 0], turn], axis=1).astype(np.float32)
                )
            writer.write(episode)
    return path


POLICIES = """
import numpy as np

def still(observation):
    return np.zeros((len(observation["observation.state"]), 2), np.float32)

def look(observation):
    brightness = observation["observation.image"].reshape(len(observation["observation.image"]), -1).mean(1) / 255
    return np.stack([brightness, -np.ones_like(brightness)], 1).astype(np.float32)

def look_aside(observation):
    assert set(observation["task"].tolist()) <= {"push the L", "leave the L alone"}
    return look({"observation.image": observation["observation.images.side"]})

still.needs = ["observation.state"]
look.needs = ["observation.image"]
look_aside.needs = ["observation.images.side", "task"]
"""


def trained(
    data: Path, out: Path, *, tokenizer: str, predictor: str, options: dict[str, object], **more: object
) -> LearnedWorld:
    recipe = TrainWorld(
        data=str(data),
        out=str(out),
        num_starts=4,
        tokenizer=TokenizerRecipe(name=tokenizer, options=more.get("tokenizer_options", {}), schedule=SHORT),  # type: ignore[arg-type]
        predictor=PredictorRecipe(name=predictor, options=options, schedule=SHORT, unrolls=((1, 0.5), (2, 1.0))),
        heads=SHORT,
    )
    folder = train_world(recipe)
    world = load_world(folder)
    assert isinstance(world, LearnedWorld) and world_spec(folder) == world.spec
    return world


def rank(folder: Path, names: tuple[str, ...], tmp_path: Path) -> ReportData:
    """Rank functions in a world, with a film, as the command does."""
    code = tmp_path / "functions.py"
    code.write_text(POLICIES)
    triage = prepare([f"{code}:{name}" for name in names], world=str(folder), k=1, budget=12, workers=1)
    return triage.run(tmp_path / "run", videos=1)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("two") / "data", cameras=True)


@pytest.fixture(scope="module")
def two(filmed: Path, tmp_path_factory: pytest.TempPathFactory) -> LearnedWorld:
    flow = {"width": 16, "depth": 1, "heads": 1, "text_bytes": 12}
    return trained(filmed, tmp_path_factory.mktemp("w") / "two", tokenizer="haar_pca", predictor="flow", options=flow)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> LearnedWorld:
    folder = tmp_path_factory.mktemp("stride")
    small = {"encoder_channels": [8, 12, 16], "decoder_channels": [8, 12, 16], "latent_channels": 4}
    return trained(
        write(folder / "data"),
        folder / "world",
        tokenizer="causal_haar",
        predictor="flow",
        options={"width": 16, "depth": 1, "heads": 1},
        tokenizer_options=small,
    )


def test_a_world_of_two_cameras_keeps_the_contract(two: LearnedWorld) -> None:
    assert [c.key for c in two.spec.cameras] == [IMAGE, SIDE]
    assert two.spec.cameras[1].size == (toy.SIZE // 2, 32)
    check_world(two)


def test_each_camera_is_drawn_by_its_own_tokenizer(two: LearnedWorld) -> None:
    starts = two.starts(torch.arange(2))
    for camera in two.spec.cameras:
        seen = two.roundtrip(starts[camera.key], camera.key)
        assert seen.shape == starts[camera.key].shape
        error = (seen.float() - starts[camera.key].float()).abs().mean()
        assert error < (starts[camera.key].float() - starts[camera.key].float().mean()).abs().mean()


def test_a_text_changes_what_is_predicted_and_an_unread_condition_is_refused(two: LearnedWorld) -> None:
    starts, keys = two.starts(torch.arange(2)), torch.arange(2)
    assert TASK in two.spec.observes and TASK in starts
    action = torch.ones(2, 2)
    latents = [two.step(two.reset({**starts, TASK: text_rows([text] * 2)}, keys), action)[1].latent for text in TASKS]
    assert not torch.equal(*latents)
    with pytest.raises(InvalidInputError, match="camera_pose"):
        two.reset({**starts, POSES: torch.zeros(2, 1, 4, 4)}, keys)


def test_it_is_played_with_pixels_by_camera_and_planned_in(two: LearnedWorld) -> None:
    env = gymnasium.make("worldsim/World-v0", world=two)
    observation, _ = env.reset(seed=1)
    assert {k: v.shape for k, v in observation["pixels"].items()} == {
        "image": (toy.SIZE, toy.SIZE, 3),
        "side": (toy.SIZE // 2, 32, 3),
    }
    observation, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    mpc = MPC(make_planner("cem", horizon=2, samples=4, iterations=1), two)
    first = two.starts(torch.arange(2))
    action, _ = mpc.act({k: first[k] for k in mpc.needs}, mpc.initial(2), torch.arange(2))
    assert action.shape == (2, 2) and bool(action.isfinite().all())


def test_policies_see_named_cameras_and_the_task_in_triage(two: LearnedWorld, tmp_path: Path) -> None:
    two.save_pretrained(tmp_path / "world")
    report = rank(tmp_path / "world", ("still", "look", "look_aside"), tmp_path)
    assert not report.failed and len(report.alive) == 3
    assert report.clips


def test_a_world_of_compressed_time_predicts_several_frames_a_step(compressed: LearnedWorld) -> None:
    spec = compressed.spec
    assert (spec.actions_per_step, spec.horizon, spec.steps) == (4, 12, 3)
    check_world(compressed)
    state = compressed.reset(compressed.starts(torch.arange(2)), torch.arange(2))
    _, step = compressed.step(state, torch.zeros(2, 4, 2))
    frames = compressed.decode(step.latent)
    assert frames.shape == (2, 4, toy.SIZE, toy.SIZE, 3)
    with pytest.raises(InvalidInputError, match=r"4, 2"):
        compressed.step(state, torch.zeros(2, 2))


def test_compressed_time_is_played_in_chunks_and_planned_in(compressed: LearnedWorld) -> None:
    env = gymnasium.make("worldsim/World-v0", world=compressed)
    observation, _ = env.reset(seed=1)
    assert env.action_space.shape == (4, 2) and observation["pixels"].shape == (4, toy.SIZE, toy.SIZE, 3)
    observation, _, _, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation) and not truncated
    mpc = MPC(make_planner("cem", horizon=2, samples=4, iterations=1), compressed)
    assert (mpc.block, mpc.actions_per_look) == (4, 4)
    first = compressed.starts(torch.arange(2))
    seen = {k: first[k] for k in mpc.needs}
    carry, taken = mpc.initial(2), []
    for t in range(9):
        action, carry = mpc.act(seen, carry, torch.arange(2) + t)
        taken.append(action)
    assert carry.plans == 3 and torch.stack(taken).isfinite().all() and action.shape == (2, 2)
    assert carry.belief.step.tolist() == [2, 2]  # it has looked at every fourth action
    with pytest.raises(InvalidInputError, match="multiple"):
        MPC(make_planner("cem", horizon=2), compressed, block=3)


def test_compressed_time_is_ranked_in_and_the_report_says_what_it_costs(
    compressed: LearnedWorld, tmp_path: Path
) -> None:
    compressed.save_pretrained(tmp_path / "world")
    report = rank(tmp_path / "world", ("still", "look"), tmp_path)
    assert not report.failed and len(report.alive) == 2
    write_report(tmp_path / "report.html", report)
    assert "predicts 4 frames at once" in (tmp_path / "report.html").read_text(encoding="utf8")


def test_a_world_of_discrete_actions_trains_and_tells_choices_apart(tmp_path: Path) -> None:
    world = trained(
        write(tmp_path / "data", action=STEERING),
        tmp_path / "world",
        tokenizer="haar_pca",
        predictor="conv",
        options={"width": 16, "blocks": 1},
    )
    assert world.predictor.config.action_dim == 4  # one number, and three choices
    state = world.reset(world.starts(torch.arange(1)), torch.arange(1))
    latents = [world.step(state, torch.tensor([[0.0, choice]]))[1].latent for choice in (0.0, 1.0, 1.2, 2.0)]
    assert torch.equal(latents[1], latents[2]) and not torch.equal(latents[0], latents[1])
    proprio = world.step(state, torch.tensor([[0.0, 1.0]]))[1].proprio
    assert proprio.shape == (1, 2) and STATE in world.spec.observes
