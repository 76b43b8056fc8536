"""Held-out episodes against what a world predicts, and the command's refusal of recordings of another robot."""

import dataclasses
import types
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.train import toy
from worldsim.data.lerobot.read import open_dataset
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import InvalidInputError
from worldsim.evaluate.check import check_world
from worldsim.evaluate.open_loop import Errors, choose_horizons, drawn_share, read_recorded
from worldsim.evaluate.validity import compare_spread, count_outcomes, measure_validity
from worldsim.optimize import Schedule
from worldsim.train.recipes.errors import make_errors
from worldsim.train.recipes.predictor import PredictorRecipe
from worldsim.train.recipes.tokenizer import TokenizerRecipe
from worldsim.train.recipes.world import TrainWorld, train_world
from worldsim.validity.validity import Outcomes
from worldsim.worlds import load_world, world_spec
from worldsim.worlds.latent import LatentWorld


class Walk(gymnasium.Env):
    """A place that its actions move; beyond 2 is the goal."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(1, np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + action
        return self.place.copy(), 0.0, False, False, {"is_success": bool(self.place[0] > 2)}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

    def get_state(self):
        return self.place.astype(np.float64)

    def set_state(self, state):
        self.place = state.astype(np.float32)


def test_each_episode_is_judged_at_its_own_end() -> None:
    taken = [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1],  # ends early, solved
        [1, 1, 1, -1, -1, -1],  # was solved on its way only
        [0, 0, 0, 0],
    ]
    success = [(torch.tensor([0.0, *a]).cumsum(0) > 2).float() for a in taken]
    world, keys = SimulatorWorld(Walk(), horizon=6), torch.arange(4)
    actions = torch.tensor([[*a, *[0] * (6 - len(a))] for a in taken], dtype=torch.float32)[..., None]
    said = world.rollout(world.reset(world.starts(keys), keys), actions)[1].success > 0.5
    assert count_outcomes(said, success, success_at="end") == Outcomes(
        solved=2, unsolved=2, solved_right=1.0, unsolved_right=1.0
    )
    success[1][-1] = 0  # what was recorded says otherwise than the world
    found = count_outcomes(said, success, success_at="end")
    assert found is not None and found.unsolved_right == pytest.approx(2 / 3, abs=1e-3) and found.solved == 1
    success[0][:] = torch.nan  # it is not known
    found = count_outcomes(said, success, success_at="end")
    assert found is not None and found.solved == 0 and found.solved_right is None
    assert count_outcomes(said, [torch.full((7,), torch.nan)] * 4, success_at="any") is None


def test_progress_is_compared_by_its_mean_though_most_episodes_stay_where_they_began() -> None:
    said = torch.tensor([0.1] * 9 + [0.6])[:, None]  # absolute errors sum to 1.3, those of saying 0 to 1
    kind = {"quantity": "progress", "unit": "progress", "constant": torch.ones(10, 1)}
    truth = torch.tensor([0.0] * 9 + [1.0])[:, None]
    found = Errors(**kind, world=(said - truth).abs(), copying=truth).curve([8])
    assert found is not None and found.world == (0.15811,) and found.copying == (0.31623,) and found.beats(0)


def test_horizons_are_those_to_which_enough_episodes_last() -> None:
    assert choose_horizons([12, 12, 12], 1) == (1, 2, 4, 8, 12)
    assert choose_horizons([30, 30, 30, 90], 1) == (1, 2, 4, 8, 12, 16, 24, 30)
    assert choose_horizons([10, 10, 10], 4) == (4, 8) and choose_horizons([], 1) == ()
    assert choose_horizons([5], 1) == (1, 2, 4, 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a world trained on it, and recordings of another seed."""
    place = tmp_path_factory.mktemp("valid")
    toy.write(place / "data")
    config = TrainWorld(
        data=str(place / "data"),
        out=str(place / "world"),
        num_starts=4,
        tokenizer=TokenizerRecipe(schedule=Schedule(steps=10, batch=8, lr=1e-3)),
        predictor=PredictorRecipe(
            options={"width": 24, "members": 2}, schedule=Schedule(steps=400, batch=64, lr=5e-3), unrolls=((1, 1.0),)
        ),
        heads=Schedule(steps=40, batch=64, lr=3e-3),
    )
    train_world(config)
    return place


def test_train_world_measures_and_the_folder_keeps_it(place: Path) -> None:
    validity = world_spec(place / "world").validity
    assert validity is not None and load_world(place / "world").spec.validity == validity
    assert validity.episodes == 6 and validity.read_from == ("place of thing 1",)  # the L; the disc is the robot
    disc = validity.curve("place of robot layer 2")
    assert disc is not None and disc.horizons == (1, 2, 4, 8, 12) and disc.beats(3)
    assert disc.bound == (None,) * 5  # six episodes are too few to state any
    assert validity.response is not None and 0.1 < validity.response.score < 1
    assert validity.drawn is not None and 0.5 < validity.drawn <= 1
    assert validity.coverage is not None and validity.coverage.action_high[0] == pytest.approx(3, abs=0.1)


