import pytest
import torch

from tests.planners.rules.rig import scored, search, setting
from tests.planners.toy import BOUNDS
from worldsim.errors import InvalidInputError
from worldsim.planners.rules.base import softmin
from worldsim.planners.rules.mppi import MPPI, _scale_for

NOISE = torch.Generator().manual_seed(4)
CANDIDATES = BOUNDS.low + torch.rand(2, 256, 3, 2, generator=NOISE) * 2 * BOUNDS.half
COST = torch.rand(2, 256, generator=NOISE).pow(3)


def updated(rule: MPPI, cost: torch.Tensor = COST) -> tuple[torch.Tensor, torch.Tensor]:
    place = setting(samples=256)
    after, _ = rule.update(rule.begin(search(), place), scored(CANDIDATES, cost), place)
    return after.mean, after.std


def effective(cost: torch.Tensor, target: float) -> torch.Tensor:
    """Kish's effective sample size under the temperature that is chosen for a target."""
    return 1 / softmin(cost, _scale_for(cost, target)).square().sum(1)


@pytest.mark.parametrize("target", [2.0, 10.0, 25.6, 128.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_as_many_candidates_count_as_are_asked_for(target: float, scale: float) -> None:
    assert torch.allclose(effective(COST * scale, target), torch.full((2,), target), rtol=0.1)


def test_costs_that_are_infinite_do_not_count() -> None:
    cost = COST.clone()
    cost[:, ::2] = torch.inf
    assert torch.allclose(effective(cost, 25.6), torch.full((2,), 25.6), rtol=0.1)
    weight = softmin(cost, _scale_for(cost, 25.6))
    assert not bool(weight[:, ::2].any())


@pytest.mark.parametrize("cost", [torch.zeros(2, 256), torch.full((2, 256), torch.inf)], ids=["constant", "infinite"])
def test_costs_without_a_difference_stay_numbers(cost: torch.Tensor) -> None:
    mean, std = updated(MPPI(), cost)
    assert bool(mean.isfinite().all() & std.isfinite().all())
    if bool(cost.isfinite().all()):
        assert torch.allclose(mean, CANDIDATES.mean(1), atol=1e-5)


@pytest.mark.parametrize("change", [lambda c: c * 1e6, lambda c: c * 1e-6, lambda c: c + 10, lambda c: 5 * c - 3])
def test_scale_and_shift_of_the_cost_do_not_matter(change: object) -> None:
    plain, changed = updated(MPPI()), updated(MPPI(), change(COST))  # type: ignore[operator]
    assert torch.allclose(plain[0], changed[0], atol=1e-3) and torch.allclose(plain[1], changed[1], atol=1e-3)


def test_a_fixed_temperature_is_the_papers_update() -> None:
    mean, std = updated(MPPI(temperature=0.1, adapt=False))
    weight = torch.exp(-COST / 0.1)
    expected = (weight[:, :, None, None] * CANDIDATES).sum(1) / weight.sum(1)[:, None, None]
    assert torch.allclose(mean, expected, atol=1e-5)
    assert torch.allclose(std, BOUNDS.half.expand(2, 3, 2))


def test_the_spread_adapts_to_what_counts() -> None:
    narrow, wide = updated(MPPI(effective=0.01))[1], updated(MPPI(effective=1.0))[1]
    assert float(narrow.mean()) < 0.8 * float(wide.mean())


@pytest.mark.parametrize("wrong", [{"effective": 0.0}, {"effective": 1.5}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_what_is_no_temperature_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        MPPI(**wrong)
