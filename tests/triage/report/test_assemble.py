import dataclasses

import numpy as np
import pytest

from worldsim.triage.engine.batches import Crash
from worldsim.triage.engine.plan import ArenaPlan, Description, Plan
from worldsim.triage.engine.replay import Results
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report import ReportData, assemble, render
from worldsim.triage.request import Ref, TriageRequest

K, EPISODES = 12, 40


def table(generator: np.random.Generator, *, episodes: int, flip: float = 0.0) -> Evidence:
    rate = np.linspace(0.9, 0.1, K)
    success = np.random.default_rng(1).random((K, 400))[:, :episodes] < rate[:, None]
    success = success ^ (generator.random(success.shape) < flip)
    return Evidence(success=success, progress=0.3 + 0.6 * success, failed=np.zeros(K, dtype=bool))


@pytest.fixture(scope="module")
def results() -> Results:
    generator = np.random.default_rng(2)
    refs = tuple(Ref(name=f"run/{i}", digest=f"{i:02d}" * 32) for i in range(K))
    request = TriageRequest(
        policies=refs, world=Ref(name="push", digest="ab" * 32, source="worlds/push"), k=3, budget=600
    )
    arenas = tuple(
        ArenaPlan(kind=kind, world=Ref(name=name, digest="cd" * 32), episodes=EPISODES, paired=True, num_starts=500)
        for kind, name in (("truth", "worldsim/Push-v0"), ("roundtrip", "push eyes"))
    )
    plan = Plan(
        request=request,
        world=Description(num_starts=500, horizon=50, success_at="end", task="Push it."),
        arenas=arenas,
        versions={"worldsim": "0.1.0"},
    )
    triage = table(generator, episodes=len(plan.triage)).fail(11)
    ranking = Ranking.from_evidence(triage, names=[r.name for r in refs], k=3, failures={11: "raised"})
    return Results(
        plan=plan,
        ranking=ranking,
        triage=triage,
        audit=None,
        arenas={
            "truth": table(generator, episodes=EPISODES, flip=0.05),
            "roundtrip": table(generator, episodes=EPISODES, flip=0.2),
        },
        failures={11: Crash(policy=11, stage="act", step=3, reason="raised")},
        arena_failures={"truth": {11: Crash(policy=11, stage="act", step=3, reason="raised")}},
        finished=True,
    )


@pytest.fixture(scope="module")
def data(results: Results) -> ReportData:
    return assemble(results, command="worldsim triage", made="today", core_s=12.0, settings={"device": "cpu"})


def test_everything_a_run_knows_is_gathered(results: Results, data: ReportData) -> None:
    assert data.ranking is results.ranking and data.task == "Push it." and data.allocator == "halving"
    assert data.manifest.settings["device"] == "cpu" and data.manifest.digests["policy run/3"] == "03" * 32
    assert data.manifest.digests["ranking"] == results.ranking.digest
    assert data.manifest.seeds == {"episode table": 0}
    spent = np.sum([r.rollouts for r in data.rounds], axis=0)
    assert (spent == results.triage.count).all()
    assert data.distinct_starts == results.plan.triage.distinct_starts
    assert data.remarks == ("In the truth environment 1 policy crashed and could not be compared.",)
    assert "Push it." in render(data)


def test_the_truth_is_compared_on_the_same_episodes(results: Results, data: ReportData) -> None:
    truth = data.truth
    assert truth is not None and truth.episodes is not None
    both = results.triage.columns(EPISODES).done & results.arenas["truth"].done
    assert truth.episodes.total == both.sum()
    same = (results.triage.success[:, :EPISODES] == results.arenas["truth"].success)[both].mean()
    assert truth.episodes.same == pytest.approx(same)
    assert [e.value for e in truth.success.estimates if e.name == "episode_accuracy"] == [pytest.approx(same)]
    best = truth.policies[0]
    assert best.truth.success == pytest.approx(results.arenas["truth"].success_mean[best.policy])
    assert best.world.rollouts == results.triage.columns(EPISODES).count[best.policy]
    assert best.world.success in best.world.success_anytime and best.truth.success in best.truth.success_exact


def test_the_round_trip_is_paired_and_in_rank_order(results: Results, data: ReportData) -> None:
    trips = data.round_trip
    assert [t.policy for t in trips] == [p.policy for p in results.ranking.policies]
    for trip in trips:
        assert trip.gap is not None and trip.gap.low <= trip.lost <= trip.gap.high
    assert trips[0].direct.success == pytest.approx(results.arenas["truth"].success_mean[trips[0].policy])


def test_a_run_without_other_worlds(results: Results) -> None:
    plan = dataclasses.replace(results.plan, arenas=())
    data = assemble(
        dataclasses.replace(results, plan=plan, arenas={}, arena_failures={}, finished=False), command="", made=""
    )
    assert data.truth is None and data.round_trip == ()
    assert data.remarks == ("The run is not finished: run the same command again to continue it.",)


def test_unpaired_truth_is_compared_with_all_that_the_world_said(results: Results) -> None:
    arena = dataclasses.replace(results.plan.arenas[0], paired=False)
    plan = dataclasses.replace(results.plan, arenas=(arena,))
    truth = assemble(dataclasses.replace(results, plan=plan), command="", made="").truth
    assert truth is not None and truth.episodes is None
    assert truth.policies[0].world.rollouts == results.triage.count[truth.policies[0].policy]


def test_a_world_of_several_actions_a_step_says_what_policies_did_not_see(results: Results, data: ReportData) -> None:
    plan = dataclasses.replace(results.plan, world=dataclasses.replace(results.plan.world, actions_per_step=4))
    several = dataclasses.replace(results, plan=plan, arena_failures={})
    (remark,) = assemble(dataclasses.replace(several, acted_unseen=frozenset({1, 4})), command="", made="").remarks
    assert "predicts 4 frames at once" in remark and "2 of 12 policies do not plan in chunks" in remark
    assert assemble(several, command="", made="").remarks == ()  # all plan in chunks
    assert not any("at once" in text for text in data.remarks)
