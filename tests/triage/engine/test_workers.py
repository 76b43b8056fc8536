"""Worker processes: real ones, really killed. Policies that misbehave are reported, alone; the others go on."""

import dataclasses
import functools
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # workers import it by this name
import rogue_policies

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.errors import InvalidInputError, StorageError
from worldsim.rollout.episodes import TRIAGE, block
from worldsim.storage import read_json
from worldsim.triage.engine import workers as workers_module
from worldsim.triage.engine.batches import Scope, compose
from worldsim.triage.engine.rollouts import Loaders, Rollouts
from worldsim.triage.engine.workers import Workers
from worldsim.triage.request import Ref, TriageRequest

BLOCK = block(TRIAGE, seed=0, episodes=8, num_starts=100)
load_no_world = functools.partial(read_json, Path("/nowhere/world"))  # importable in other processes
LOADERS = Loaders(world=functools.partial(ToyWorld, horizon=8), policy=rogue_policies.load)


def request(refs, **settings):
    settings = {"budget": 100, "k": 1, "timeout_s": 60.0, "workers": 1} | settings
    return TriageRequest(policies=refs, world=Ref(name="toy", digest="w"), **settings)


def batches_of(refs, *, episodes=8, together=8):
    scope = Scope(kind="world", world="w", judge="j", policies=refs)
    pairs = [(p, e) for p in range(len(refs)) for e in (range(episodes) if isinstance(episodes, int) else episodes)]
    return compose(pairs, scope=scope, block=BLOCK, width=32, policies_per_batch=together)


def work(refs, *, order=1, loaders=LOADERS, together=8, between=None, **settings):
    """Roll out all policies on all episodes; returns results by (policy, episode), crashes by policy."""
    batches, ends, crashes = batches_of(refs, together=together)[::order], {}, {}
    with Workers(request(refs, **settings), loaders=loaders) as workers:
        for result in workers.run(batches):
            for found in result.rollouts:
                slot = result.batch.slots[found.row]
                assert (slot.policy, slot.episode) not in ends
                ends[slot.policy, slot.episode] = dataclasses.replace(found, row=0)
            crashes |= {c.policy: c for c in result.crashes}
            if between is not None:
                between(workers)
    assert {p for p, _ in ends} | set(crashes) == set(range(len(refs)))
    return ends, crashes


def refs_with(*deeds, isolated=False):
    """Three sound toy policies and some rogues, in the same batch unless isolated."""
    sound, bad = toy_refs(3), toy_refs(0, extra=deeds)
    bad = tuple(dataclasses.replace(r, name=f"rogue-{i}", isolated=isolated) for i, r in enumerate(bad))
    return (sound[0], *bad, *sound[1:])


@pytest.fixture(scope="module")
def healthy():
    ends, crashes = work(toy_refs(3))
    assert not crashes and len(ends) == 24
    return ends


def assert_untouched(ends, healthy, *, rogue_count):
    """The sound policies of `refs_with` did what they do without the rogue_policies."""
    places = {0: 0, 1: 1 + rogue_count, 2: 2 + rogue_count}
    assert {(p, e): ends[places[p], e] for p, e in healthy} == healthy


def test_the_number_of_workers_and_the_order_make_no_difference():
    refs = toy_refs(5, extra=["gain=0.5 fault=raise", "gain=0.3 fault=global"])
    one, crashed = work(refs, together=2)
    assert len(one) == 6 * 8 and list(crashed) == [5]
    for workers, order in ((1, -1), (2, 1), (2, -1)):
        ends, crashes = work(refs, together=2, workers=workers, order=order)
        assert ends == one and {c.reason for c in crashes.values()} == {crashed[5].reason}


def test_a_worker_computes_what_this_process_does(healthy):
    refs = toy_refs(3)
    (batch,) = batches_of(refs)
    result = Rollouts(request(refs), loaders=LOADERS).run(batch, {})
    slots = [batch.slots[r.row] for r in result.rollouts]
    found = {(s.policy, s.episode): r for s, r in zip(slots, result.rollouts, strict=True)}
    assert {k: dataclasses.replace(r, row=0) for k, r in found.items()} == healthy


RAISES = {
    "panic": "failed at step 2: Panic: index out of bounds",
    "unspeakable": "failed at step 2: Unspeakable",
    "interrupt": "failed at step 2: KeyboardInterrupt",
    "escape": "failed at step 2: ValueError: \ufffd[31mred\ufffd[0m \ufffd",
    "meta": "failed at step 2: it returned actions as a meta tensor, expected plain real numbers",
    "sparse": "failed at step 2: it returned actions as a torch.float32 tensor of layout torch.sparse_coo, "
    "expected plain real numbers",
    "complex": "failed at step 2: it returned actions as a torch.complex64 tensor of layout torch.strided, "
    "expected plain real numbers",
    "nothing": "failed at step 2: it returned actions of NoneType, expected a tensor of shape (8, 2)",
    "raise_while_loading": "could not be loaded: Panic: no such symbol",
    "leave_without_loading": "could not be loaded: SystemExit: 4",
}
KILLS = {
    "leave": "its process died (exit code 0) while it ran",
    "fork_and_leave": "its process died (exit code 0) while it ran",
    "exit_while_loading": "its process died (exit code 9) while it ran",
}


