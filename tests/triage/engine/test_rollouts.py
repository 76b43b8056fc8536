import dataclasses
import random

import numpy as np
import pytest
import torch

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.core import TRUE_STATE, Verdict
from worldsim.errors import InvalidInputError
from worldsim.rollout import policy_keys
from worldsim.rollout.episodes import TRIAGE, block
from worldsim.rollout.judge import WorldJudge
from worldsim.triage.engine.batches import Scope, compose, hang
from worldsim.triage.engine.rollouts import Loaders, Rollouts
from worldsim.triage.request import Ref, TriageRequest

BLOCK = block(TRIAGE, seed=0, episodes=40, num_starts=1000)
WORLD = ToyWorld(horizon=12)


def rollouts(refs, *, world=WORLD, judge=None, threshold=0.5, load=load_toy):
    """What a worker has."""
    request = TriageRequest(policies=refs, world=Ref(name="w", digest="w"), k=1, threshold=threshold)
    loaders = Loaders(world=lambda: world, policy=load, judge=None if judge is None else lambda world: judge)
    return Rollouts(request, loaders=loaders)


def roll(extra=(), *, pairs=None, lost=None, done=(), width=16, refs=None, **settings):
    """Roll out a batch of three sound policies (one of pixels) and some others: results by (policy, episode), crashes."""
    refs = refs or toy_refs(3, extra=extra)
    scope = Scope(kind="world", world="w", judge="j", policies=refs)
    pairs = [(p, e) for p in range(len(refs)) for e in range(3)] if pairs is None else pairs
    (batch,) = compose(pairs, scope=scope, block=BLOCK, width=width, policies_per_batch=16)
    batch = dataclasses.replace(batch, done=frozenset(done))
    result = rollouts(refs, **settings).run(batch, lost or {})
    ends = {
        (batch.slots[f.row].policy, batch.slots[f.row].episode): dataclasses.replace(f, row=0) for f in result.rollouts
    }
    return ends, {c.policy: c for c in result.crashes}


def test_a_batch_plays_policies_on_their_own_rows():
    ends, crashes = roll()
    assert not crashes and set(ends) == {(p, e) for p in range(3) for e in range(3)}
    assert all(f.steps == 12 and 0 <= f.success <= 1 and f.progress <= f.progress_max for f in ends.values())
    assert sum(ends[2, e].progress for e in range(3)) > sum(ends[0, e].progress for e in range(3)) + 0.5


def test_a_rollout_is_the_same_alone_and_in_company():
    together, _ = roll()
    for pair, end in together.items():
        alone, _ = roll(pairs=[pair])
        assert alone == {pair: end}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "failed at step 3: ValueError: lost the plot, <object object at 0x...>"),
        ("nan", "failed at step 3: it returned NaN or infinite actions"),
        ("shape", "failed at step 3: it returned actions of shape (3, 1), expected a tensor of shape (3, 2)"),
        ("sysexit", "failed at step 3: SystemExit: 3"),
    ],
)
def test_a_crash_leaves_the_rest_untouched(fault, words):
    healthy, _ = roll()
    ends, crashes = roll([f"gain=0.5 fault={fault}"])
    assert ends == healthy
    assert list(crashes) == [3] and crashes[3].reason == words and crashes[3].step == 3
    assert "Traceback" in crashes[3].detail or fault in ("nan",)


def test_a_policy_that_writes_into_what_it_sees_changes_no_world():
    extra = ["gain=0.1 at=5"]
    clean, _ = roll(extra)
    dirty, crashes = roll([extra[0] + " fault=write"])
    assert not crashes
    for e in range(3):  # its own action at that step is that of a point at the origin; the world goes on as it was
        assert 0 < abs(clean[3, e].progress - dirty[3, e].progress) < 0.05
    assert {k: v for k, v in clean.items() if k[0] < 3} == {k: v for k, v in dirty.items() if k[0] < 3}


class Greedy:
    needs = frozenset({"observation.sound"})

    def initial(self, n):
        return None

    def act(self, observation, carry, keys):
        raise AssertionError


class Peeping(Greedy):
    needs = frozenset({TRUE_STATE})


def test_a_policy_that_cannot_be_loaded_or_begun_crashes_alone():
    healthy, _ = roll()
    refs = toy_refs(3, extra=["missing", "greedy", "peeping"])

    def load(ref):
        if ref.source.strip() == "missing":
            raise FileNotFoundError("no such weights")
        return {"greedy": Greedy, "peeping": Peeping}.get(ref.source.strip(), lambda: load_toy(ref))()

    ends, crashes = roll(refs=refs, pairs=[(p, 0) for p in range(6)], load=load)
    assert ends == {(p, 0): healthy[p, 0] for p in range(3)}
    assert crashes[3].reason == "could not be loaded: FileNotFoundError: no such weights"
    assert crashes[4].reason.startswith(
        "could not start: it needs observation.sound, which this world does not give; it gives "
    )
    assert crashes[5].reason.startswith(
        f"could not start: it needs {TRUE_STATE}, which this world does not give; it gives "
    )


