import dataclasses
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "engine"))  # workers import it by this name
import rogue_policies

from benchmarks.toy import ToyArena, ToyWorld, load_toy, toy_refs
from worldsim.errors import InvalidInputError, PolicyError, StorageError
from worldsim.runs import hold_folder
from worldsim.triage import run as triage_run
from worldsim.triage.engine.batches import BatchResult, RolloutResult, compose
from worldsim.triage.engine.plan import Description, Plan
from worldsim.triage.engine.replay import Replay, scope_of
from worldsim.triage.engine.store import DATABASE, Store
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import Arena, read_ranking, read_results, run

WORLD = functools.partial(ToyWorld, horizon=8)
ROOT = Path(__file__).parents[2]


def request(refs=None, **settings):
    settings = {"budget": 400, "k": 2, "width": 16, "spare": 1} | settings
    return TriageRequest(policies=refs or toy_refs(6), world=Ref(name="toy", digest="w"), **settings)


def go(out, asked=None, **more):
    return run(asked or request(), load_world=WORLD, load_policy=load_toy, out=out, **more)


def rows(out):
    connection = sqlite3.connect(out / DATABASE)
    found = connection.execute("SELECT kind, policy, start, noise, block, success, progress FROM rollouts").fetchall()
    connection.close()
    return sorted(found)


def loader_that_must_not_run(*_):
    raise AssertionError("nothing should be loaded")


def test_policies_that_acted_several_times_on_one_frame_are_known(tmp_path):
    world = Description(num_starts=1000, horizon=8, success_at="end", actions_per_step=4)
    plan = Plan(request=request(), world=world)
    scope = scope_of(plan)
    (batch,) = compose([(1, 0), (2, 0)], scope=scope, block=plan.triage, width=16, policies_per_batch=8)
    values = {f.name: 0.0 for f in dataclasses.fields(RolloutResult) if f.type is float}
    ends = [
        RolloutResult(row=row, solved_at=-1, steps=8, unseen=6 * (slot.policy == 2), **values)
        for row, slot in enumerate(batch.slots)
    ]
    with Store.open(tmp_path / DATABASE) as store:
        store.commit(BatchResult(batch=batch, rollouts=tuple(ends), crashes=()), scope)
        assert Replay(plan, store=store).run().acted_unseen == {2}
        plain = dataclasses.replace(plan, world=dataclasses.replace(world, actions_per_step=1))
        assert Replay(plain, store=store).run().acted_unseen == frozenset()


