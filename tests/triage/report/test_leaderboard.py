import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report import ReportData
from worldsim.triage.report.leaderboard import Leaderboard


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    generator = np.random.default_rng(0)
    success = (generator.random((30, 60)) < np.linspace(0.95, 0.05, 30)[:, None]).astype(float)
    failed = np.arange(30) == 4
    evidence = Evidence(success=success, progress=0.5 + success / 2, failed=failed)
    names = [f"runs/[bold]x[/bold]/{i:03d}/model" for i in range(30)]
    return Ranking.from_evidence(evidence, names=names, k=3, failures={4: "raised ValueError:\nbad [red]shape[/red]"})


def printed(ranking: Ranking, *, terminal: bool, width: int = 80, **settings: int) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system="truecolor" if terminal else None)
    console.print(Leaderboard(ranking, **settings), soft_wrap=True)
    return out.getvalue()


def test_a_pipe_gets_plain_aligned_lines(ranking: Ranking) -> None:
    text = printed(ranking, terminal=False, rows=5)
    lines = text.splitlines()
    assert "\x1b" not in text
    assert lines[0].split() == [
        "#",
        "checkpoint",
        "score",
        "success",
        "interval",
        "progress",
        "P(top",
        "3)",
        "rollouts",
    ]
    assert lines[1].split()[0] == "1"
    assert len({line.rfind("%") for line in lines[1:6]}) == 1  # columns line up
    assert lines[6].startswith(
        "Sorted by score, the posterior mean of success over all rollouts; equal success by progress."
    )
    assert lines[7] == "... and 24 more"
    assert lines[8] == "crashed: 004: raised ValueError: bad [red]shape[/red]"
    assert len(lines) == 9


def test_rollouts_are_those_of_the_triage_and_of_the_audit(sample: ReportData) -> None:
    lines = printed(sample.ranking, terminal=False).splitlines()
    assert lines[1].endswith(f"{sample.ranking.policies[0].triage.rollouts} + 120")
    assert any("of the fresh episodes, after the +, where there are any" in line for line in lines)


def test_long_names_are_not_cut_by_the_width_of_a_pipe(ranking: Ranking) -> None:
    lines = tuple(dataclasses.replace(p, name=f"{p.policy:02d}-" + "n" * 50) for p in ranking.policies)
    text = printed(dataclasses.replace(ranking, policies=lines), terminal=False, width=40, rows=3)
    first = text.splitlines()[1]
    assert first.endswith("60") and "n" * 50 in first


def test_a_terminal_gets_every_column_at_80_and_at_110(ranking: Ranking) -> None:
    for width in (80, 110):
        text = printed(ranking, terminal=True, width=width)
        for column in ("checkpoint", "success", "interval", "progress", "P(top 3)", "rollouts"):
            assert column in text
        assert ("█" in text) == (width >= 100) and "\x1b[" in text


def test_success_is_that_of_the_ranking(ranking: Ranking) -> None:
    first = ranking.policies[0]
    assert first.shown.success is not None
    assert f"{100 * first.shown.success:.1f}%" in printed(ranking, terminal=False).splitlines()[1]


def test_a_policy_without_rollouts_shows_dashes() -> None:
    evidence = Evidence.empty(2, episodes=3)
    text = printed(Ranking.from_evidence(evidence, names=["a", "b"], k=1), terminal=False)
    assert " - " in text.splitlines()[1]


def test_by_default_it_lists_twice_the_best_k(ranking: Ranking) -> None:
    assert "... and 9 more" in printed(ranking, terminal=False)


def test_escapes_and_markup_from_outside_stay_text(ranking: Ranking) -> None:
    hostile = "[/y]\x1b[31m\x1b]8;;http://example.invalid\x07"
    lines = tuple(
        dataclasses.replace(p, name=f"{hostile}{p.policy}", failed=p.failed and f"raised {hostile}")
        for p in ranking.policies
    )
    for terminal in (False, True):
        text = printed(dataclasses.replace(ranking, policies=lines), terminal=terminal, width=200)
        assert "[/y]" in text
        assert "\x1b[31m\ufffd" not in text and "\x1b]8" not in text and "\x07" not in text
        assert ("\x1b" in text) == terminal


def test_ties_are_called_ties_and_no_rank_follows_the_number_of_rollouts() -> None:
    success, progress = np.zeros((4, 20)), np.tile(np.array([[0.1], [0.4], [0.4], [0.2]]), (1, 20))
    success[0, 4:], progress[0, 4:] = np.nan, np.nan  # fewer rollouts pull a rate of zero less far down
    failed = np.zeros(4, dtype=bool)
    evidence = Evidence(success=success, progress=progress, failed=failed)
    ranking = Ranking.from_evidence(evidence, names=["few", "a", "b", "c"], k=1)
    assert [line.name for line in ranking.policies] == ["a", "b", "c", "few"]
    assert {line.p_top_k for line in ranking.policies} == {0.25}
    lines = printed(ranking, terminal=False).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["1=", "1=", "3", "4"]
    assert lines[5] == "Success is the same for all: sorted by progress alone. Ranks with = are ties."


def test_where_none_is_left_to_choose_from_there_is_no_chance() -> None:
    success = np.array([[1.0, 0.0, 1.0, 0.0]] * 3)
    failed = np.array([False, True, True])
    evidence = Evidence(success=success, progress=success / 2, failed=failed)
    made = Ranking.from_evidence(evidence, names=["a", "b", "c"], k=1, failures={1: "x", 2: "y"})
    assert printed(made, terminal=False).splitlines()[1].split()[-2:] == ["-", "4"]
    both = Ranking.from_evidence(
        dataclasses.replace(evidence, failed=failed & (np.arange(3) > 1)), names=["a", "b", "c"], k=1
    )
    assert "-" not in printed(both, terminal=False).splitlines()[1].split()[-2:]
