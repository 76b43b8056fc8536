import numpy as np
import pytest
from scipy import stats

from worldsim.errors import InvalidInputError
from worldsim.stats.judge_rates import JudgeRates, Proportion


def test_agreement_is_counted_by_outcome():
    solved = np.array([1, 1, 1, 0, 0], bool)
    rates = JudgeRates.of(np.array([1, 0, 1, 0, 1], bool), solved, group="a")
    assert rates == JudgeRates(group="a", solved=3, solved_right=2, unsolved=2, unsolved_right=1)
    assert rates.sensitivity == Proportion(hits=2, count=3) and rates.specificity == Proportion(hits=1, count=2)
    assert JudgeRates.of(solved, solved).few
    assert JudgeRates.of(solved[:3], solved[:3]).specificity is None


def test_a_proportion_carries_its_exact_interval():
    one = Proportion(hits=305, count=312)
    exact = stats.binomtest(305, 312).proportion_ci(0.95, method="exact")
    assert one.interval == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert str(one) == "0.978 [0.954, 0.991] of 312"


def test_more_right_than_there_are_is_refused():
    with pytest.raises(InvalidInputError, match="more often than it was asked"):
        JudgeRates(solved=1, solved_right=2, unsolved=0, unsolved_right=0)