def test_a_run_ranks_by_skill_and_audits_the_winners_on_fresh_episodes(tmp_path):
    news = []
    results = go(tmp_path, progress=lambda *one: news.append(one))
    ranking = results.ranking
    assert results.finished and [line.policy for line in ranking.policies[:2]] in ([5, 4], [4, 5])
    assert read_ranking(tmp_path).digest == ranking.digest == read_results(tmp_path).ranking.digest
    finalists = np.flatnonzero(results.audit.count)
    assert len(finalists) == 3 and set(results.audit.count[finalists]) == {80 // 3}
    assert results.triage.rollouts + results.audit.rollouts <= 400
    assert not set(results.plan.triage.start) & set(results.plan.audit.start)
    assert [done for _, done, *_ in news] == sorted(done for _, done, *_ in news)
    assert news[-1] == ("world rollouts", len(rows(tmp_path)), 400, {"block": "audit"})


def test_running_again_loads_nothing_and_says_the_same(tmp_path):
    first = go(tmp_path)
    before = rows(tmp_path)
    (tmp_path / "ranking.json").unlink()
    again = run(request(), load_world=loader_that_must_not_run, load_policy=loader_that_must_not_run, out=tmp_path)
    assert again.ranking.digest == first.ranking.digest == read_ranking(tmp_path).digest
    assert rows(tmp_path) == before


@pytest.mark.parametrize("allocator", ["uniform", "halving", "kl-lucb", "thompson"])
def test_the_number_of_workers_changes_nothing(tmp_path, allocator):
    one = go(tmp_path / "one", request(allocator=allocator))
    two = go(tmp_path / "two", request(allocator=allocator, workers=2))
    assert one.ranking.digest == two.ranking.digest
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_world_and_truth_are_played_no_farther_than_asked(tmp_path):
    truth = Arena(kind="truth", world=Ref(name="real", digest="r"), load=ToyArena(world=WORLD()), episodes=4)
    results = go(tmp_path, request(steps=3), arenas=[truth])
    played = sqlite3.connect(tmp_path / DATABASE).execute("SELECT DISTINCT kind, steps FROM rollouts").fetchall()
    assert sorted(played) == [("truth", 3), ("world", 3)]
    found = results.ranking.censoring
    assert (found.steps, found.length, found.rollouts) == (3, 8, results.ranking.rollouts)
    both = results.triage.beside(results.audit)
    assert found.censored == (both.success[both.done] < 0.5).sum() and results.ranking.by_progress
    assert [line.score for line in results.ranking.policies] == sorted(
        (line.score for line in results.ranking.policies), reverse=True
    )
    again = read_results(tmp_path)
    assert again.ranking.digest == results.ranking.digest == read_ranking(tmp_path).digest
    first = {e: results.arenas["truth"].progress[5, e] for e in range(4)}
    assert first == {e: results.triage.progress[5, e] for e in range(4)}  # the same world, read at the same action
    with pytest.raises(InvalidInputError, match="steps: was 3, now 4"):
        go(tmp_path, request(steps=4))
    assert go(tmp_path / "whole", request(steps=99)).ranking.censoring is None


def test_finalists_are_chosen_by_progress_where_success_is_undecided(tmp_path):
    results = go(tmp_path, request(steps=1, allocator="uniform"))
    best = np.argsort(-results.triage.progress_mean, kind="stable")[:3]
    assert results.ranking.by_progress and set(np.flatnonzero(results.audit.count)) == set(best)


class Stop(Exception):
    pass


def test_an_interrupted_run_continues_to_the_same_end(tmp_path):
    complete = go(tmp_path / "complete")
    batches = []
    for patience in range(1, 100):  # stops after 1 batch, then 2 more, then 3 more ...
        limit = len(batches) + patience

        def count(*news, limit=limit):
            batches.append(news)
            if len(batches) == limit:
                raise Stop

        try:
            part = go(tmp_path / "part", progress=count)
        except Stop:
            partial = read_results(tmp_path / "part")
            assert not partial.finished or partial.ranking.digest == complete.ranking.digest
            continue
        break
    assert patience > 3 and part.ranking.digest == complete.ranking.digest
    assert rows(tmp_path / "part") == rows(tmp_path / "complete")
    assert len(batches) == len(
        {w for (w,) in sqlite3.connect(tmp_path / "part" / DATABASE).execute("SELECT batch FROM rollouts")}
    )


SCRIPT = """
import functools, sys
from pathlib import Path
from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import run
if __name__ == "__main__":
    out, log, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    asked = TriageRequest(policies=toy_refs(6, common="log=" + log), world=Ref(name="toy", digest="w"), budget=400, k=2,
        width=16, spare=1, workers=workers)
    world = functools.partial(ToyWorld, horizon=8, delay_s=0.01)
    print(run(asked, load_world=world, load_policy=load_toy, out=out).ranking.digest)
"""


def test_a_killed_process_loses_only_batches_under_way(tmp_path):
    log, out = tmp_path / "log", tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(out), str(log), "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and (not (out / DATABASE).exists() or len(rows_or_none(out)) < 100):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    safe, begun = rows(out), Counter(log.read_text().split("\n"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    later = Counter(log.read_text().split("\n")) - begun
    assert not {f"{name_of(row)} {row[3]}" for row in safe} & set(later), "a finished rollout was computed again"
    assert max((begun + later).values()) <= 2 and sum(v == 2 for v in (begun + later).values()) <= 16
    assert set(safe) <= set(rows(out))
    complete = run(
        request(toy_refs(6, common=f"log={log}")), load_world=WORLD, load_policy=load_toy, out=tmp_path / "complete"
    )
    assert done.stdout.strip() == complete.ranking.digest


def rows_or_none(out):
    try:
        return rows(out)
    except sqlite3.OperationalError:
        return []


def name_of(row):
    return {ref.digest: ref.name for ref in toy_refs(6, common=row[1].split()[-1])}[row[1]]


def test_a_larger_budget_continues_and_reuses_what_is_known(tmp_path):
    small = go(tmp_path)
    before = rows(tmp_path)
    large = go(tmp_path, request(budget=800))
    assert set(before) < set(rows(tmp_path)) and large.ranking.rollouts > small.ranking.rollouts
    fresh = go(tmp_path / "fresh", request(budget=800))
    assert large.ranking.digest == fresh.ranking.digest
    assert len(set(rows(tmp_path)) - set(before)) < len(rows(tmp_path / "fresh"))
    with pytest.raises(InvalidInputError, match="budget: was 800, now 400; it can only grow"):
        go(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 1}, "k: was 2, now 1"),
        ({"seed": 5}, "seed: was 0, now 5"),
        ({"refs": toy_refs(5)}, "policies no longer given: toy-005"),
        ({"refs": toy_refs(6, extra=["gain=1"])}, "policies added: toy-006"),
        ({"refs": toy_refs(6, common="jitter=0.1")}, "policies with other content: toy-000, toy-001"),
        ({"refs": toy_refs(6)[::-1]}, "policies: the same, in another order"),
    ],
)
def test_another_request_on_the_same_folder_is_refused_by_name(tmp_path, change, words):
    go(tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        go(tmp_path, request(**change))
    moved = tuple(dataclasses.replace(ref, source=ref.source + " ") for ref in toy_refs(6))
    go(tmp_path, request(moved, workers=2, timeout_s=9.0))  # what does not decide may change


def test_two_runs_on_one_folder(tmp_path):
    with hold_folder(tmp_path), pytest.raises(StorageError, match="in use by another run"):
        go(tmp_path)
    go(tmp_path)


def test_a_crashed_policy_is_reported_and_the_rest_is_ranked_as_without_it(tmp_path):
    faults = ["gain=0.4 fault=raise at=5", "gain=0.4 fault=nan", "nonsense"]
    results = {}
    for workers in (1, 2):
        results[workers] = go(tmp_path / str(workers), request(toy_refs(6, extra=faults), workers=workers))
    assert results[1].ranking.digest == results[2].ranking.digest
    lines = results[1].ranking.policies
    assert {line.policy for line in lines[-3:]} == {6, 7, 8}
    assert {line.failed for line in lines[-3:]} == {
        "failed at step 5: ValueError: lost the plot, <object object at 0x...>",
        "failed at step 3: it returned NaN or infinite actions",
        "could not be loaded: ValueError: not enough values to unpack (expected 2, got 1)",
    }
    assert "Traceback" in results[1].failures[6].detail
    assert {line.policy for line in lines[:2]} == {4, 5}


def test_what_a_policy_did_in_the_round_of_its_crash_does_not_count(tmp_path):
    asked = request(toy_refs(6, extra=["gain=0.4 fault=rare"]), allocator="uniform")
    one, two = go(tmp_path / "1", asked), go(tmp_path / "2", dataclasses.replace(asked, workers=2))
    survived = [row for row in rows(tmp_path / "1") if row[1] == asked.policies[6].digest]
    assert survived, "no batch of the policy came through: the test shows nothing"
    assert one.failures[6].reason == two.failures[6].reason == "failed at step 3: ValueError: an unlucky number"
    assert one.triage.count[6] == 0 and one.ranking.digest == two.ranking.digest


def test_crashed_policies_get_another_chance_on_request(tmp_path):
    asked = request(toy_refs(6, extra=["gain=0.4"]))

    extra = tmp_path / "extra"
    flaky = functools.partial(rogue_policies.load_once_there, extra)
    first = run(asked, load_world=WORLD, load_policy=flaky, out=tmp_path / "run")
    assert first.failures[6].reason == "could not be loaded: ImportError: an extra is missing"
    extra.touch()
    assert 6 in go(tmp_path / "run", asked).failures
    retried = run(asked, load_world=WORLD, load_policy=flaky, out=tmp_path / "run", retry_crashed=True)
    assert not retried.failures
    assert retried.ranking.digest == go(tmp_path / "fresh", asked).ranking.digest


def test_nothing_to_rank(tmp_path):
    with pytest.raises(PolicyError, match=r"each of the 2 policies crashed: toy-000 failed at step 3.*[^.]\.$"):
        go(tmp_path, request(toy_refs(0, extra=["fault=nan", "gain=0.1 fault=nan"]), budget=50))


def test_equal_checkpoints_are_rolled_out_once(tmp_path):
    refs = toy_refs(4)
    copy = dataclasses.replace(refs[3], name="copy")
    results = go(tmp_path, request((*refs, copy), allocator="uniform"))
    assert np.array_equal(results.triage.success[3], results.triage.success[4])
    assert len(rows(tmp_path)) < results.triage.rollouts + results.audit.rollouts


def test_other_worlds_are_run_on_the_same_or_on_other_starts(tmp_path):
    def arena(kind, **more):
        load = ToyArena(world=ToyWorld(horizon=8, bias=0.01, **more))
        return Arena(kind=kind, world=Ref(name=kind, digest=f"{kind} {more}"), load=load, episodes=12)

    apart = dataclasses.replace(arena("other", count=30), paired=False)
    plain = go(tmp_path)
    results = go(tmp_path, arenas=[arena("truth"), apart])
    assert results.ranking.digest == plain.ranking.digest
    assert results.arenas["truth"].count.tolist() == [12] * 6 == results.arenas["other"].count.tolist()
    starts = {row[2] for row in rows(tmp_path) if row[0] == "truth"}
    assert starts == set(results.plan.triage.start[:12].tolist())
    assert {row[2] for row in rows(tmp_path) if row[0] == "other"} <= set(range(30))
    shared = results.triage.done[:, :12]
    near = results.triage.progress[:, :12][shared] - results.arenas["truth"].progress[shared]
    assert 0 < np.abs(near).mean() < 0.15
    before = rows(tmp_path)
    again = go(tmp_path)  # the arenas stay with the run
    assert again.arenas["truth"].digest == results.arenas["truth"].digest and rows(tmp_path) == before
    with pytest.raises(InvalidInputError, match="pairing needs the same starts"):
        go(tmp_path, arenas=[arena("truth", count=30)])
    with pytest.raises(InvalidInputError, match="Arenas need kinds of their own"):
        go(tmp_path, arenas=[arena("world")])
    with pytest.raises(InvalidInputError, match="paired over 5000 episodes"):
        go(tmp_path, arenas=[dataclasses.replace(arena("truth"), episodes=5000)])


def test_a_policy_that_crashes_only_in_the_truth_keeps_its_rank(tmp_path):
    fails = ToyArena(world=rogue_policies.LateNaNWorld(horizon=8))
    results = go(tmp_path, arenas=[Arena(kind="truth", world=Ref(name="t", digest="t"), load=fails, episodes=4)])
    assert not results.failures and len(results.arena_failures["truth"]) == 6
    assert results.arenas["truth"].failed.all() and results.ranking.top


def test_damaged_folders_are_reported(tmp_path):
    go(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        go(tmp_path)
    (tmp_path / "plan.json").write_text('{"format": "other"}')
    with pytest.raises(InvalidInputError, match="Not a triage plan"):
        read_results(tmp_path)
    with pytest.raises(StorageError, match="not the folder of a triage run"):
        read_results(tmp_path / "nowhere")


def test_a_full_disk_is_reported_and_the_run_goes_on_when_there_is_space(tmp_path, monkeypatch):
    complete = go(tmp_path / "complete")
    commits = 0

    def full(self, result, scope):
        nonlocal commits
        commits += 1
        if commits == 4:
            raise StorageError("database or disk is full")
        commit(self, result, scope)

    commit = triage_run.Store.commit
    monkeypatch.setattr(triage_run.Store, "commit", full)
    with pytest.raises(StorageError, match="disk is full"):
        go(tmp_path / "part")
    assert go(tmp_path / "part").ranking.digest == complete.ranking.digest


def test_the_plan_is_on_disk_before_the_first_rollout(tmp_path):
    look = functools.partial(rogue_policies.load_with_plan, tmp_path)
    with pytest.raises(PolicyError, match="could not be loaded: Stop"):
        run(request(), load_world=WORLD, load_policy=look, out=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"k": 0}, "k must lie in 1..6"),
        ({"k": 7}, "k must lie in 1..6"),
        ({"budget": 5, "audit": 0.0}, "at least one rollout for each of 6 policies"),
        ({"allocator": "halvign"}, "Did you mean 'halving'"),
        ({"audit": 1.0}, "audit must lie"),
        ({"width": 0}, "width must lie in 1"),
        ({"refs": (*toy_refs(2), *toy_refs(1))}, "repeated names .'toy-000'"),
        ({"threshold": 2.0}, "threshold"),
        ({"episodes": 0}, "episodes must lie"),
        ({"judge": "mine"}, "A judge needs both"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(tmp_path, wrong, words):
    from worldsim.errors import WorldsimError

    with pytest.raises(WorldsimError, match=words):
        go(tmp_path, request(**wrong))
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 10**12) for name in ("budget", "spare", "episodes", "width", "workers", "policies_per_batch")),
        ("seed", 2**63),
        ("seed", -1),
        ("timeout_s", float("inf")),
        ("judge", "\ud800"),
    ],
)
def test_a_request_beyond_all_reason_is_refused_before_memory_is_asked_for(field, value):
    with pytest.raises(InvalidInputError, match=f"{field} must|timeout_s in"):
        request(**{field: value})


