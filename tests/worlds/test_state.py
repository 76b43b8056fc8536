"""State worlds: untrained ones for shapes and contracts, the shipped one against the simulator."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.toy import ACTION
from worldsim.core import IMAGE, SIMULATOR, STATE, TRUE_STATE, WorldSpec
from worldsim.data.starts import Starts
from worldsim.envs.push.env import PushEnv
from worldsim.errors import InvalidInputError
from worldsim.policies.scripted import PushExpert
from worldsim.predict.mlp import MLPConfig, MLPPredictor
from worldsim.predict.rigid import RigidConfig, RigidPredictor
from worldsim.protocols import Drawable, require_drawable
from worldsim.testing import check_world
from worldsim.tokenizers.state import IdentityConfig, IdentityTokenizer, PosesTokenizer
from worldsim.worlds import load_world
from worldsim.worlds.heads import Heads, HeadsConfig
from worldsim.worlds.state import StateWorld

PX = 8


def make(kind: str) -> StateWorld:
    """An untrained state world whose predictor is disturbed, so that its predictions differ from standing still."""
    torch.manual_seed(0)
    yaw = torch.rand(64) * 2 * math.pi
    state = torch.cat([torch.rand(64, 2) * 20 - 10, yaw.cos()[:, None], yaw.sin()[:, None]], dim=1)
    body = torch.rand(64, 2) * 20 - 10
    dims = {"proprio_dim": 2, "action_dim": 2}
    small = {**dims, "members": 2, "width": 16}
    if kind == "poses":
        tokenizer = PosesTokenizer.fit(state, body)
        shape = tokenizer.latent_shape
        predictor = RigidPredictor(RigidConfig(latent_shape=shape, orders=tokenizer.config.orders, **small))
    else:
        tokenizer = IdentityTokenizer(IdentityConfig(size=4))
        shape = tokenizer.latent_shape
        predictor = MLPPredictor(MLPConfig(latent_shape=shape, **small))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    starts = Starts({IMAGE: torch.zeros(64, PX, PX, 3, dtype=torch.uint8), STATE: body, TRUE_STATE: state})
    spec = WorldSpec(action=ACTION, observes=(TRUE_STATE, STATE), latent_shape=shape, proprio_dim=2, horizon=6)
    heads = Heads(HeadsConfig(latent_shape=shape, **dims))
    return StateWorld(spec=spec, tokenizer=tokenizer, predictor=predictor, heads=heads, starts=starts)


@pytest.fixture(params=["poses", "identity"])
def world(request: pytest.FixtureRequest) -> StateWorld:
    return make(request.param)


def test_keeps_the_contract(world: StateWorld) -> None:
    check_world(world)


def test_saving_and_loading_changes_nothing(world: StateWorld, tmp_path: Path) -> None:
    world.save_pretrained(tmp_path / "world")
    again = load_world(tmp_path / "world")
    starts = world.starts(torch.arange(3))
    first = [w.step(w.reset(starts, torch.arange(3)), torch.ones(3, 2))[1].true_state for w in (world, again)]
    assert torch.equal(*first)


def test_an_episode_begins_where_its_true_state_says(world: StateWorld) -> None:
    starts = world.starts(torch.arange(5))
    state = world.reset(starts, torch.arange(5))
    held = world.tokenizer.decode(state.start[:, :, None])[:, :4, 0, 0, 0]
    assert torch.allclose(held, starts[TRUE_STATE], atol=1e-5)
    assert torch.equal(state.proprio, starts[STATE])


def test_each_step_says_what_its_latent_holds(world: StateWorld) -> None:
    end, rollout = world.rollout(world.reset(world.starts(torch.arange(4)), torch.arange(4)), torch.ones(4, 3, 2))
    held = world.tokenizer.decode(rollout.latent.flatten(0, 1)[:, :, None])[..., 0, 0, 0].unflatten(0, (4, 3))
    assert torch.equal(rollout.true_state, held[..., :4])
    if held.shape[-1] > 4:  # poses hold the body too
        assert torch.equal(rollout.proprio, held[..., 4:])
    assert torch.equal(end.proprio, rollout.proprio[:, -1])


def test_the_cost_of_a_rollout_tells_its_actions_where_to_go(world: StateWorld) -> None:
    state = world.reset(world.starts(torch.arange(4)), torch.arange(4))
    actions = torch.zeros(4, 3, 2, requires_grad=True)
    _, rollout = world.rollout(state, actions)
    assert rollout.true_state is not None
    rollout.true_state[..., :2].sum().backward()
    assert actions.grad is not None
    assert bool((actions.grad.abs() > 0).all()) and bool(actions.grad.isfinite().all())


def test_what_is_seen_takes_the_place_of_what_was_predicted(world: StateWorld) -> None:
    state = world.reset(world.starts(torch.arange(2)), torch.arange(2))
    seen = world.starts(torch.arange(2, 4))
    following = world.see(state, seen, torch.ones(2, 2))
    there = world.reset(seen, torch.arange(2))
    assert torch.equal(following.z, there.start)
    assert torch.equal(following.carry.z[:, -1], there.start)
    assert torch.equal(following.carry.z[:, 0], state.z)
    assert torch.equal(following.proprio, seen[STATE])


@pytest.mark.parametrize("broken", [{}, {TRUE_STATE: torch.zeros(2, 3)}, {TRUE_STATE: None}])
def test_starts_without_a_true_state_are_refused(world: StateWorld, broken: dict[str, torch.Tensor | None]) -> None:
    starts = {**world.starts(torch.arange(2)), **broken} if broken else {}
    with pytest.raises(InvalidInputError, match=TRUE_STATE):
        world.reset({k: v for k, v in starts.items() if v is not None}, torch.arange(2))


def test_it_draws_no_pictures(world: StateWorld) -> None:
    assert not isinstance(world, Drawable)
    with pytest.raises(InvalidInputError, match="cannot draw"):
        require_drawable(world)


@pytest.fixture(scope="module")
def shipped() -> StateWorld:
    world = load_world("push_state")
    assert isinstance(world, StateWorld)
    return world


def test_the_shipped_world_keeps_the_contract(shipped: StateWorld) -> None:
    check_world(shipped)


def test_the_shipped_world_starts_where_the_simulator_can(shipped: StateWorld) -> None:
    starts = shipped.starts(torch.arange(shipped.num_starts))
    env = PushEnv("environment_state_agent_pos")
    env.reset(seed=0)
    for i in (0, shipped.num_starts - 1):
        env.set_state(starts[SIMULATOR][i].numpy())
        assert np.allclose(env.environment_state(), starts[TRUE_STATE][i])
        assert np.allclose(env.agent_pos(), starts[STATE][i])


def test_the_shipped_world_follows_the_simulator(shipped: StateWorld) -> None:
    """Open loop over 16 expert steps from starts that no dataset holds."""
    env, expert, steps, block_mm, pusher_mm = PushEnv("environment_state_agent_pos"), PushExpert(), 16, [], []
    for seed in range(9_100_000, 9_100_024):
        track, actions, carry = [env.reset(seed=seed)[0]], [], expert.initial(1)
        for t in range(steps):
            action, carry = expert.act(_observation(track[-1]), carry, torch.tensor([t]))
            track.append(env.step(action[0].numpy())[0])
            actions.append(action)
        state = shipped.reset(_observation(track[0]), torch.tensor([seed]))
        _, rollout = shipped.rollout(state, torch.stack(actions, dim=1))
        last = _observation(track[-1])
        assert rollout.true_state is not None
        block_mm.append(float((rollout.true_state[:, -1] - last[TRUE_STATE])[:, :2].norm()) * 1000)
        pusher_mm.append(float((rollout.proprio[:, -1] - last[STATE]).norm()) * 1000)
    assert float(np.mean(block_mm)) < 6
    assert float(np.mean(pusher_mm)) < 3


def _observation(seen: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    keys = {STATE: "agent_pos", TRUE_STATE: "environment_state"}
    return {k: torch.from_numpy(seen[name])[None] for k, name in keys.items()}


def test_each_member_imagines_its_own_part_of_the_mean(world: StateWorld) -> None:
    """One step: the members' latents average to the ensemble's, their spread is its uncertainty; weights are shared."""
    before = torch.random.get_rng_state()
    members = world.members()
    assert torch.equal(torch.random.get_rng_state(), before)  # no random number is spent on weights that are there
    assert len(members) == 2
    state = world.reset(world.starts(torch.arange(4)), torch.arange(4))
    action = torch.rand(4, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    _, mean = world.step(state, action)
    each = [m.step(state, action)[1] for m in members]
    place = torch.stack([e.true_state for e in each])[..., :2]
    assert torch.allclose(place.mean(0), mean.true_state[:, :2], atol=1e-4)
    assert bool((place[0] != place[1]).any())
    assert all(bool((e.uncertainty == 0).all()) for e in each)
    for member in members:
        check_world(member)
    with torch.no_grad():
        for parameter in world.predictor.parameters():
            parameter.zero_()
    assert all(float(p.abs().max()) == 0 for m in members for p in m.predictor.parameters())
