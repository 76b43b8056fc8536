import dataclasses

import pytest

from worldsim.stats.intervals import Estimate
from worldsim.triage.report import ReportData
from worldsim.triage.report.conclusion import conclude
from worldsim.triage.report.words import (
    chance,
    count,
    describe_certainty,
    describe_unknowns,
    estimate,
    letters,
    percent_range,
    track,
)


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


def ranked(data: ReportData, **changes: object) -> ReportData:
    return dataclasses.replace(data, ranking=dataclasses.replace(data.ranking, **changes))  # type: ignore[arg-type]


def write_title(data: ReportData) -> str:
    return conclude(data).title


def test_titles(sample: ReportData) -> None:
    assert write_title(sample) == "Try these 5 of 24 checkpoints first."
    assert write_title(ranked(sample, k=1)) == "Try this one of 24 checkpoints first."
    assert write_title(ranked(sample, k=24)) == "All 23 checkpoints that ran, best first."
    assert write_title(ranked(sample, policies=sample.failed)) == "None of the 1 checkpoint could be tried."
    assert write_title(ranked(sample, policies=sample.alive[:1])) == "Only one checkpoint ran."
    unsure = tuple(dataclasses.replace(p, p_top_k=0.2) for p in sample.alive)
    assert write_title(ranked(sample, policies=unsure)) == "No clear winners: these 5 come first, but not by much."


def test_how_sure(sample: ReportData) -> None:
    assert "between 43\u202f% and over\u202f99\u202f%. 2 other policies still have a chance" in describe_certainty(
        sample
    )
    assert "of 120 fresh episodes each, which did not choose them" in describe_certainty(sample)
    certain = tuple(dataclasses.replace(p, p_top_k=float(p.rank <= 5), audit=None) for p in sample.alive)
    text = describe_certainty(ranked(sample, policies=certain))
    assert "is over\u202f99\u202f%. No other policy has a chance" in text
    assert "which flatters" in text
    assert "nothing to choose from" in describe_certainty(ranked(sample, k=23))


def test_not_known(sample: ReportData) -> None:
    assert "3.1 points too high" in describe_unknowns(sample)
    assert "outside the world was not measured" in describe_unknowns(dataclasses.replace(sample, truth=None))


def test_ties_are_called_ties(sample: ReportData) -> None:
    def at(rate: float) -> ReportData:
        lines = [
            dataclasses.replace(p, audit=None, triage=dataclasses.replace(p.triage, success=rate)) for p in sample.alive
        ]
        return ranked(sample, policies=(*lines, *sample.failed))

    assert write_title(at(0.0)) == "None of the 23 checkpoints that ran solved an episode."
    assert write_title(at(1.0)) == "The 23 checkpoints that ran are tied at 100\u202f% success."
    text = describe_certainty(at(0.0))
    assert "ordered by progress alone. They solve none of the episodes" in text and "probability" not in text
    fifth = sample.alive[4]
    lines = [
        dataclasses.replace(p, triage=fifth.triage, audit=fifth.audit) if p.rank in (6, 7) else p for p in sample.alive
    ]
    text = describe_certainty(ranked(sample, policies=tuple(lines)))
    assert "2 other policies have the same success as the last of them." in text
    assert "the same success" not in describe_certainty(sample)
