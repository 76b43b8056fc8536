"""Runs with a judge of one's own: it judges the triage, the truth judges itself, and its errors are corrected."""

import dataclasses
import functools
import io
import json
import logging
import sqlite3

import numpy as np
import pytest
from rich.console import Console

from benchmarks.toy import LoadToyJudge, ToyArena, ToyWorld, load_toy, toy_refs
from worldsim.errors import InvalidInputError
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.engine.plan import Plan
from worldsim.triage.engine.store import DATABASE
from worldsim.triage.film import film
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import correct_rates
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report import assemble, render
from worldsim.triage.report.leaderboard import Leaderboard
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import Arena, read_ranking, read_results, run

WORLD = functools.partial(ToyWorld, horizon=8)
TRUTH = ToyArena(world=ToyWorld(horizon=8, bias=0.02))
JUDGE = LoadToyJudge()
RATES = (JudgeRates(solved=200, solved_right=180, unsolved=200, unsolved_right=170),)


def request(policies=6, **settings):
    settings = {"budget": 400, "k": 2, "width": 16, "spare": 1, "judge": "glancing-1"} | settings
    return TriageRequest(policies=toy_refs(policies), world=Ref(name="toy", digest="w"), **settings)


def go(out, asked=None, *, truth=12, load_judge=JUDGE, **more):
    arena = Arena(kind="truth", world=Ref(name="truth", digest="t"), load=TRUTH, episodes=truth)
    arenas = [arena] if truth else []
    return run(
        asked or request(),
        load_world=WORLD,
        load_policy=load_toy,
        out=out,
        load_judge=load_judge,
        arenas=arenas,
        **more,
    )


def rows(out):
    connection = sqlite3.connect(out / DATABASE)
    found = connection.execute(
        "SELECT kind, judge, policy, start, noise, success, abstained, note FROM rollouts"
    ).fetchall()
    connection.close()
    return sorted(found)


def nothing(*_):
    raise AssertionError("nothing should be loaded")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("judged")
    return go(out), out


def test_the_judge_judges_the_triage_and_the_truth_judges_itself(finished):
    results, out = finished
    by = {kind: [r for r in rows(out) if r[0] == kind] for kind in ("world", "truth")}
    assert {r[1] for r in by["world"]} == {"glancing-1"} and {round(r[5], 6) for r in by["world"]} == {0.95, 0.2}
    assert {r[1] for r in by["truth"]} == {"world-heads-1/end/0.5"} and {r[5] for r in by["truth"]} <= {0.0, 1.0}
    assert {r[7] for r in by["world"]} == {"seen"} and {r[7] for r in by["truth"]} == {""}
    assert any(r[6] for r in by["world"]) and not any(r[6] for r in by["truth"])
    alone = run(
        dataclasses.replace(request(), judge=""),
        load_world=WORLD,
        load_policy=load_toy,
        out=out.parent / "heads",
        arenas=[Arena(kind="truth", world=Ref(name="truth", digest="t"), load=TRUTH, episodes=12)],
    )
    assert np.array_equal(alone.arenas["truth"].success, results.arenas["truth"].success)


def test_rates_are_corrected_by_the_truth_and_order_the_leaderboard(finished):
    ranking = finished[0].ranking
    assert ranking.corrected and all(
        p.corrected.method == "truth" and p.corrected.truths == 12 for p in ranking.policies
    )
    truth = finished[0].arenas["truth"].success
    weights = [p.corrected.weight for p in ranking.policies]
    assert 0 < np.mean(weights) < 1
    for line in ranking.policies:
        paired = finished[0].triage.success[line.policy, :12]
        others = np.r_[finished[0].triage.success[line.policy, 12:], finished[0].audit.success[line.policy]]
        others = others[~np.isnan(others)]
        if not np.isnan(paired).any() and others.size:
            shift = line.corrected.weight * (others.mean() - paired.mean())
            assert line.corrected.value == pytest.approx(np.clip(truth[line.policy].mean() + shift, 0, 1))
    scores = [p.score for p in ranking.policies]
    assert scores == sorted(scores, reverse=True)
    raw = Ranking.from_evidence(finished[0].triage, names=[str(i) for i in range(6)], k=2, audit=finished[0].audit)
    assert not raw.corrected and [p.score for p in raw.policies] != scores
    assert sum(p.p_top_k for p in ranking.policies) == pytest.approx(2)


def test_running_again_and_more_workers_say_the_same(finished, tmp_path):
    results, out = finished
    digest = results.ranking.digest
    assert read_ranking(out).digest == read_results(out).ranking.digest == digest
    again = run(
        request(),
        load_world=nothing,
        load_policy=nothing,
        out=out,
        load_judge=nothing,
        arenas=[Arena(kind="truth", world=Ref(name="truth", digest="t"), load=nothing, episodes=12)],
    )
    assert again.ranking.digest == digest
    two = go(tmp_path, request(workers=2))
    assert two.ranking.digest == digest and rows(tmp_path) == rows(out)


def test_without_truth_known_rates_correct_and_new_ones_need_no_new_rollout(tmp_path):
    plain = go(tmp_path, truth=0)
    assert not plain.ranking.corrected and all(p.corrected is None for p in plain.ranking.policies)
    before = rows(tmp_path)
    corrected = run(
        request(judge_rates=RATES), load_world=nothing, load_policy=nothing, out=tmp_path, load_judge=nothing
    )
    assert corrected.ranking.corrected and rows(tmp_path) == before
    assert {p.corrected.method for p in corrected.ranking.policies} == {"rates"}
    assert read_results(tmp_path).ranking.digest == corrected.ranking.digest  # the plan keeps the rates
    line = corrected.ranking.policies[0]
    judged = np.r_[corrected.triage.success[line.policy], corrected.audit.success[line.policy]]
    votes = judged[~np.isnan(judged)] >= 0.5
    assert line.corrected.value == pytest.approx(np.clip((votes.mean() + 0.85 - 1) / (0.9 + 0.85 - 1), 0, 1))
    with pytest.raises(InvalidInputError, match="judge: was 'glancing-1'"):
        run(request(judge="other"), load_world=nothing, load_policy=nothing, out=tmp_path, load_judge=nothing)


