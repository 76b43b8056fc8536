import functools
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "engine"))  # workers import it by this name
import slow_worlds

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.errors import InvalidInputError
from worldsim.triage.estimate import forecast
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import run


def request(**settings):
    settings = {"policies": toy_refs(8), "budget": 400, "k": 2, "width": 16, "spare": 1} | settings
    return TriageRequest(world=Ref(name="toy", digest="w"), **settings)


@pytest.mark.parametrize("allocator", ["halving", "uniform"])
def test_the_forecast_counts_what_the_run_then_does(tmp_path, allocator):
    batches = []
    world = functools.partial(ToyWorld, horizon=10)
    found = forecast(request(allocator=allocator), load_world=world, load_policy=load_toy)
    results = run(
        request(allocator=allocator),
        load_world=world,
        load_policy=load_toy,
        out=tmp_path,
        progress=lambda *news: batches.append(news),
    )
    assert len(batches) == found.batches and results.ranking.rollouts <= found.rollouts == 400
    best = results.ranking.policies[0].policy
    assert found.episodes == int(results.triage.count[best] + results.audit.count[best])
    assert found.distinct_starts == results.plan.triage.distinct_starts
    assert f"at most 400 rollouts in {found.batches} batches" in str(found)


def test_time_follows_the_speed_of_the_world_and_the_workers():
    world = functools.partial(slow_worlds.load, horizon=50)
    one = forecast(request(), load_world=world, load_policy=load_toy)
    two = forecast(request(workers=2), load_world=world, load_policy=load_toy)
    assert one.seconds == 2 * two.seconds == one.batches * 50


@pytest.mark.parametrize("horizon", [10, 100])
def test_steps_count_each_and_a_judge_once_a_batch(horizon):
    world = functools.partial(slow_worlds.load, horizon=horizon)
    plain = forecast(request(), load_world=world, load_policy=load_toy)
    judged = forecast(request(judge="slow"), load_world=world, load_policy=load_toy, load_judge=slow_worlds.SlowJudge)
    assert plain.seconds == pytest.approx(plain.batches * horizon)
    assert judged.seconds == pytest.approx(judged.batches * (horizon + 60))


def test_more_episodes_tell_smaller_gaps():
    gaps = [forecast(request(budget=b), load_world=ToyWorld, load_policy=load_toy).gap for b in (200, 800, 3200)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    n = forecast(request(budget=800), load_world=ToyWorld, load_policy=load_toy).episodes
    assert gaps[1] == pytest.approx(1.6449 * (0.5 / n) ** 0.5, rel=1e-3)


def test_policies_that_will_fail_are_predicted_with_the_reason():
    found = forecast(request(policies_per_batch=4), load_world=ToyWorld, load_policy=slow_worlds.load_faulty)
    assert list(found.failing) == ["toy-001", "toy-005"]
    assert "needs observation.images.wrist, which this world does not give" in found.failing["toy-001"]
    assert str(found).splitlines()[1:] == [
        f"Will fail: toy-001 {found.failing['toy-001']}; toy-005 could not be loaded: ValueError: bad weights."
    ]
    assert not forecast(request(), load_world=ToyWorld, load_policy=load_toy).failing


def test_a_request_that_cannot_be_met_is_refused():
    with pytest.raises(InvalidInputError, match="at least one rollout for each of 8 policies"):
        forecast(request(budget=6, audit=0.0), load_world=ToyWorld, load_policy=load_toy)
