"""Episodes that end before the task does: undecided ones are counted, and where they are too many progress ranks."""

import dataclasses
import json

import numpy as np
import pytest

from worldsim.triage.ranking.censoring import Censoring, deciding
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import correct_rates
from worldsim.triage.ranking.ranking import Ranking


def table(solved: list[int], progress: list[float], episodes: int = 20) -> Evidence:
    """Policies that solve so many of their episodes, and make so much progress in each."""
    success = np.array([[float(j < n) for j in range(episodes)] for n in solved])
    return Evidence(
        success=success,
        progress=np.repeat(np.array(progress)[:, None], episodes, axis=1),
        failed=np.zeros(len(solved), dtype=bool),
    )


def rank(evidence: Evidence, *, steps: int = 8, **more: object) -> Ranking:
    names = [f"policy {i}" for i in range(evidence.policies)]
    found = Censoring.count(evidence, steps=steps, length=20)
    return Ranking.from_evidence(evidence, names=names, k=1, censoring=found, **more)  # type: ignore[arg-type]


def test_an_episode_is_censored_where_it_ends_early_and_is_not_solved() -> None:
    evidence = table([5, 20, 0], [0.5, 0.9, 0.1]).fail(2)
    assert Censoring.count(evidence, steps=20, length=20) is None  # the task's own end decides
    found = Censoring.count(evidence, steps=8, length=20)
    assert found == Censoring(steps=8, length=20, rollouts=40, censored=15)  # crashed policies do not count
    assert found.share == 0.375 and found.by_progress
    assert not dataclasses.replace(found, censored=12).by_progress  # 30 % exactly
    assert dataclasses.replace(found, rollouts=0, censored=0).share == 0


def test_too_many_undecided_rollouts_are_ranked_by_progress() -> None:
    evidence = table([12, 2, 6], [0.2, 0.8, 0.5])  # 67 % undecided, and success and progress disagree
    assert [p.policy for p in rank(evidence, steps=20).policies] == [0, 2, 1]
    ranking = rank(evidence)
    assert ranking.by_progress and [p.policy for p in ranking.policies] == [1, 2, 0]
    best = ranking.policies[0]
    assert best.score == pytest.approx(0.8, abs=0.1) and best.p_best > 0.5
    assert best.triage.success == 0.1 and best.shown.by_progress().success == pytest.approx(
        0.8
    )  # what is measured stays
    assert ranking.same_success is None


def test_few_undecided_rollouts_leave_the_order_to_success() -> None:
    evidence = table([19, 14, 16], [0.2, 0.8, 0.5])  # 18 %
    ranking = rank(evidence)
    assert not ranking.by_progress and [p.policy for p in ranking.policies] == [0, 2, 1]
    assert ranking.censoring is not None and ranking.censoring.censored == 11


def test_equal_progress_ties_whatever_success_says() -> None:
    assert rank(table([12, 2, 6], [0.5, 0.5, 0.1])).places == {0: "1=", 1: "1=", 2: "3"}


def test_allocation_follows_progress_too() -> None:
    evidence = table([12, 2, 6], [0.2, 0.8, 0.5])
    found = Censoring.count(evidence, steps=8, length=20)
    assert deciding(evidence, found).success_mean.tolist() == pytest.approx([0.2, 0.8, 0.5])
    assert deciding(evidence, None) is evidence


def test_rates_are_not_corrected_where_progress_ranks() -> None:
    evidence = table([12, 2, 6], [0.2, 0.8, 0.5])
    names = [f"policy {i}" for i in range(3)]
    corrected = correct_rates(evidence, audit=None, truth=evidence, names=names, rates=(), alpha=0.05)
    ranking = rank(evidence, corrected=corrected)
    assert not ranking.corrected and [p.policy for p in ranking.policies] == [1, 2, 0]


def test_json_says_how_it_was_ranked_and_comes_back() -> None:
    evidence = table([12, 2, 6], [0.2, 0.8, 0.5])
    ranking = rank(evidence)
    value = json.loads(json.dumps(ranking.to_json()))
    assert value["censoring"] == {
        "steps": 8,
        "episode_length": 20,
        "n_episodes": 60,
        "n_censored": 40,
        "ranked_by": "progress",
    }
    again = Ranking.from_json(value)
    assert again.digest == ranking.digest and again.censoring == ranking.censoring
    plain = rank(evidence, steps=20)
    assert "censoring" not in plain.to_json() and plain.digest != ranking.digest
    assert dataclasses.replace(ranking, censoring=None).digest != ranking.digest
