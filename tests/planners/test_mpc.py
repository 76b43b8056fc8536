import dataclasses
from typing import Any

import pytest
import torch

from tests.planners.plane import SPEC, ChunkedPlane, Plane, Plant, drive
from tests.validity.examples import curve, validity
from worldsim.core import IMAGE, STATE, WorldSpec
from worldsim.errors import InvalidInputError
from worldsim.planners import Limits, make_planner
from worldsim.planners.costs import progress
from worldsim.planners.mpc import MPC, MPCCarry
from worldsim.planners.splines import Spline
from worldsim.planners.world_objective import world_objective
from worldsim.testing import check_policy, check_world
from worldsim.worlds import load_world


def mpc(name: str = "weighted", *, horizon: int = 6, samples: int = 48, iterations: int = 3, **options: Any) -> MPC:
    return MPC(make_planner(name, horizon=horizon, samples=samples, iterations=iterations), Plane(), **options)


def episode(carry: MPCCarry, i: int) -> list[torch.Tensor]:
    """Everything that is remembered of one episode."""
    known = [carry.begun, carry.left, carry.queue, carry.action, carry.search.mean, carry.search.std]
    assert carry.belief is not None
    known += [getattr(carry.belief, f.name) for f in dataclasses.fields(carry.belief)]
    return [value[i] for value in known]


def test_the_toy_world_is_one() -> None:
    check_world(Plane())


@pytest.mark.parametrize("options", [{}, {"receding": 2, "repeat": 2}, {"warm": False}], ids=str)
@pytest.mark.parametrize("name", ["weighted", "hybrid"])
def test_it_is_a_policy(name: str, options: dict) -> None:
    check_policy(mpc(name, **options), SPEC)


def test_it_is_a_policy_in_a_learned_world() -> None:
    world = load_world("push_state")
    check_policy(MPC(make_planner("cem", horizon=4, samples=24, iterations=2), world), world.spec)


def test_it_arrives_and_stays() -> None:
    _, _, plant = drive(mpc("hybrid", horizon=10, samples=64), 25)
    assert float(plant.away().max()) < 0.1
    assert float(Plant(3).away().min()) > 0.9


@pytest.mark.parametrize(("receding", "repeat", "plans"), [(1, 1, 12), (3, 1, 4), (1, 4, 3), (2, 3, 2), (6, 2, 1)])
def test_it_plans_when_what_was_planned_is_acted_out(receding: int, repeat: int, plans: int) -> None:
    policy = mpc(receding=receding, repeat=repeat)
    actions, carry, _ = drive(policy, 12)
    assert carry.plans == plans
    held = actions.unflatten(1, (-1, repeat))
    assert bool((held == held[:, :, :1]).all())
    plan = carry.plan
    assert plan is not None
    assert torch.equal(actions[:, -receding * repeat :: repeat], plan.actions[:, :receding])


def test_a_held_action_is_imagined_as_held() -> None:
    """A horizon of 6 with repeat 4 looks 24 steps ahead."""
    policy, world = mpc(repeat=4), Plane()
    _, carry, _ = drive(policy, 1)
    state = world.reset(Plant(3).seen(), torch.arange(3))
    cost: Any = world_objective(world, state, progress, repeat=4)
    assert carry.plan is not None
    assert torch.allclose(carry.plan.cost, cost(carry.plan.actions[:, None])[:, 0])


@pytest.mark.parametrize("receding", [1, 2])
def test_a_warm_start_is_the_last_plan_shifted(receding: int) -> None:
    policy = mpc(receding=receding)
    _, carry, plant = drive(policy, 1)
    first = carry.plan
    assert first is not None
    assert torch.equal(carry.search.mean, first.state.shift(receding).mean)
    assert torch.equal(carry.search.elites, first.state.shift(receding).elites)
    for t in range(receding):
        action, carry = policy.act(plant.seen(), carry, torch.arange(3) + t)
        plant.act(action)
    world = Plane()
    assert carry.plan is not first and carry.belief is not None
    if receding == 1:
        cost: Any = world_objective(world, carry.belief)
        shifted = cost(first.state.shift(1).mean[:, None])[:, 0]
        assert bool((carry.plan.cost <= shifted + 1e-6).all())  # type: ignore[union-attr]


def test_a_cold_start_knows_nothing_of_the_last_plan() -> None:
    policy = mpc(warm=False)
    _, carry, _ = drive(policy, 2)
    fresh = policy.initial(3)
    assert torch.equal(carry.search.mean, fresh.search.mean) and carry.search.elites.shape[1] == 0


def test_warm_starts_pay_where_the_budget_is_small() -> None:
    """Distance summed over the way, half the samples of a plan that would do alone."""

    def total(warm: bool) -> float:
        away = 0.0
        for seed in range(3):
            policy, plant = mpc("weighted", horizon=8, samples=16, iterations=1, warm=warm), Plant(6)
            carry = policy.initial(6)
            for t in range(16):
                action, carry = policy.act(plant.seen(), carry, torch.arange(6) + 1000 * seed + 50 * t)
                plant.act(action)
                away += float(plant.away().sum())
        return away

    assert total(True) < total(False)


