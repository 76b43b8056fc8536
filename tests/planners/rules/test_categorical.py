import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.planners.rules.rig import scored, search, setting
from worldsim.planners import Bounds, make_planner
from worldsim.planners.rules.categorical import CategoricalCEM

CHOICES, STEPS = 3, 5
BOX = Bounds.categorical(CHOICES)
TABLE = torch.rand(STEPS, CHOICES, generator=torch.Generator().manual_seed(0))
SWITCH = torch.rand(CHOICES, CHOICES, generator=torch.Generator().manual_seed(1))


def cost(actions: Tensor) -> Tensor:
    """Of every choice, and of every change between two of them."""
    pairs = torch.einsum("bnhi,ij,bnhj->bn", actions[:, :, :-1], SWITCH, actions[:, :, 1:])
    return (actions * TABLE).sum((2, 3)) + pairs


def one_hot(choices: Tensor) -> Tensor:
    return F.one_hot(choices, CHOICES).float()


def test_the_best_sequence_of_choices_is_found() -> None:
    every = torch.tensor(list(itertools.product(range(CHOICES), repeat=STEPS)))
    costs = cost(one_hot(every)[None])[0]
    for seed in range(5):
        planner = make_planner("categorical", horizon=STEPS, samples=64, iterations=8)
        plan = planner.plan(cost, bounds=BOX, initial=one_hot(torch.zeros(1, STEPS, dtype=torch.int64)), seed=seed)
        assert plan.actions.argmax(-1)[0].tolist() == every[costs.argmin()].tolist()
        assert torch.isclose(plan.cost[0], costs.min())


def test_every_candidate_is_a_choice() -> None:
    place, rule = setting(bounds=BOX, samples=64), CategoricalCEM()
    candidates = rule.propose(rule.begin(search(bounds=BOX), place), place)
    assert candidates.shape == (2, 64, 3, CHOICES)
    assert set(candidates.unique().tolist()) == {0, 1} and bool((candidates.sum(-1) == 1).all())


def test_a_cold_search_tries_all_choices_alike() -> None:
    place, rule = setting(bounds=BOX, samples=3000), CategoricalCEM()
    share = rule.propose(rule.begin(search(bounds=BOX), place), place).mean(1)
    assert torch.allclose(share, torch.full_like(share, 1 / 3), atol=0.04)


def test_a_warm_one_leans_towards_the_plan_at_hand() -> None:
    place, rule = setting(bounds=BOX, samples=3000), CategoricalCEM(keep=0)
    share = rule.propose(rule.begin(search(bounds=BOX, elites=1), place), place).mean(1)
    assert torch.allclose(share.amax(-1), torch.full((2, 3), 2 / 3), atol=0.04)


def test_probabilities_are_the_elites_frequencies_with_a_floor() -> None:
    place, rule = setting(bounds=BOX, samples=4, horizon=1), CategoricalCEM(elites=4, keep=0, floor=0.3)
    memory = rule.begin(search(bounds=BOX, horizon=1), place)
    candidates = one_hot(torch.tensor([0, 0, 0, 1])).view(1, 4, 1, 3).repeat(2, 1, 1, 1)
    after, _ = rule.update(memory, scored(candidates, torch.zeros(2, 4)), place)
    assert torch.allclose(after.mean[0, 0], 0.7 * torch.tensor([0.75, 0.25, 0.0]) + 0.1)
