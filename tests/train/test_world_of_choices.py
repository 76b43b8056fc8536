"""A world learned from data whose actions are of several parts, one of them a choice: trained, played, planned in."""

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.train import test_world_state as toy
from worldsim.core import Camera, WorldSpec
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.evaluate.closed_loop import prepare
from worldsim.evaluate.planner_refs import PlannerSettings, planner_refs, planner_remarks
from worldsim.planners.mpc import MPC
from worldsim.planners.registry import make_planner
from worldsim.rollout.wrappers import WrappedWorld
from worldsim.spaces import action_spec
from worldsim.testing import check_env, check_world
from worldsim.worlds.state import StateWorld

SPACE = spaces.Dict({"across": spaces.Box(-1, 1, (1,)), "up": spaces.Discrete(3, start=-1)})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> StateWorld:
    path = tmp_path_factory.mktemp("choices")
    spec = RecordSpec(
        action=action_spec(SPACE, rate_hz=10),
        cameras=(Camera(height=toy.PX, width=toy.PX),),
        proprio_dim=2,
        true_state_dim=4,
        has_success=False,
        has_progress=False,
    )
    with episode_writer(path / "data", spec) as writer:
        for i in range(20):
            one = toy.episode(i)
            up = np.digitize(one.action[:, 1:], [-1, 1]).astype(np.float32)
            writer.write(dataclasses.replace(one, action=np.concatenate([one.action[:, :1] / 3, up], axis=1)))
    return toy.trained(str(path / "data"), path / "world")


def test_it_reads_choices_as_one_hot_and_takes_the_original_actions(world: StateWorld) -> None:
    assert world.spec.action.encoded_dim == world.predictor.config.action_dim == world.heads.config.action_dim == 4
    check_world(world)
    env = gymnasium.make("worldsim/World-v0", world=world, obs_type="environment_state_agent_pos")
    assert env.action_space == SPACE
    check_env(env)


def test_near_choices_are_the_same_choice_and_others_are_not(world: StateWorld) -> None:
    state = world.reset(world.starts(torch.tensor([0])), torch.tensor([0]))

    def place(up: float) -> torch.Tensor:
        return world.step(state, torch.tensor([[0.5, up]]))[1].latent

    assert torch.equal(place(1.0), place(1.4))
    assert not torch.equal(place(1.0), place(2.0))


@pytest.mark.parametrize("name", ["cem", "categorical", "hybrid"])
def test_planners_search_it(world: StateWorld, name: str) -> None:
    starts = world.starts(torch.arange(2))
    mpc = MPC(make_planner(name, horizon=3, samples=16), world)
    action, _ = mpc.act({k: starts[k] for k in mpc.needs}, mpc.initial(2), torch.arange(2))
    checked = world.spec.action.check(action)
    assert set(checked[:, 1].tolist()) <= {0.0, 1.0, 2.0}


def test_a_planner_says_what_it_makes_of_choices(world: StateWorld, tmp_path: Path) -> None:
    world.save_pretrained(tmp_path / "world")
    for name, end in (("cem", "to be alike."), ("hybrid", "do not reach it.")):
        few = PlannerSettings(planner=name, horizon=3, samples=16)
        failing, remark = prepare(str(tmp_path / "world"), few, episodes=1, where="world").remarks
        assert failing.startswith(
            "Plans rest on a world that fails on its own held-out episodes."
        )  # a toy, trained briefly
        assert remark.startswith("up in this world: a choice.") and remark.endswith(end)
    assert len(planner_remarks(planner_refs(["planner:cem"], world=str(tmp_path / "world")))) == 2
    assert planner_remarks(planner_refs(["planner:cem"], world="push_state")) == []


class Chosen(WrappedWorld):
    """A world of choices only."""

    @property
    def spec(self) -> WorldSpec:
        return dataclasses.replace(super().spec, action=action_spec(spaces.Discrete(3), rate_hz=10))


@pytest.mark.parametrize(("name", "words"), [("gradient", "no gradient reaches"), ("categorical", "one-hot")])
def test_a_planner_that_cannot_search_choices_is_refused(world: StateWorld, name: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        PlannerSettings(planner=name, horizon=3, samples=16).controller(Chosen(world))
