"""No checkpoint is recommended where the world, the winners or the truth speak against it; what is missing is said."""

import dataclasses

import pytest

from tests.triage.report.test_trust import with_estimates
from tests.validity.examples import FAILED, GOOD
from worldsim.triage.report import ReportData, render
from worldsim.triage.report.conclusion import conclude
from worldsim.triage.report.trust import assess_reliance
from worldsim.triage.report.words import describe_unknowns


def at(data: ReportData, world: float, truth: float) -> ReportData:
    """The same run with one success rate for all in the world, and one in the truth."""
    lines = tuple(
        p if p.failed else dataclasses.replace(p, audit=None, triage=dataclasses.replace(p.triage, success=world))
        for p in data.ranking.policies
    )
    assert data.truth is not None
    rows = tuple(
        dataclasses.replace(
            row,
            world=dataclasses.replace(row.world, success=world),
            truth=dataclasses.replace(row.truth, success=truth),
        )
        for row in data.truth.policies
    )
    ranking = dataclasses.replace(data.ranking, policies=lines)
    return dataclasses.replace(data, ranking=ranking, truth=dataclasses.replace(data.truth, policies=rows))


def test_a_world_that_failed_its_own_figures_recommends_nothing(sample: ReportData) -> None:
    data = dataclasses.replace(sample, validity=FAILED)
    found = conclude(data)
    assert "No checkpoint is recommended" in found.title and "27.3 dB, and copying 28.1 dB" in found.missing
    page = render(data)
    assert "Try these" not in page and "What is missing" in page and "copying the start" in page
    assert assess_reliance(data)[0].answer == "no"


def test_a_good_world_shows_its_figures_and_recommends(sample: ReportData) -> None:
    data = dataclasses.replace(sample, validity=GOOD)
    assert conclude(data).title == "Try these 5 of 24 checkpoints first." and not conclude(data).missing
    row = assess_reliance(data)[0]
    assert row.answer == "yes" and "32.6 dB (copying: 25.2 dB)." in row.reason
    assert "32.6 dB" in render(data)


def test_winners_that_solve_nothing_are_not_recommended(sample: ReportData) -> None:
    found = conclude(at(sample, 0.0, 1.0))
    assert "solved an episode" in found.title and "solve 100\u202f%" in found.missing
    assert "Checkpoints that solve some episodes" in conclude(at(sample, 0.0, 0.0)).missing


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"order_accuracy": 0.5}, "contradicts the order"),
        ({"order_accuracy": 0.8, "bias": -0.37}, "success rates of this world are wrong"),
    ],
)
def test_what_the_truth_contradicts_is_not_recommended(
    sample: ReportData, values: dict[str, float], words: str
) -> None:
    found = conclude(with_estimates(sample, **values))
    assert words in found.title and found.missing


def test_a_biased_world_whose_order_holds_still_recommends(sample: ReportData) -> None:
    assert "Try these" in conclude(with_estimates(sample, order_accuracy=0.95, bias=-0.2)).title


def test_no_verdict_is_drawn_from_all_zeros(sample: ReportData) -> None:
    data = at(sample, 0.0, 0.0)
    assert "every policy solved nothing on both sides" in describe_unknowns(data)
    assert "were right" not in describe_unknowns(data)
    answers = {row.claim: row.answer for row in assess_reliance(data)}
    assert (
        answers["Success rates are right in absolute terms"]
        == answers["These are the best 5 inside the world"]
        == "unknown"
    )