@pytest.mark.parametrize("receding", [1, 3])
def test_an_episode_that_is_reset_begins_as_a_fresh_one(receding: int) -> None:
    """Whatever the others do: its actions and its memory are those of a first step."""
    policy = mpc(receding=receding)
    _, carry, _ = drive(policy, 4)
    done, plant, keys = torch.tensor([False, True, False]), Plant(3), torch.arange(3) + 7
    again = policy.reset(carry, done)
    assert torch.equal(again.search.mean[0], carry.search.mean[0])
    fresh = policy.initial(3)
    for t in range(4):
        mixed, again = policy.act(plant.seen(), again, keys + t)
        first, fresh = policy.act(plant.seen(), fresh, keys + t)
        plant.act(first)
        assert torch.equal(mixed[1], first[1])
    assert all(torch.equal(a, b) for a, b in zip(episode(again, 1), episode(fresh, 1), strict=True))


def test_others_go_on_when_one_is_reset() -> None:
    policy = mpc()
    _, carry, plant = drive(policy, 3)
    alone, _ = policy.act(plant.seen(), carry, torch.arange(3) + 9)
    mixed, _ = policy.act(plant.seen(), policy.reset(carry, torch.tensor([False, True, False])), torch.arange(3) + 9)
    assert torch.equal(mixed[0], alone[0]) and torch.equal(mixed[2], alone[2])
    assert not torch.equal(mixed[1], alone[1])


def test_the_belief_is_what_was_seen_one_after_the_other() -> None:
    policy, world, plant = mpc(receding=3), Plane(), Plant(3)
    carry, keys = policy.initial(3), torch.arange(3)
    expected = world.reset(plant.seen(), keys)
    action, carry = policy.act(plant.seen(), carry, keys)
    for t in range(4):
        seen = plant.act(action)
        expected = world.see(expected, seen, action)
        action, carry = policy.act(seen, carry, keys + t)
        assert carry.belief is not None
        for field in dataclasses.fields(expected):
            assert torch.equal(getattr(carry.belief, field.name), getattr(expected, field.name))
    assert bool((expected.speed != 0).all())


def test_a_learned_worlds_belief_holds_the_frames_that_were_seen() -> None:
    world = load_world("push_state")
    policy = MPC(make_planner("cem", horizon=3, samples=16, iterations=1), world)
    carry, keys = policy.initial(2), torch.arange(2)
    seen = [{k: world.starts(torch.arange(t, t + 2))[k] for k in policy.needs} for t in range(3)]
    expected = world.reset(seen[0], keys)
    action, carry = policy.act(seen[0], carry, keys)
    for observation in seen[1:]:
        expected = world.see(expected, observation, action)
        action, carry = policy.act(observation, carry, keys)
    assert carry.belief.to_bytes() == expected.to_bytes()


def test_a_world_that_cannot_see_begins_again_at_every_observation() -> None:
    blind = type("Blind", (Plane,), {"see": None})()
    _, carry, _ = drive(MPC(make_planner("cem", horizon=3, samples=16, iterations=1), blind), 3)
    assert not bool(carry.belief.step.any()) and not bool(carry.belief.speed.any())


def test_observations_that_are_missing_are_named() -> None:
    policy = mpc()
    with pytest.raises(InvalidInputError, match=r"missing \['observation.state'\]"):
        policy.act({IMAGE: torch.zeros(3, 4, 4, 3)}, policy.initial(3), torch.arange(3))
    assert policy.needs == {STATE}


def test_what_is_seen_beyond_the_need_is_left_alone() -> None:
    policy, plant = mpc(), Plant(3)
    more = dict(plant.seen()) | {IMAGE: torch.zeros(3, 4, 4, 3)}
    one, _ = policy.act(more, policy.initial(3), torch.arange(3))
    other, _ = policy.act(plant.seen(), policy.initial(3), torch.arange(3))
    assert torch.equal(one, other)


@pytest.mark.parametrize("wrong", [{"receding": 0}, {"receding": 7}, {"repeat": 0}])
def test_what_cannot_be_acted_out_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError, match="receding is between 1 and the horizon 6"):
        mpc(**wrong)


def test_suggestions_and_limits_reach_the_search() -> None:
    good = mpc("hybrid", samples=128)
    plan = drive(good, 1)[1].plan
    assert plan is not None
    limited = mpc("cem", iterations=1, prior=lambda world, state: plan.actions[:, None], limits=Limits(budget=60))
    found = drive(limited, 1)[1].plan
    assert found is not None
    assert bool((found.cost <= plan.cost + 1e-6).all()) and found.stats.evaluations <= 60
    idle, _, _ = drive(mpc(limits=Limits(deadline_s=0.0)), 1)
    assert torch.equal(idle[:, 0], torch.zeros(3, 2))


