import torch

from tests.planners.rules.rig import scored, search, setting
from tests.planners.toy import BOUNDS
from worldsim.planners.rules.shooting import Predictive, Random


def test_random_candidates_fill_the_box_evenly() -> None:
    place = setting(samples=4000)
    rule = Random()
    unit = (rule.propose(rule.begin(search(), place), place)[:, 1:] - BOUNDS.low) / (2 * BOUNDS.half)
    for share in (0.1, 0.5, 0.9):
        assert torch.allclose((unit < share).float().mean((0, 1)), torch.full((3, 2), share), atol=0.02)


def test_smooth_random_candidates_still_fill_it() -> None:
    place = setting(samples=4000, horizon=6)
    rule = Random(beta=2.0)
    unit = (rule.propose(rule.begin(search(horizon=6), place), place)[:, 1:] - BOUNDS.low) / (2 * BOUNDS.half)
    assert torch.allclose((unit < 0.25).float().mean((0, 1)), torch.full((6, 2), 0.25), atol=0.03)
    assert float(unit.diff(dim=2).abs().mean()) < 0.25  # a third for independent steps


def test_the_plan_at_hand_and_the_prior_are_among_the_candidates() -> None:
    prior = BOUNDS.clip(torch.zeros(2, 3, 3, 2))
    place = setting(prior=prior)
    for rule in (Random(), Predictive()):
        candidates = rule.propose(rule.begin(search(), place), place)
        assert torch.equal(candidates[:, 0], search().mean)
        assert any(torch.equal(candidates[:, i : i + 3], prior) for i in (1, 2))


def test_the_best_candidate_becomes_the_plan() -> None:
    place, rule = setting(), Predictive()
    memory = rule.begin(search(), place)
    candidates = rule.propose(memory, place)
    cost = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    after, _ = rule.update(memory, scored(candidates, cost), place)
    assert torch.equal(after.mean, candidates[torch.arange(2), cost.argmin(1)])
    assert torch.equal(after.std, memory[0].std)
