"""The structured family from end to end on a tiny scene: stages, faults, resumption, and everything that worlds are used for."""

import dataclasses
from pathlib import Path

import gymnasium
import pytest
import torch

from tests.tokenizers import scenes
from tests.train import toy
from worldsim import storage
from worldsim.core import IMAGE, STATE
from worldsim.errors import InvalidInputError
from worldsim.evaluate.triage import prepare
from worldsim.optimize import Schedule
from worldsim.progress import silent
from worldsim.testing import check_world
from worldsim.tokenizers.cameras import held_proprio
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer
from worldsim.tokenizers.structured.tracking import LOST
from worldsim.train.config import plan, resolve
from worldsim.train.recipes.encode import encode_some
from worldsim.train.recipes.settings import open_data
from worldsim.train.recipes.structured.pictures import StageReport, begin_tokenizer, measure_actor, train_pictures
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.video import to_frames
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

SHORT = Schedule(steps=8, batch=8, lr=1e-3, save_every_s=0.0)
RECIPE = StructuredRecipe(
    actor=SHORT, things=SHORT, painter=SHORT, body=SHORT, contact=SHORT, frames=200, unrolls=((2, 0.5), (4, 1.0))
)


class Killed(Exception):
    """Stands for a kill at an awkward moment."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "data", episodes=14)


def recipe(data: Path, out: Path, **changes: object) -> TrainWorld:
    base = TrainWorld(data=str(data), out=str(out), num_starts=4, family="structured", structured=RECIPE, heads=SHORT)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module", autouse=True)
def every_thing_is_kept() -> object:
    """So few steps explain little; what is kept is tested below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldsim.train.recipes.structured.pictures.LEAST_EXPLAINED", -9.0)
        yield


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_world(recipe(data, tmp_path_factory.mktemp("toy") / "world"))


@pytest.fixture(scope="module")
def world(folder: Path) -> LearnedWorld:
    return load_world(folder)


def test_it_keeps_the_contract(world: LearnedWorld) -> None:
    check_world(world)
    assert len(world.members()) == 3


def test_the_manifest_holds_every_stage(folder: Path) -> None:
    manifest = storage.read_manifest(folder, kind="world")
    assert set(manifest["core_seconds"]) == {
        "actor",
        "things",
        "painter",
        "frames",
        "latents",
        "errors",
        "body",
        "contact",
        "heads",
    }
    assert {"canvas_psnr_db", "actor_psnr_db", "things_explain", "thing_0_seen"} <= manifest["stages"].keys()
    assert isinstance(manifest["warnings"], list)


def test_proprioception_is_that_of_the_latent(world: LearnedWorld) -> None:
    starts = world.starts(torch.arange(3))
    state = world.reset(starts, torch.arange(3))
    assert torch.allclose(world.tokenizer.proprio(state.z), starts[STATE], atol=1e-4)
    state, step = world.step(state, torch.ones(3, 2))
    assert torch.allclose(world.tokenizer.proprio(step.latent), step.proprio, atol=1e-5)
    seen = world.see(state, starts, torch.zeros(3, 2))
    layout = world.predictor.config.layout
    kept, alone = (layout.split(z[..., 0, 0]) for z in (seen.z, world.encode(starts)))
    found = alone.seen > LOST  # elsewhere it is where it was expected
    assert torch.allclose(kept.p, alone.p) and torch.allclose(kept.pose[found], alone.pose[found])
    frames = world.roundtrip(starts[IMAGE], proprio=starts[STATE])
    assert frames.shape == starts[IMAGE].shape
    with pytest.raises(InvalidInputError, match="observation"):
        world.roundtrip(starts[IMAGE])


def test_it_plays_in_gymnasium_and_is_ranked_in(world: LearnedWorld, folder: Path, tmp_path: Path) -> None:
    env = gymnasium.make("worldsim/World-v0", world=str(folder))
    env.reset(seed=0)
    observation, _, _, _, _ = env.step(env.action_space.sample() * 0)
    assert observation is not None
    env.close()
    code = tmp_path / "functions.py"
    code.write_text(
        "import numpy as np\n"
        "def still(o):\n    return np.zeros((len(o['observation.state']), 2), np.float32)\n"
        "def look(o):\n    return np.full((len(o['observation.image']), 2), o['observation.image'].mean() / 99, np.float32)\n"
        "still.needs = ['observation.state']\nlook.needs = ['observation.image']\n"
    )
    triage = prepare([f"{code}:still", f"{code}:look"], world=str(folder), k=1, budget=8, workers=1)
    assert len(triage.run(tmp_path / "run", videos=0).labels) == 2


