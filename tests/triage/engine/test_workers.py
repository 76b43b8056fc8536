import dataclasses
import functools
import signal
import time
from pathlib import Path

import pytest

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.errors import InvalidInputError, StorageError
from worldsim.rollout.episodes import TRIAGE, block
from worldsim.storage import read_json
from worldsim.triage.engine.batches import Scope, compose
from worldsim.triage.engine.bench import Bench, Loaders
from worldsim.triage.engine.workers import InProcess, Pool, make_executor
from worldsim.triage.request import Ref, TriageRequest

BLOCK = block(TRIAGE, seed=0, episodes=8, num_starts=100)


def request(refs, **settings):
    settings = {"budget": 100, "k": 1, "timeout_s": 60.0, "workers": 2} | settings
    return TriageRequest(policies=refs, world=Ref(name="toy", digest="w"), **settings)


load_no_world = functools.partial(read_json, Path("/nowhere/world"))  # importable in other processes
LOADERS = Loaders(worlds={"world": functools.partial(ToyWorld, horizon=8)}, policy=load_toy)


def work(kind, refs, *, episodes=8, order=1, loaders=LOADERS, **settings):
    """Roll out all policies on all episodes; returns endings by (policy, episode), crashes by policy, results."""
    scope = Scope(kind="world", world="w", judge="j", policies=refs)
    pairs = [(p, e) for p in range(len(refs)) for e in range(episodes)]
    waves = compose(pairs, scope=scope, block=BLOCK, width=8, policies_per_wave=2)[::order]
    with kind(request(refs, **settings), loaders=loaders) as executor:
        results = list(executor.run(waves))
    assert sorted(r.wave.id for r in results) == sorted(w.id for w in waves)
    ends = {
        (r.wave.slots[f.row].policy, r.wave.slots[f.row].episode): dataclasses.replace(f, row=0)
        for r in results
        for f in r.finished
    }
    return ends, {c.policy: c for r in results for c in r.crashes}, results


def test_processes_and_order_make_no_difference():
    refs = toy_refs(5, extra=["gain=0.5 fault=raise", "gain=0.3 fault=global"])
    here, crashed, _ = work(InProcess, refs)
    assert len(here) == 6 * 8 and list(crashed) == [5]
    for kind, order in ((InProcess, -1), (Pool, 1), (Pool, -1)):
        ends, crashes, _ = work(kind, refs, order=order)
        assert ends == here and {c.reason for c in crashes.values()} == {crashed[5].reason}


def test_a_hung_policy_is_killed_and_the_rest_goes_on():
    refs = toy_refs(3)
    healthy, _, _ = work(InProcess, refs)
    stuck = (*refs, *toy_refs(0, extra=["gain=0.1 fault=hang"]))
    stuck = tuple(dataclasses.replace(r, name=str(i)) for i, r in enumerate(stuck))
    for kind in (InProcess, Pool):
        began = time.monotonic()
        ends, crashes, _ = work(kind, stuck, timeout_s=1.0)
        assert ends == healthy
        assert {p: c.reason for p, c in crashes.items()} == {3: "did not answer within 1 s"}
        assert time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_policy_that_kills_its_process_is_found_out():
    refs = toy_refs(2, extra=["gain=0.1 fault=exit"])
    healthy, _, _ = work(InProcess, refs[:2])
    ends, crashes, _ = work(Pool, refs)
    assert ends == healthy
    assert crashes[2].reason == "its process died (exit code 7) while it ran"


def test_a_world_that_does_not_load_stops_the_run_with_its_own_words():
    for kind in (InProcess, Pool):
        loaders = dataclasses.replace(LOADERS, worlds={"world": load_no_world})
        with pytest.raises(StorageError, match="Could not read /nowhere/world"):
            work(kind, toy_refs(2), loaders=loaders)
        with pytest.raises(StorageError), kind(request(toy_refs(2)), loaders=loaders) as executor:
            executor.describe("world")
    loaders = dataclasses.replace(LOADERS, worlds={"world": dict})
    with pytest.raises(InvalidInputError, match="returned a dict, which is not a World"):
        work(InProcess, toy_refs(2), loaders=loaders)


def test_loaders_that_cannot_travel_are_told():
    loaders = dataclasses.replace(LOADERS, policy=lambda ref: load_toy(ref))
    with pytest.raises(InvalidInputError, match="top level of a module; or use workers=1"):
        work(Pool, toy_refs(2), loaders=loaders)
    assert len(work(InProcess, toy_refs(2), loaders=loaders)[0]) == 16


def test_both_describe_a_world():
    for workers in (1, 2):
        with make_executor(request(toy_refs(2), workers=workers), loaders=LOADERS) as executor:
            found = executor.describe("world")
        assert (found.num_starts, found.horizon, found.success_at) == (1000, 8, "end")


def test_a_bench_keeps_the_latest_policies_and_does_not_retry_what_failed():
    loads = []

    def load(ref):
        loads.append(ref.name)
        return load_toy(ref)

    refs = toy_refs(3, extra=["nonsense"])
    bench = Bench(request(refs, policies_per_wave=2), loaders=dataclasses.replace(LOADERS, policy=load))
    for index in (0, 1, 0, 2, 0, 1):
        bench.policy(index)
    assert loads == ["toy-000", "toy-001", "toy-002", "toy-001"]
    for _ in range(2):
        with pytest.raises(ValueError, match="not enough values"):
            bench.policy(3)
    assert loads[4:] == ["toy-003"]