def test_another_objective() -> None:
    """Away from the origin instead of towards it."""
    policy = mpc(objective=lambda world, state: world_objective(world, state, lambda f, a: f.progress))
    _, _, plant = drive(policy, 5)
    assert bool((plant.away() > Plant(3).away()).all())


def test_a_block_holds_distinct_actions() -> None:
    """Three planned steps of two actions each reach as far as six steps of one, and are executed one by one."""
    policy = mpc(horizon=3, block=2, receding=2)
    actions, carry, _ = drive(policy, 8)
    assert carry.plans == 2
    plan = carry.plan
    assert plan is not None
    assert plan.actions.shape == (3, 3, 4)
    assert torch.equal(actions[:, -4:], plan.actions[:, :2].reshape(3, 4, 2))
    low, high = torch.tensor(SPEC.action.low), torch.tensor(SPEC.action.high)
    assert bool(((actions >= low) & (actions <= high)).all())
    state = Plane().reset(Plant(3).seen(), torch.arange(3))
    blocks: Any = world_objective(Plane(), state, progress, block=2)
    steps: Any = world_objective(Plane(), state, progress)
    assert torch.allclose(blocks(plan.actions[:, None]), steps(plan.actions.reshape(3, 1, 6, 2)))


def chunked(**options: Any) -> MPC:
    return MPC(make_planner("weighted", horizon=3, samples=48, iterations=3), ChunkedPlane(), **options)


def test_a_world_that_takes_two_actions_a_step_is_planned_in_by_two_and_acted_in_one_by_one() -> None:
    policy = chunked()
    actions, carry, plant = drive(policy, 20)
    assert carry.plan.actions.shape == (3, 3, 4) and carry.plans == 10
    assert torch.equal(actions[:, -2:], carry.plan.actions[:, 0].reshape(3, 2, 2))
    assert float(plant.away().max()) < 0.3
    blocks: Any = world_objective(ChunkedPlane(), carry.belief, progress, block=2)
    assert torch.allclose(blocks(carry.plan.actions[:, None])[:, 0], carry.plan.cost)
    check_policy(chunked(receding=2), ChunkedPlane.spec)


def test_the_belief_of_a_chunked_world_moves_on_at_every_second_observation() -> None:
    policy, plant, keys = chunked(), Plant(3), torch.arange(3)
    carry, steps = policy.initial(3), []
    for _ in range(6):
        action, carry = policy.act(plant.seen(), carry, keys)
        plant.act(action)
        steps.append(int(carry.belief.step[0]))  # type: ignore[union-attr]
    assert steps == [0, 0, 1, 1, 2, 2]


def test_episodes_of_a_chunked_world_may_begin_at_any_time() -> None:
    policy, plant = chunked(), Plant(3)
    carry = policy.initial(3)
    for t in range(4):
        if t == 1:
            carry = policy.reset(carry, torch.tensor([False, True, False]))
        action, carry = policy.act(plant.seen(), carry, torch.arange(3))
        plant.act(action)
    assert carry.belief is not None
    assert carry.belief.step.tolist() == [1, 1, 1] and carry.left.tolist() == [0, 1, 0]


def test_a_plan_that_does_not_fill_the_steps_of_a_world_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 actions a step"):
        chunked(block=1)
    state = ChunkedPlane().reset(Plant(3).seen(), torch.arange(3))
    with pytest.raises(InvalidInputError, match="cannot be divided into steps"):
        world_objective(ChunkedPlane(), state)(torch.zeros(3, 1, 3, 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortPlane(Plane):
    """A plane that is valid for a few actions."""

    valid: int = 5

    @property
    def spec(self) -> WorldSpec:
        """The plane's, with its horizon."""
        return dataclasses.replace(super().spec, validity=validity(curve(5.0), horizon=self.valid))


def test_plans_look_no_farther_than_the_world_is_valid(caplog: pytest.LogCaptureFixture) -> None:
    planner = make_planner("cem", horizon=6, samples=24, iterations=2)
    short = MPC(planner, ShortPlane(), repeat=2, receding=4)
    assert (short.planner.horizon, short.receding) == (2, 2)
    assert "Plans look 4 actions ahead instead of 12: this world is valid for 5." in caplog.text
    check_policy(short, SPEC)
    caplog.clear()
    for valid, horizon in ((12, 6), (50, 6), (0, 6)):  # an unusable world is named elsewhere
        assert MPC(planner, ShortPlane(valid=valid), repeat=2).planner.horizon == horizon
    assert MPC(planner, ShortPlane(valid=1), repeat=2).planner.horizon == 1
    knots = dataclasses.replace(planner, spline=Spline(knots=3))
    assert MPC(knots, ShortPlane(), repeat=2).planner.horizon == 3  # fewer cannot hold its knots


def test_a_planner_of_ones_own_that_looks_too_far_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Own:
        horizon = 9

        def plan(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    own = Own()
    assert MPC(own, ShortPlane()).planner is own
    assert "Plans look 9 actions ahead; this world is valid for 5." in caplog.text
