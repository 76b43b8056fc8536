import pytest

from worldsim.stats.intervals import Estimate
from worldsim.triage.report.format import chance, count, estimate, letters, percent_range, track


@pytest.mark.parametrize(
    ("probability", "text"), [(1.0, ">99%"), (0.996, ">99%"), (0.99, "99%"), (0.0, "<1%"), (0.004, "<1%"), (0.5, "50%")]
)
def test_no_probability_is_certain(probability: float, text: str) -> None:
    assert chance(probability).replace("\u202f", "") == text


def test_estimates_come_in_their_units() -> None:
    assert estimate(Estimate(name="pearson", value=0.9123, low=0.8, high=0.95, n=24)) == "0.912 [0.800, 0.950]"
    assert estimate(Estimate(name="bias", value=-0.031, low=-0.05, high=0.01, n=24)) == "−3.1\u202fpts [−5.0, 1.0]"
    assert (
        estimate(Estimate(name="recall", value=0.8, n=24, undefined="few draws"))
        == "80\u202f% (no interval: few draws)"
    )
    assert estimate(Estimate(name="kendall", value=None, n=2, undefined="too few")) == "undefined: too few"


def test_counts_and_ranges() -> None:
    assert count(1234567) == "1\u202f234\u202f567"
    assert percent_range(0.12, 0.5) == "12 to 50\u202f%"
    assert percent_range(0, 0) == percent_range(0.001, 0.004) == "0\u202f%"


def test_letters_are_joined_only_where_each_is_a_single_one() -> None:
    assert letters("a b c") == "abc" and letters("z aa") == "z aa" and letters("") == ""


def test_places_stay_on_the_track() -> None:
    assert [track(share) for share in (-0.1, 0.125, 1.2)] == ["0.00%", "12.50%", "100.00%"]
