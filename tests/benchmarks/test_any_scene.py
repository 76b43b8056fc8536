"""Places in drawn frames: a perfect world errs by what the detector errs, a shift is measured, a thing that is gone counts half a frame."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import any_scene
from benchmarks.any_scene import CONTEXT, HORIZONS, Drawn, canvas, counted, measure, play, show
from benchmarks.scene_base import Scene
from benchmarks.scene_detector import fit_detector, places
from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Camera, Observation
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.optimize import Schedule

SIZE, STEPS = 32, 38
QUICK = Schedule(steps=120, batch=16, lr=1e-2, warmup=10)


class Toy(Scene):
    """A red disc that actions move by pixels, and a blue one that stays."""

    steps, moves, turns = STEPS, True, False


def draw(place: Tensor) -> Tensor:
    """Frames uint8 [..., H, W, 3] of red and blue discs at x and y, [..., 4] in pixels."""
    axis = torch.arange(SIZE)
    frame = torch.full((*place.shape[:-1], SIZE, SIZE, 3), 120.0)
    for at, color in ((place[..., :2], (230.0, 40.0, 30.0)), (place[..., 2:], (30.0, 60.0, 230.0))):
        square = (axis - at[..., :1, None]).square() + (axis[:, None] - at[..., 1:, None]).square()
        alpha = (2.5 - square.sqrt()).clamp(0, 1)[..., None]
        frame = frame * (1 - alpha) + torch.tensor(color) * alpha
    return frame.round().byte()


def episode(seed: int) -> Episode:
    generator = np.random.default_rng(seed)
    action = np.repeat(generator.uniform(-0.4, 0.4, (1, 2)), STEPS, 0) + generator.normal(0, 0.1, (STEPS, 2))
    thing = generator.uniform(13, 19, 2) + np.concatenate([np.zeros((1, 2)), np.cumsum(action, 0)])
    tip = np.repeat(generator.uniform(6, 26, (1, 2)), STEPS + 1, 0)
    place = np.concatenate([thing, tip], 1).astype(np.float32)
    angle = np.tile(np.array([1, 0], np.float32), (STEPS + 1, 1))
    return Episode(
        frames={IMAGE: draw(torch.tensor(place)).numpy()},
        proprio=place,
        action=action.astype(np.float32),
        true_state=np.concatenate([thing, angle, tip, np.zeros((STEPS + 1, 3))], 1).astype(np.float32),
        success=np.zeros(STEPS + 1, np.float32),
        progress=np.zeros(STEPS + 1, np.float32),
        reward=np.zeros(STEPS, np.float32),
        seed=seed,
    )


class Exact:
    """A world that knows where everything is."""

    spec = SimpleNamespace(cameras=(Camera(height=SIZE, width=SIZE),))

    def reset(self, starts: Observation, keys: Tensor) -> Tensor:
        return starts[STATE]

    def see(self, state: Tensor, seen: Observation, action: Tensor) -> Tensor:
        torch.testing.assert_close(state[:, :2] + action, seen[STATE][:, :2], rtol=0, atol=1e-3)
        return seen[STATE]

    def rollout(self, state: Tensor, actions: Tensor) -> tuple[Tensor, SimpleNamespace]:
        place = state[:, None].repeat(1, actions.shape[1], 1)
        place[..., :2] += actions.cumsum(1)
        return place[:, -1], SimpleNamespace(latent=place)

    def decode(self, latent: Tensor) -> Tensor:
        return draw(latent)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    action = ActionSpec(names=("x", "y"), units=("px", "px"), low=(-3, -3), high=(3, 3), rate_hz=10)
    spec = RecordSpec(action=action, cameras=Exact.spec.cameras, proprio_dim=4, true_state_dim=9)
    path = tmp_path_factory.mktemp("scene") / "data"
    with episode_writer(path, spec) as writer:
        for seed in range(24):
            writer.write(episode(seed))
    return open_dataset(path)


def test_worlds_are_measured_by_what_they_draw(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    detector = fit_detector(dataset, range(20), Toy, tmp_path_factory.mktemp("detector"), QUICK)
    played = play(Exact(), dataset, range(20, 24))
    assert all((played.drawn[h].int() - played.true[h].int()).abs().max() <= 2 for h in HORIZONS)
    windows = 4 * len(range(0, STEPS + 1 - (CONTEXT - 1 + HORIZONS[-1]), any_scene.EVERY))
    assert len(played.true[0]) == windows and 0 < counted(played, Toy, 32).sum() <= windows
    background = canvas(dataset, range(20))
    found = measure(played, detector, Toy, background)
    assert found["detector: thing px at 32, median"] < 1.2  # half a pixel of these frames is one of 64
    assert found["thing px at 32, median"] == pytest.approx(found["detector: thing px at 32, median"], abs=0.1)
    assert found["thing there at 32"] == 1 and found["psnr at 32"] > 40 > found["background: psnr at 32"]
    assert found["least psnr above copying and background"] == pytest.approx(
        min(
            found[f"psnr at {h}"] - max(found[f"{o}: psnr at {h}"] for o in ("copying", "background")) for h in HORIZONS
        ),
        abs=1e-3,
    )
    assert "degrees at 32, median" not in found
    shifted = dataclasses.replace(played, drawn={h: frame.roll(3, 2) for h, frame in played.drawn.items()})
    assert measure(shifted, detector, Toy, background)["thing px at 32, median"] == pytest.approx(6, abs=1.2)
    empty = {h: torch.full_like(frame, 120) for h, frame in played.drawn.items()}
    gone = measure(dataclasses.replace(played, drawn=empty), detector, Toy, background)
    assert (gone["thing there at 32"], gone["thing px at 32, mean"]) == (0, 32)
    assert show(played, Toy).startswith(b"\x89PNG")


def test_windows_count_whose_thing_moves_and_is_in_view() -> None:
    state = torch.zeros(3, 9)
    state[:, :2] = torch.tensor([[10.0, 10.0], [10.0, 10.0], [31.5, 10.0]])
    after = state.clone()
    after[:, 0] += torch.tensor([1.0, 2.0, -5.0])  # 2, 4 and 10 px of 64
    frames = torch.zeros(3, SIZE, SIZE, 3, dtype=torch.uint8)
    played = Drawn(true={0: frames, 16: frames}, drawn={}, state={0: state, 16: after})
    assert counted(played, Toy, 16).tolist() == [False, True, True]
    state[2, 0] = 33
    assert counted(played, Toy, 16).tolist() == [False, True, False]


def test_angles_are_compared_up_to_the_symmetry() -> None:
    def turned(degrees: float) -> Tensor:
        return torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]])

    assert any_scene._degrees(turned(350), turned(10), 1).item() == pytest.approx(20, abs=1e-3)
    assert any_scene._degrees(turned(350), turned(10), 4).item() == pytest.approx(5, abs=1e-3)


def test_a_thing_of_two_ends_is_found_at_either() -> None:
    class Spinner(Toy):
        pivot = (0.5, 0.25)

    at = places(torch.tensor([[12.0, 9.0, 0, 0, 0, 0, 0, 0, 0]]), Spinner, (SIZE, SIZE))
    assert at.tolist() == [[[12.0, 9.0], [19.0, 6.0]]]