def test_a_policy_that_breaks_torch_in_a_process_of_its_own_is_reported_alone(healthy):
    ends, crashes = work(refs_with("patch_torch", isolated=True), workers=2)
    reason = "the world failed in its process after it had run (ZeroDivisionError: division by zero)"
    assert {policy: crash.reason for policy, crash in crashes.items()} == {1: reason}
    assert_untouched(ends, healthy, rogue_count=1)


def test_a_policy_that_breaks_torch_in_a_shared_process_is_reported_alone(healthy):
    ends, crashes = work(refs_with("patch_torch"))
    reason = "the world failed in its process after it had run (ZeroDivisionError: division by zero)"
    assert {policy: crash.reason for policy, crash in crashes.items()} == {1: reason}
    assert_untouched(ends, healthy, rogue_count=1)


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("deed", ["write_into_the_pipe", "write_half_a_message", "write_half_a_message_and_hang"])
def test_a_policy_that_writes_into_its_workers_pipe_is_reported_alone(healthy, deed, isolated):
    ends, crashes = work(refs_with(deed, isolated=isolated), timeout_s=5.0)
    assert list(crashes) == [1] and "its process died" in crashes[1].reason
    assert_untouched(ends, healthy, rogue_count=1)


def test_what_workers_print_is_shown_without_control_characters(healthy, capsys):
    ends, crashes = work(refs_with("print_escapes", "print_endlessly"))
    shown = capsys.readouterr()
    assert not crashes and not shown.out
    assert "\ufffd[31mred\ufffd[0m\n" in shown.err and "\ufffd and \ufffd]0;title\ufffd" in shown.err
    assert "the rest is not shown" in shown.err and 2**15 < shown.err.count("y") <= 2**16
    assert_untouched(ends, healthy, rogue_count=2)


def test_a_world_that_raises_before_an_isolated_policy_has_run_is_not_blamed_on_it():
    broken = dataclasses.replace(LOADERS, world=functools.partial(divmod, 1, 0))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        work(refs_with("panic", isolated=True), loaders=broken)


@pytest.mark.parametrize("isolated", [False, True])
def test_whatever_a_policy_raises_or_returns_the_others_go_on(healthy, isolated):
    ends, crashes = work(refs_with(*RAISES, isolated=isolated), together=16, workers=2 if isolated else 1)
    assert [crashes[i + 1].reason for i in range(len(RAISES))] == list(RAISES.values())
    assert_untouched(ends, healthy, rogue_count=len(RAISES))


@pytest.mark.parametrize("isolated", [False, True])
def test_a_policy_that_kills_its_process_is_found_out_and_the_others_go_on(healthy, isolated):
    ends, crashes = work(refs_with(*KILLS, isolated=isolated), together=16)
    assert {c: crashes[c].reason for c in crashes} == {i + 1: r for i, r in enumerate(KILLS.values())}
    assert_untouched(ends, healthy, rogue_count=len(KILLS))


def test_settings_of_torch_are_put_back(healthy):
    ends, crashes = work(refs_with("change_settings", "double", "fork_and_carry_on"))
    assert not crashes
    assert_untouched(ends, healthy, rogue_count=3)
    alone, _ = work(toy_refs(0, extra=["change_settings"]))
    assert {e: r for (p, e), r in ends.items() if p == 1} == {e: r for (_, e), r in alone.items()}


@pytest.mark.parametrize("isolated", [False, True])
def test_a_policy_that_swallows_everything_and_hangs_is_killed(healthy, isolated):
    refs = refs_with("hang_whatever_happens", isolated=isolated)
    ends, crashes = work(refs, timeout_s=0.5)
    assert {p: c.reason for p, c in crashes.items()} == {1: "did not answer within 0.5 s"}
    assert_untouched(ends, healthy, rogue_count=1)


@pytest.mark.parametrize("deed", ["close_everything", "leave_later"])
def test_a_worker_that_dies_between_calls_is_blamed_on_the_policy_that_alone_has_it_die(healthy, deed):
    slow = dataclasses.replace(LOADERS, world=functools.partial(ToyWorld, horizon=8, delay_s=0.03))
    ends, crashes = work(refs_with(deed), loaders=slow)
    assert list(crashes) == [1] and "its process died" in crashes[1].reason
    assert_untouched(ends, healthy, rogue_count=1)


def test_the_fork_server_may_be_killed(healthy):
    ends, crashes = work(refs_with("kill_the_fork_server"))
    assert list(crashes) == [1] and "its process died" in crashes[1].reason
    assert_untouched(ends, healthy, rogue_count=1)


def test_workers_outlive_their_fork_server_and_new_ones_start(healthy):
    killed = []

    def kill(workers):
        if not killed:
            killed.append(forkserver._forkserver._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)

    ends, crashes = work(toy_refs(3), together=1, between=kill)
    assert killed and not crashes and ends == healthy
    assert work(toy_refs(3), workers=2)[0] == healthy


