import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.core import Rows, constant
from worldsim.errors import InvalidInputError
from worldsim.planners import RolloutObjective, from_numpy, rollout_of
from worldsim.planners.objective import Divisible

START = torch.tensor([[0.0], [10.0]])
ACTIONS = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]], [[1.0, 1.0, 1.0], [-1.0, 5.0, -5.0]]])[..., None]


def roll(state: Tensor, actions: Tensor) -> Tensor:
    """A running sum."""
    return state[:, None] + actions.cumsum(1)


def place(path: Tensor, actions: Tensor) -> Tensor:
    return path[..., 0]


BASE = RolloutObjective(roll=roll, start=START, cost=place)


def test_a_step_becomes_a_rollout() -> None:
    stepped = rollout_of(lambda state, action: state + action)
    assert torch.equal(stepped(START, ACTIONS[:, 0]), roll(START, ACTIONS[:, 0]))


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("sum", [[11, 1], [36, 32]]),
        ("mean", [[11 / 3, 1 / 3], [12, 32 / 3]]),
        ("last", [[7, 1], [13, 9]]),
        ("max", [[7, 1], [13, 14]]),
        ("min", [[1, 0], [11, 9]]),
    ],
)
def test_costs_over_time_become_one_number(reduce: str, expected: list) -> None:
    cost = dataclasses.replace(BASE, reduce=reduce)(ACTIONS)
    assert torch.allclose(cost, torch.tensor(expected, dtype=torch.float32))


def test_later_steps_count_less_with_a_discount() -> None:
    cost = dataclasses.replace(BASE, discount=0.5)(ACTIONS)
    assert torch.allclose(cost[0], torch.tensor([1 + 1.5 + 7 / 4, 0.25]))


def test_a_terminal_cost_is_added_after_the_reduction() -> None:
    cost = dataclasses.replace(BASE, reduce="mean", terminal=lambda path, actions: 100 * path[:, :, -1, 0])(ACTIONS)
    assert torch.allclose(cost, BASE(ACTIONS) / 3 + 100 * torch.tensor([[7.0, 1], [13, 9]]))


def test_each_action_is_held() -> None:
    seen = []
    objective = dataclasses.replace(BASE, repeat=2, cost=lambda path, a: seen.append(a) or path[..., 0], reduce="last")
    assert torch.equal(objective(ACTIONS), torch.tensor([[14.0, 2], [16, 8]]))
    assert seen[0][0, 0, :, 0].tolist() == [1, 1, 2, 2, 4, 4]


def test_violations_add_up_over_time_and_slack_does_not_count() -> None:
    cost, violation = dataclasses.replace(BASE, cost=lambda path, a: (path[..., 0], path[..., 0] - 5))(ACTIONS)
    assert torch.equal(cost, BASE(ACTIONS))
    assert violation.tolist() == [[2, 0], [6 + 7 + 8, 4 + 9 + 4]]


def test_some_episodes_cost_what_they_cost_among_all() -> None:
    index = torch.tensor([1])
    assert isinstance(BASE, Divisible)
    assert torch.equal(BASE.rows(index)(ACTIONS[index]), BASE(ACTIONS)[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class At(Rows):
    at: Tensor  # [B, ...]
    name: str = constant(default="kept")


def test_starts_and_paths_may_be_dataclasses_or_dicts() -> None:
    def roll_rows(state: At, actions: Tensor) -> At:
        return At(at=roll(state.at, actions))

    rows = RolloutObjective(roll=roll_rows, start=At(at=START), cost=lambda path, a: path.at[..., 0])
    dicts = RolloutObjective(roll=lambda s, a: {"at": roll(s, a)}, start=START, cost=lambda path, a: path["at"][..., 0])
    assert torch.equal(rows(ACTIONS), BASE(ACTIONS))
    assert torch.equal(rows.rows(torch.tensor([1]))(ACTIONS[1:]), BASE(ACTIONS)[1:])
    assert torch.equal(dicts(ACTIONS), BASE(ACTIONS))


@dataclasses.dataclass(frozen=True)
class Goal:
    at: Tensor  # [B]

    def __call__(self, path: Tensor, actions: Tensor) -> Tensor:
        return (path[..., 0] - self.at[:, None, None]).abs()

    def rows(self, index: Tensor) -> "Goal":
        return Goal(self.at[index])


def test_goals_of_each_episode_follow_their_episodes() -> None:
    objective = dataclasses.replace(BASE, cost=Goal(torch.tensor([3.0, 12.0])))
    assert torch.equal(objective.rows(torch.tensor([1]))(ACTIONS[1:]), objective(ACTIONS)[1:])


@pytest.mark.parametrize("wrong", [{"repeat": 0}, {"reduce": "median"}])
def test_what_cannot_be_meant_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        dataclasses.replace(BASE, **wrong)


def test_a_step_cost_without_its_steps_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\[B, N, T\]"):
        dataclasses.replace(BASE, cost=lambda path, a: path[:, :, -1, 0])(ACTIONS)


def test_a_function_of_arrays_is_an_objective() -> None:
    def cost(actions: np.ndarray) -> np.ndarray:
        assert isinstance(actions, np.ndarray)
        return (actions**2).sum((2, 3))

    one = from_numpy(cost)(ACTIONS)
    both = from_numpy(lambda a: (cost(a), cost(a)[:, ::-1]))(ACTIONS)
    assert torch.equal(one, ACTIONS.square().sum((2, 3)))
    assert torch.equal(both[0], one) and torch.equal(both[1], one.flip(1))