def test_done_rows_and_lost_policies_idle():
    healthy, _ = roll()
    ends, crashes = roll(done=[0, 2, 4], lost={2: hang(2, 5.0)})
    assert ends == {k: v for i, (k, v) in enumerate(healthy.items()) if i not in (0, 2, 4) and k[0] < 2}
    assert crashes[2].reason == "did not answer within 5 s"


def test_policies_share_noise_by_episode_and_not_by_row():
    keys = policy_keys(torch.tensor([5, 9]), 4)
    assert torch.equal(keys[:, 0], policy_keys(torch.tensor([5]), 4)[:, 0])
    assert len(set(keys.flatten().tolist())) == 8
    assert torch.equal(keys, policy_keys(torch.tensor([9, 5]), 7)[:4].flip(1))


def test_draws_from_global_generators_repeat_and_do_not_depend_on_others():
    faulty = ["gain=0.5 fault=global", "gain=0.4 fault=global"]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    both, _ = roll(faulty)
    torch.manual_seed(2)
    assert roll(faulty)[0] == both
    quiet, _ = roll([faulty[0], "gain=0.4"])  # the same batch but for its id, which seeds
    assert {k: v for k, v in quiet.items() if k[0] < 3} == {k: v for k, v in both.items() if k[0] < 3}


class Broken(ToyWorld):
    """Answers with NaN where the point has gone too far left."""

    def step(self, state, action):
        state, step = super().step(state, action)
        wrong = torch.where(step.proprio[:, 0] < -0.8, torch.nan, step.progress)
        return state, dataclasses.replace(step, progress=wrong, uncertainty=step.progress * torch.nan)


def test_a_world_that_leaves_the_numbers_takes_out_the_policy_not_the_run():
    ends, crashes = roll(world=Broken(horizon=12, bias=-0.05))
    assert list(crashes) == [0] and {p for p, _ in ends} == {1, 2}
    assert crashes[0].reason == "failed at step 12: the world answered its actions with NaN"
    assert all(f.uncertainty_mean == float("inf") for f in ends.values())


def test_frames_are_decoded_only_for_those_who_look():
    looks = []

    class Spy(ToyWorld):
        def decode(self, latent, camera=None):
            looks.append(len(latent))
            return super().decode(latent, camera)

    roll(world=Spy(horizon=12), pairs=[(0, 0), (1, 0)])
    assert looks == [1, 16]  # the check of the world, the starts
    looks.clear()
    roll(world=Spy(horizon=12), pairs=[(0, 0), (2, 0)])
    assert looks == [1] + [16] * 12


def test_a_judge_of_ones_own_sees_latents_and_has_the_last_word():
    seen = []

    def judge(rollout):
        seen.append((tuple(rollout.latent.shape), tuple(rollout.action.shape)))
        n = rollout.batch
        return Verdict(
            success=torch.full((n,), 0.25),
            progress=rollout.progress[:, 0],
            abstain=torch.ones(n, dtype=torch.bool),
            failed_at=torch.zeros(n, dtype=torch.int64),
            text=tuple(f"row {i}" for i in range(n)),
        )

    ends, _ = roll(judge=judge)
    assert seen == [((9, 12, 2, 1, 1), (9, 12, 2))]
    assert {f.success for f in ends.values()} == {0.25} and all(f.abstained for f in ends.values())
    assert ends[0, 1].note == "row 1" and ends[0, 1].probability != 0.25
    with pytest.raises(InvalidInputError, match="judge returned NaN"):
        roll(judge=lambda r: dataclasses.replace(judge(r), success=torch.full((r.batch,), torch.nan)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyTime(ToyWorld):
    @property
    def spec(self):
        return dataclasses.replace(super().spec, success_at="any")


def test_the_rule_decides_when_success_counts():
    at_end, _ = roll(threshold=None)
    at_any, _ = roll(world=AnyTime(horizon=12), threshold=None)
    hard, _ = roll()
    for pair, end in at_end.items():
        assert end.success == end.probability <= at_any[pair].probability
        assert hard[pair].success == float(end.success >= 0.5)
        assert at_any[pair].progress == end.progress_max >= end.progress
        assert (end.solved_at == -1) == (at_any[pair].probability <= 0.5)
    with pytest.raises(InvalidInputError, match="threshold"):
        WorldJudge(threshold=0.0)


def test_films_show_what_run_saw():
    refs = toy_refs(3)
    scope = Scope(kind="world", world="w", judge="j", policies=refs)
    (batch,) = compose([(2, 0), (2, 1)], scope=scope, block=BLOCK, width=16, policies_per_batch=16)
    filmed = rollouts(refs).film(batch, {})
    assert [f.row for f in filmed] == [0, 1] and {f.frames.shape for f in filmed} == {(13, 8, 8, 3)}
    ends, _ = roll()
    assert [f.success for f in filmed] == [ends[2, 0].success, ends[2, 1].success]
