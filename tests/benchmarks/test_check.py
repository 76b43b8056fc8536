"""The check of records: what fails, what passes for a reason that was written down, and that the repository's own are read."""

import json

import pytest

from benchmarks import check
from benchmarks.goals import GOALS, at_least, at_most
from benchmarks.record import RESULTS, commit

GOALS_HERE = {"toy": {"speed": at_least(10), "error": at_most(1)}}


@pytest.fixture
def judge(tmp_path):
    """Writes a record of the toy benchmark and gives the verdict of everything found, by subject."""

    def verdicts(*rows, **fields):
        clean = commit().removesuffix("+")
        record = {"commit": clean, "figures": [dict(zip(("name", "value", "reason"), r, strict=False)) for r in rows]}
        (tmp_path / "toy.json").write_text(json.dumps(record | fields))
        return {f.subject: f.verdict for f in check.findings(tmp_path, GOALS_HERE)}

    return verdicts


def test_figures_within_their_goals_pass(judge):
    assert judge(("speed", 10), ("error", 0.5), ("other", None)) == {"speed": "met", "error": "met"}


def test_the_goal_that_counts_is_the_one_of_today_not_the_recorded_one(judge):
    found = judge(("speed", 9), ("error", 0.5))
    assert found == {"speed": "failed", "error": "met"}


@pytest.mark.parametrize("rows", [[("speed", 12)], [("speed", 12), ("error", None)]])
def test_a_figure_that_is_missing_or_undefined_fails(judge, rows):
    assert judge(*rows) == {"speed": "met", "error": "failed"}


def test_a_miss_passes_with_a_reason_beside_it(judge):
    assert judge(("speed", 2, "needs a GPU"), ("error", None, "one policy")) == dict.fromkeys(
        ("speed", "error"), "accepted"
    )


@pytest.mark.parametrize("origin", [commit().removesuffix("+") + "+", "0" * 40, "unknown"])
def test_a_record_of_unknown_code_fails_unless_somebody_says_why_it_stays(judge, origin):
    rows = [("speed", 10), ("error", 0.5)]
    assert judge(*rows, commit=origin)["record"] == "failed"
    assert judge(*rows, commit=origin, accepted="four days of training")["record"] == "accepted"


def test_a_benchmark_without_a_record_fails(tmp_path):
    (found,) = check.findings(tmp_path, GOALS_HERE)
    assert found.verdict == "failed" and "benchmarks.toy" in found.note


def test_the_command_exits_with_1_on_a_failure_alone(judge, tmp_path, monkeypatch, capsys):
    findings = check.findings
    monkeypatch.setattr(check, "findings", lambda *_: findings(tmp_path, GOALS_HERE))
    judge(("speed", 10), ("error", 0.5))
    check.main()
    judge(("speed", 1), ("error", 0.5))
    with pytest.raises(SystemExit, match="1 of 2"):
        check.main()
    assert "speed" in capsys.readouterr().out


def test_every_record_of_the_repository_has_goals():
    assert {path.stem for path in RESULTS.glob("*.json")} <= set(GOALS)