def test_train_world_learns_how_far_off_its_world_is(place: Path) -> None:
    world, dataset = load_world(place / "world"), open_dataset(place / "data")
    assert world.errors is not None and world.errors.config.horizons == (1, 2, 4, 8, 12)
    spread, curve = world.spec.validity.spread, world.spec.validity.curve("place of thing 1")
    assert spread.rises and spread.quantity == "place of thing 1" and curve is not None
    made = make_errors(world, dataset.used[::10], dataset)  # those held out
    assert made is not None and made.step.unique().tolist() == [1, 2, 4, 8, 12]
    at_end = made.rows(made.step == 12)
    assert float(at_end.error.mean()) == pytest.approx(curve.world[-1], abs=1e-4)
    assert float(at_end.constant.mean()) == pytest.approx(curve.constant[-1], abs=1e-4)
    known = world.errors(at_end.done)
    assert spread.mean[-1] == pytest.approx(float(known.mean()), rel=0.2)  # of all, and of those whose thing is seen


def test_what_a_world_does_not_draw_is_no_part_of_its_pictures(place: Path) -> None:
    world, dataset = load_world(place / "world"), open_dataset(place / "data")
    assert isinstance(world, LatentWorld)
    recorded = read_recorded(world.spec, dataset.used[:8], dataset)
    assert recorded is not None
    drawn = drawn_share(world, recorded)
    assert drawn is not None and 0.5 < drawn <= 1
    half = {key: frames.clone() for key, frames in recorded.frames.items()}
    for frames in half.values():  # what lies in the left half was never seen in training
        frames[..., : frames.shape[3] // 2, :] = torch.randint(0, 255, frames[..., : frames.shape[3] // 2, :].shape)
    lost = drawn_share(world, dataclasses.replace(recorded, frames=half))
    assert lost is not None and lost < drawn - 0.2
    same = {key: frames[:1, :1].expand_as(frames) for key, frames in recorded.frames.items()}
    assert drawn_share(world, dataclasses.replace(recorded, frames=same)) is None


def test_measuring_again_finds_the_same_and_writes_it_without_another_digest(place: Path) -> None:
    folder, data = str(place / "world"), str(place / "data")
    weights = (place / "world" / "config.json").read_bytes()
    again = check_world(folder, data)
    assert again.validity == world_spec(folder).validity and "only those held out are used" in again.remarks[0]
    toy.write(place / "others", episodes=12)
    others = check_world(folder, str(place / "others"), write=True)
    assert not others.remarks and others.validity.episodes == 12 and others.picture is not None
    assert world_spec(folder).validity == others.validity == check_world(folder).validity
    assert (place / "world" / "config.json").read_bytes() == weights
    assert others.validity.curves[0].bound[0] is not None


def test_recordings_of_another_robot_are_refused(place: Path, tmp_path: Path) -> None:
    toy.write(tmp_path / "sides", episodes=2, sides=True)
    with pytest.raises(InvalidInputError, match="its cameras are"):
        check_world(str(place / "world"), str(tmp_path / "sides"))
    with pytest.raises(InvalidInputError, match="its actions are x, y, the world's vx, vy"):
        check_world("push", str(place / "data"))
    with pytest.raises(InvalidInputError, match="nothing to write without"):
        check_world("push", write=True)


def test_a_world_whose_motions_are_reversed_is_found_out(place: Path) -> None:
    world, dataset = load_world(place / "world"), open_dataset(place / "data")
    held = dataset.used[::10]
    for name, parameter in world.predictor.named_parameters():
        if "2" in name.split("."):  # of the last layers
            parameter.data.neg_()
    turned = measure_validity(world, held, dataset).validity
    disc = turned.curve("place of robot layer 2")
    assert disc is not None and disc.reach == 0 and turned.usable is False


def test_the_spread_is_compared_with_what_is_known_of_every_episode() -> None:
    known = torch.arange(10.0)[:, None] + 1
    seen, hidden = known.clone(), torch.full((10, 1), float("nan"))
    hidden[0] = 1.0  # a second thing, which most episodes do not show
    errors = [
        Errors(quantity=f"place of thing {i}", unit="px", world=e, copying=e, constant=e)
        for i, e in ((1, seen), (2, hidden))
    ]
    recorded = types.SimpleNamespace(horizons=(8,), lasts=torch.ones(10, 1, dtype=torch.bool))
    found = compare_spread(recorded, types.SimpleNamespace(spread_EJ=known), errors)  # type: ignore[arg-type]
    assert found is not None and found.rank == (1.0,) and found.mean == (5.5,)
