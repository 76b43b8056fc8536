import pytest
import torch

from tests.planners.rules.rig import inside, scored, search, setting
from tests.planners.toy import BOUNDS
from worldsim.errors import InvalidInputError
from worldsim.planners.rules.base import Sampler, softmin, spread
from worldsim.planners.rules.sampling import CEM

COST = torch.tensor([[3.0, 1.0, torch.inf, 2.0], [torch.inf] * 4])


def test_candidates_are_the_mean_the_elites_and_the_prior_then_samples() -> None:
    prior = BOUNDS.clip(torch.rand(2, 3, 3, 2, generator=torch.Generator().manual_seed(0)))
    place, begun = setting(prior=prior), search(elites=4)
    rule = CEM(keep=2, std=1.5)
    candidates = rule.propose(rule.begin(begun, place), place)
    assert candidates.shape == (2, 16, 3, 2) and inside(candidates)
    assert torch.equal(candidates[:, 0], begun.mean)
    assert torch.equal(candidates[:, 1:3], begun.elites[:, :2])
    assert torch.equal(candidates[:, 3:6], prior)
    assert len(candidates[:, 6:].flatten().unique()) > 50


def test_the_prior_is_tried_once() -> None:
    place = setting(prior=BOUNDS.clip(torch.zeros(2, 3, 3, 2)))
    rule = CEM()
    memory = rule.begin(search(), place)
    candidates = rule.propose(memory, place)
    _, left = rule.update(memory, scored(candidates, candidates.sum((2, 3))), place)
    assert left.shape[1] == 0


def test_candidates_spread_as_far_as_the_settings_say_along_each_dimension() -> None:
    place = setting(samples=4000)
    rule = CEM(std=(0.1, 0.3), beta=2.0, keep=0)
    away = (rule.propose(rule.begin(search(), place), place) - BOUNDS.centre) / BOUNDS.half
    assert torch.allclose(away[:, 1:].std((0, 1)), torch.tensor([0.1, 0.3]).expand(3, 2), rtol=0.05)


def test_more_given_than_there_is_room_for_is_refused() -> None:
    place = setting(samples=4, prior=BOUNDS.clip(torch.zeros(2, 4, 3, 2)))
    rule = CEM(keep=0, elites=2)
    with pytest.raises(InvalidInputError, match="do not fit into 4 samples"):
        rule.propose(rule.begin(search(), place), place)


@pytest.mark.parametrize("rule", [CEM(elites=17), CEM(keep=16), CEM(elites=1.0, keep=20)])
def test_more_elites_than_samples_are_refused(rule: CEM) -> None:
    with pytest.raises(InvalidInputError, match="16 samples"):
        rule.check(16)


def test_a_spread_for_another_width_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="width 2"):
        CEM(std=(1.0, 1.0, 1.0)).begin(search(), setting())


@pytest.mark.parametrize(("elites", "count"), [(7, 7), (0.25, 4), (0.01, 2), (1.0, 16)])
def test_elites_are_a_number_or_a_share(elites: float, count: int) -> None:
    assert CEM(elites=elites).count(16) == count


def test_elites_come_best_first_and_the_worst_never_among_them() -> None:
    place, rule = setting(samples=4, horizon=1), CEM(elites=4, keep=0)
    candidates = torch.arange(8.0).view(2, 4, 1, 1).expand(-1, -1, -1, 2)
    after, _ = rule.update(rule.begin(search(horizon=1), place), scored(candidates, COST), place)
    assert after.elites[0, :, 0, 0].tolist() == [1, 3, 0, 1]


def test_an_episode_without_a_finite_cost_keeps_what_it_had() -> None:
    place, rule, begun = setting(samples=4), CEM(elites=4, keep=0, std=0.4), search()
    memory = rule.begin(begun, place)
    after, _ = rule.update(memory, scored(rule.propose(memory, place), COST), place)
    assert torch.equal(after.mean[1], begun.mean[1]) and torch.equal(after.std[1], memory[0].std[1])
    assert bool((after.elites[1] == begun.mean[1]).all())
    assert not torch.equal(after.mean[0], begun.mean[0])


def test_old_knowledge_fades_with_momentum() -> None:
    place, begun = setting(), search()
    plain, slow = CEM(std_min=0.0), CEM(std_min=0.0, momentum=0.75)
    memory = plain.begin(begun, place)
    results = scored(candidates := plain.propose(memory, place), candidates.sum((2, 3)))
    quick, lazy = plain.update(memory, results, place)[0], slow.update(memory, results, place)[0]
    assert torch.allclose(lazy.mean, 0.25 * quick.mean + 0.75 * begun.mean)
    assert torch.allclose(lazy.std, 0.25 * quick.std + 0.75 * memory[0].std)


def test_the_spread_has_a_floor() -> None:
    place, rule = setting(), CEM(std_min=0.3)
    memory = rule.begin(search(), place)
    same = BOUNDS.centre.expand(2, 16, 3, 2)
    after, _ = rule.update(memory, scored(same, torch.zeros(2, 16)), place)
    assert torch.allclose(after.std, 0.3 * BOUNDS.half.expand(2, 3, 2))


def test_without_clipping_candidates_leave_the_bounds() -> None:
    place, rule = setting(), CEM(clip=False, std=2.0)
    assert not inside(rule.propose(rule.begin(search(), place), place))


def test_one_candidate_has_no_spread_of_its_own() -> None:
    old = torch.ones(2, 3, 2)
    assert torch.equal(spread(torch.zeros(2, 1, 3, 2), old), old)
    assert torch.equal(spread(torch.zeros(2, 2, 3, 2), old), old * 0)


def test_weights_sum_to_one_and_what_is_infinite_weighs_nothing() -> None:
    weight = softmin(torch.tensor([[0.0, 1.0, torch.inf], [5.0, 5.0, 5.0]]), torch.tensor([[1.0], [1e-20]]))
    assert torch.allclose(weight.sum(1), torch.ones(2))
    assert torch.allclose(weight[0], torch.tensor([1.0, torch.e**-1, 0]) / (1 + torch.e**-1))
    assert torch.allclose(weight[1], torch.full((3,), 1 / 3))
    assert bool(softmin(torch.full((1, 3), torch.inf), torch.ones(1, 1)).isfinite().all())


def test_the_base_alone_is_no_rule() -> None:
    with pytest.raises(TypeError, match="refit"):
        Sampler()  # type: ignore[abstract]