def test_what_stands_in_files_without_a_judge_is_what_always_stood(tmp_path):
    results = run(dataclasses.replace(request(), judge=""), load_world=WORLD, load_policy=load_toy, out=tmp_path)
    assert "judge_rates" not in json.loads((tmp_path / "plan.json").read_text())["request"]
    assert not any("corrected" in p for p in json.loads((tmp_path / "ranking.json").read_text())["per_policy"])
    page = render(assemble(results, command="", made=""))
    assert "corrected" not in page and "judged by" not in page


def test_rates_of_the_worlds_own_heads_correct_what_they_say(tmp_path):
    asked = dataclasses.replace(request(), judge="", judge_rates=RATES)
    results = run(asked, load_world=WORLD, load_policy=load_toy, out=tmp_path)
    assert all(line.corrected.method == "rates" for line in results.ranking.policies)
    text = " ".join(assemble(results, command="", made="").judging)
    assert "the world's own heads, whose errors" in text and "sensitivity 90" in text


def test_corrections_are_read_back(finished, tmp_path):
    ranking = finished[0].ranking
    value = json.loads(json.dumps(ranking.to_json()))
    back = Ranking.from_json(value)
    assert back.digest == ranking.digest and back.corrected
    corrected = value["per_policy"][0]["corrected"]
    assert corrected["method"] == "truth" and corrected["n_truths"] == 12 and corrected["pc_success_interval"][1] <= 100
    value["per_policy"][0]["corrected"]["pc_success"] += 1
    with pytest.raises(InvalidInputError, match="edited"):
        Ranking.from_json(value)
    plan = finished[0].plan
    with_rates = dataclasses.replace(plan, request=dataclasses.replace(plan.request, judge_rates=RATES))
    assert Plan.from_json(json.loads(json.dumps(with_rates.to_json()))) == with_rates


def test_the_leaderboard_and_the_report_show_both_rates_and_say_how(finished, tmp_path):
    results, _ = finished
    line = results.ranking.policies[0]
    shown = f"{100 * line.corrected.value:.1f}% [{100 * line.corrected.interval.low:.0f}, "
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=150, color_system=None)
        console.print(Leaderboard(results.ranking), soft_wrap=True)
        assert "corrected" in out.getvalue() and shown in out.getvalue()
    data = assemble(results, command="", made="")
    page = render(data)
    assert (
        "judged by glancing-1" in page
        and "12 paired true episodes" in page
        and page.count('data-label="corrected"') == 6
    )
    assert "ordered by success corrected for its errors" in data.judging[0]
    alone = go(tmp_path, request(judge_rates=RATES), truth=0)
    text = " ".join(assemble(alone, command="", made="").judging)
    assert "sensitivity 90" in text and "of 200" in text and "not the world" in text
    unknown = go(tmp_path / "u", truth=0)
    text = " ".join(assemble(unknown, command="", made="").judging)
    assert "could not be corrected for every policy" in text and "Calibrate it" in text


def test_films_show_what_the_judge_recorded(finished, caplog):
    results, _ = finished
    pairs = [(5, 0), (4, 1)]
    with caplog.at_level(logging.WARNING):
        clips = film(results, pairs, load_world=WORLD, load_policy=load_toy, load_truth=TRUTH, load_judge=JUDGE)
        assert [c.world_success for c in clips] == [results.triage.success[p] for p in pairs] and not caplog.records
        assert clips[0].truth_success in (0.0, 1.0)
        assert len(film(results, pairs, load_world=WORLD, load_policy=load_toy)) == 2  # no judge, no check
        other = LoadToyJudge(wrong=1.0)
        assert not film(results, pairs, load_world=WORLD, load_policy=load_toy, load_judge=other)
    assert "ended differently" in caplog.text


def test_correction_makes_up_for_a_judge_that_favours_some_policies():
    """A judge that errs by policy misorders; a dozen paired true episodes put most of it right."""
    random, off = np.random.default_rng(0), []
    for _ in range(20):
        rate = np.linspace(0.1, 0.9, 12)
        kind = random.permutation(np.linspace(-0.35, 0.35, 12))
        truth = (random.random((12, 24)) < rate[:, None]).astype(float)
        judged = np.clip(np.where(random.random((12, 80)) < rate[:, None], 0.8, 0.2) + kind[:, None], 0, 1)
        judged[:, :24] = np.clip(np.where(truth == 1, 0.8, 0.2) + kind[:, None], 0, 1)
        tables = [Evidence(success=x, progress=x, failed=np.zeros(12, bool)) for x in (judged, truth)]
        names = [str(i) for i in range(12)]
        found = correct_rates(tables[0], audit=None, truth=tables[1], names=names, rates=(), alpha=0.05)
        order = {
            name: [p.policy for p in Ranking.from_evidence(tables[0], names=names, k=3, corrected=c).policies]
            for name, c in (("raw", None), ("corrected", found))
        }
        best = np.arange(11, -1, -1)
        off.append([np.abs(np.argsort(order[n]) - np.argsort(best)).mean() for n in ("raw", "corrected")])
    raw, corrected = np.mean(off, 0)
    assert corrected < 0.6 * raw
