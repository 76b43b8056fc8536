"""Report, leaderboard and conclusion of a run whose episodes end where the world is no longer valid."""

import dataclasses
import io

import pytest
from rich.console import Console

from tests.validity.examples import GOOD
from worldsim.triage.ranking.censoring import Censoring
from worldsim.triage.report import ReportData, render
from worldsim.triage.report.conclusion import conclude
from worldsim.triage.report.leaderboard import Leaderboard
from worldsim.triage.report.trust import assess_reliance, list_cautions
from worldsim.triage.report.words import describe_censoring, describe_certainty, describe_unknowns

MANY = Censoring(steps=16, length=50, rollouts=4000, censored=2480)
FEW = dataclasses.replace(MANY, censored=480)


def cut(sample: ReportData, found: Censoring) -> ReportData:
    ranking = dataclasses.replace(sample.ranking, censoring=found)
    playing = describe_censoring(found, valid=16, paired=True)
    return dataclasses.replace(sample, ranking=ranking, playing=playing, validity=GOOD)


@pytest.fixture(scope="module")
def many(sample: ReportData) -> ReportData:
    return cut(sample, MANY)


def printed(data: ReportData, *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    console.print(Leaderboard(data.ranking), soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_report_says_that_success_is_not_ranked_and_why(many: ReportData) -> None:
    page = render(many)
    for words in (
        "Episodes end after 16 of 50 actions, as far as this world is valid (16 actions ahead).",
        "62\u202f% of 4\u202f000 rollouts are not solved by then",
        "That is more than 30\u202f%, so there is no ranking by success",
        "policies are ranked by their progress after 16 actions. True episodes are read at the same action.",
        "success by then",
    ):
        assert words in page
    assert "success, each policy at its rank" not in page and "progress, each policy at its rank" in page


def test_the_conclusion_is_by_progress(many: ReportData) -> None:
    found = conclude(many)
    assert found.title == "Try these 5 of 24 checkpoints first, by progress after 16 actions."
    assert found.missing.startswith("A ranking by success: 62\u202f% of rollouts are undecided after 16 actions.")
    assert "by progress after 16 actions" in describe_certainty(many) and "solve" not in describe_certainty(many)
    assert "progress was" in describe_unknowns(many)


def test_nothing_is_claimed_of_success_rates(many: ReportData) -> None:
    rows = {row.claim: row for row in assess_reliance(many)}
    rates = rows["Success rates are right in absolute terms"]
    assert rates.answer == "unknown" and "62\u202f% of rollouts are undecided" in rates.reason
    assert "by progress" in rows["The order holds outside the world"].reason
    assert not any("success rates as an order" in text for text in list_cautions(many))


@pytest.mark.parametrize("terminal", [False, True])
def test_the_leaderboard_shows_progress_first(many: ReportData, terminal: bool) -> None:
    text = printed(many, terminal=terminal)
    assert text.index("progress") < text.index("solved")
    assert "There is no ranking by success: 62 % of rollouts are undecided then." in text
    line = many.ranking.policies[0]
    assert f"{line.score:.2f}" in text and f"{line.shown.progress:.2f}" in text


def test_few_undecided_rollouts_are_named_and_success_ranks(sample: ReportData) -> None:
    data = cut(sample, FEW)
    assert "12\u202f% of 4\u202f000 rollouts are not solved by then" in render(data)
    assert "they count as not solved" in data.playing[1]
    assert conclude(data).title == conclude(sample).title
    assert printed(data, terminal=False) == printed(sample, terminal=False)
    asked = describe_censoring(FEW, valid=None, paired=False)
    assert "as was asked for" in asked[0] and "True episodes" not in asked[1]