@pytest.mark.parametrize("times", [1, 2])
def test_workers_killed_while_they_load_are_started_again(tmp_path, healthy, times):
    loaders = dataclasses.replace(LOADERS, world=rogue_policies.dying_world(tmp_path, times=times))
    ends, crashes = work(toy_refs(3), loaders=loaders)
    assert not crashes and ends == healthy


def test_workers_that_keep_dying_while_they_load_end_the_run_in_plain_words(tmp_path):
    loaders = dataclasses.replace(LOADERS, world=rogue_policies.dying_world(tmp_path, times=99))
    with pytest.raises(InvalidInputError, match=r"3 worker processes died.* exit code -9.* loaded the world world"):
        work(toy_refs(3), loaders=loaders)
    with (
        pytest.raises(InvalidInputError, match="3 worker processes died"),
        Workers(request(toy_refs(1)), loaders=loaders) as workers,
    ):
        workers.describe("world")


def test_a_world_that_does_not_load_stops_the_run_with_its_own_words():
    loaders = dataclasses.replace(LOADERS, world=load_no_world)
    with pytest.raises(StorageError, match="Could not read /nowhere/world"):
        work(toy_refs(2), loaders=loaders)
    with pytest.raises(StorageError), Workers(request(toy_refs(2)), loaders=loaders) as workers:
        workers.describe("world")
    with pytest.raises(InvalidInputError, match="returned a dict, which is not a World"):
        work(toy_refs(2), loaders=dataclasses.replace(LOADERS, world=dict))


def test_a_broken_world_is_named_and_no_policy_blamed():
    with pytest.raises(InvalidInputError, match=r"The world world itself is broken: .* NaN .* progress"):
        work(toy_refs(2), loaders=dataclasses.replace(LOADERS, world=rogue_policies.NaNWorld))


def test_a_policy_of_pixels_in_a_world_without_is_reported_alone():
    ends, crashes = work(toy_refs(3), loaders=dataclasses.replace(LOADERS, world=rogue_policies.BlindWorld))
    assert {p for p, _ in ends} == {0, 1}
    assert crashes[2].reason.startswith(
        "could not start: it needs observation.image, which this world does not give; it gives "
    )


def test_loaders_that_cannot_travel_are_refused():
    loaders = dataclasses.replace(LOADERS, policy=lambda ref: load_toy(ref))
    with pytest.raises(InvalidInputError, match="at the top level of a module"):
        work(toy_refs(2), loaders=loaders)


def test_a_worker_describes_a_world():
    with Workers(request(toy_refs(2)), loaders=LOADERS) as workers:
        found = workers.describe("world")
    assert (found.num_starts, found.horizon, found.success_at) == (1000, 8, "end")


def test_isolated_policies_share_no_batch():
    refs = tuple(dataclasses.replace(r, isolated=i in (2, 3)) for i, r in enumerate(toy_refs(5)))
    held = [sorted({s.policy for s in b.slots}) for b in batches_of(refs, episodes=4)]
    assert held == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("settings", "loads"), [({}, 4), ({"_KEPT": 2}, 8), ({"_MEMORY_LEFT": 2.0}, 8)], ids=["kept", "two", "no memory"]
)
def test_workers_of_isolated_policies_are_kept_as_far_as_memory_and_number_allow(
    tmp_path, monkeypatch, healthy, settings, loads
):
    for name, value in ({"_MEMORY_LEFT": 0.0} | settings).items():
        monkeypatch.setattr(workers_module, name, value)
    refs = tuple(dataclasses.replace(r, isolated=i > 0) for i, r in enumerate((*toy_refs(3), toy_refs(4)[3])))
    loaders = dataclasses.replace(LOADERS, world=functools.partial(rogue_policies.counted_world, tmp_path))
    ends = {}
    with Workers(request(refs), loaders=loaders) as workers:
        for episodes in (range(4), range(4, 8)):
            batches = batches_of(refs, episodes=episodes)
            for result in workers.run(batches):
                slots = [result.batch.slots[r.row] for r in result.rollouts]
                ends |= {
                    (s.policy, s.episode): dataclasses.replace(r, row=0)
                    for s, r in zip(slots, result.rollouts, strict=True)
                }
    assert {key: ends[key] for key in healthy} == healthy
    assert len(list(tmp_path.iterdir())) == loads


def test_a_worker_keeps_the_latest_policies_and_does_not_retry_what_failed():
    loads = []

    def load(ref):
        loads.append(ref.name)
        return load_toy(ref)

    refs = toy_refs(3, extra=["nonsense"])
    kept = Rollouts(request(refs, policies_per_batch=2), loaders=dataclasses.replace(LOADERS, policy=load))
    for index in (0, 1, 0, 2, 0, 1):
        kept.policy(index)
    assert loads == ["toy-000", "toy-001", "toy-002", "toy-001"]
    for _ in range(2):
        with pytest.raises(ValueError, match="not enough values"):
            kept.policy(3)
    assert loads[4:] == ["toy-003"]