def test_every_camera_has_layers_of_its_own(tmp_path: Path) -> None:
    data = toy.write(tmp_path / "data", episodes=14, sides=True)
    world = load_world(train_world(recipe(data, tmp_path / "world", horizon=6)))
    check_world(world)
    manifest = storage.read_manifest(tmp_path / "world", kind="world")
    assert {"actor_psnr_db/image", "actor_psnr_db/side", "thing_0_seen/side"} <= manifest["stages"].keys()
    starts = world.starts(torch.arange(3))
    _, step = world.step(world.reset(starts, torch.arange(3)), torch.ones(3, 2))
    layout = world.predictor.config.layout  # so few steps find nothing: what there is is drawn all the same
    state = layout.split(step.latent[..., 0, 0])
    shown = layout.join(dataclasses.replace(state, seen=torch.ones_like(state.seen)))[..., None, None]
    for camera in world.spec.cameras:
        drawn = world.decode(shown, camera.key)
        assert tuple(drawn.shape[1:3]) == camera.size and drawn.float().std() > 5
    assert torch.allclose(held_proprio(world.tokenizer, step.latent), step.proprio)
    with pytest.raises(InvalidInputError, match="observation"):
        world.roundtrip(starts[toy.SIDE], toy.SIDE)


class Numbered(StructuredTokenizer):
    """Its tracking numbers the frames of a clip."""

    def track(self, z_BCTHW: torch.Tensor) -> torch.Tensor:
        return z_BCTHW * 0 + torch.arange(z_BCTHW.shape[2])[:, None, None]


def test_episodes_are_followed_in_order(data: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path)
    tokenizer = Numbered(StructuredConfig(image_size=(48, 48), proprio_dim=2)).requires_grad_(False)
    encoded = encode_some(open_data(config), tokenizer, config, [0, 1], tmp_path / "latents", key="")
    for episode in encoded.episodes:
        assert torch.equal(episode.z_FCHW[:, 0, 0, 0], torch.arange(len(episode.z_FCHW)).float())


@pytest.mark.parametrize("stage", ["things", "contact"])
def test_a_killed_training_ends_with_the_same_weights(data: Path, folder: Path, tmp_path: Path, stage: str) -> None:
    config = recipe(data, tmp_path / "world")

    def kill(name: str, step: int, steps: int, values: object) -> None:
        if name == stage:
            raise Killed

    with pytest.raises(Killed):
        train_world(config, progress=kill)
    again = load_world(train_world(config)).state_dict()
    once = load_world(folder).state_dict()
    assert all(torch.equal(once[name], value) for name, value in again.items())


def rows(count: int, *, seed: int, proprio_of: str = "disc") -> FrameRows:
    """Frames of the toy scene; proprioception is the disc's place, or noise."""
    frames, _, spots = scenes.sample(count, seed=seed)
    proprio = torch.tensor(spots, dtype=torch.float32)
    if proprio_of == "noise":
        proprio = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return FrameRows(frames_NCHW=to_frames(frames).movedim(-1, 1).contiguous(), proprio_NP=proprio)


def test_proprioception_that_does_not_show_is_named() -> None:
    tokenizer, report = begin_tokenizer(rows(60, seed=0), RECIPE, seed=0), StageReport()
    measure_actor(tokenizer, rows(20, seed=1, proprio_of="noise"), report)
    assert "constant background" in report.warnings[0]


def test_a_thing_that_explains_nothing_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsim.train.recipes.structured.pictures.LEAST_EXPLAINED", 2.0)
    sample = rows(60, seed=0)
    tokenizer = begin_tokenizer(sample, RECIPE, seed=0)
    made, report = train_pictures(tokenizer, sample, rows(20, seed=1), RECIPE, seed=0, folder=tmp_path, progress=silent)
    assert made.config.things == 0 and made.latent_shape == (2, 1, 1)
    assert any("was not kept" in warning for warning in report.warnings)


def test_what_does_not_fit_is_refused_at_once(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="learns from pictures"):
        train_world(recipe(data, tmp_path / "w", state=True))
    with pytest.raises(InvalidInputError, match="joints"):
        train_world(recipe(data, tmp_path / "v", structured=dataclasses.replace(RECIPE, joints=(5,))))


def test_the_cost_is_estimated(data: Path, tmp_path: Path) -> None:
    stages = [f"structured.{s}.steps=8" for s in ("actor", "things", "painter", "body", "contact")]
    config = resolve("world", [f"data={data}", f"out={tmp_path / 'w'}", "family=structured", *stages])
    text = plan("world", config)
    assert "Tokenizer: structured" in text and "contact 8" in text