def test_a_plan_of_other_people_is_refused_in_plain_words(tmp_path):
    truth = Arena(kind="truth", world=Ref(name="toy", digest="t"), load=ToyArena(world=WORLD()), episodes=4)
    go(tmp_path, request(budget=60), arenas=[truth])
    written = (tmp_path / "plan.json").read_text()
    hostile = [
        (("arenas", 0, "episodes"), 10**18),
        (("arenas", 0, "kind"), "\ud800"),
        (("arenas", 0, "kind"), ""),
        (("arenas", 0, "world", "digest"), "\ud800"),
        (("request", "world", "digest"), "\ud800"),
        (("request", "budget"), 10**15),
        (("world", "num_starts"), -1),
        *((("versions",), value) for value in (None, 1, "x", [], {"torch": [1]})),
    ]
    for path, value in hostile:
        plan = json.loads(written)
        functools.reduce(lambda inner, key: inner[key], path[:-1], plan)[path[-1]] = value
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        with pytest.raises((InvalidInputError, StorageError)):
            read_results(tmp_path)


def test_a_run_folder_that_is_deleted_meanwhile_is_noticed(tmp_path):
    out = tmp_path / "run"

    def delete(*news):
        shutil.rmtree(out, ignore_errors=True)

    with pytest.raises(StorageError, match="was deleted or replaced while the run was writing it"):
        go(out, progress=delete)


def test_an_edited_outcome_is_refused_by_name(tmp_path):
    go(tmp_path)
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("UPDATE rollouts SET success = 1")
    connection.commit()
    connection.close()
    for again in (go, read_results):
        with pytest.raises(StorageError, match="does not match its checksum"):
            again(tmp_path)
