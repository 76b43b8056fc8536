import functools

import numpy as np
import pytest
import torch

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.triage.engine.measures import share_outside
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import read_ranking, run
from worldsim.validity.coverage import Coverage


def trained(*, states: float, actions: float) -> Coverage:
    """Training data that fills a square of states and one of actions."""
    random = np.random.default_rng(0)
    return Coverage.measure(random.uniform(-states, states, (2000, 2)), random.uniform(-actions, actions, (2000, 2)))


def test_an_action_counts_with_the_state_in_which_it_was_chosen() -> None:
    first = torch.zeros(2, 2)
    after = torch.zeros(2, 4, 2)
    after[1, 3] = 9.0  # where the last action led: no action was chosen there
    action = torch.zeros(2, 4, 2)
    action[0, 1] = 5.0
    found = share_outside(trained(states=1.0, actions=0.1), first, after, action)
    assert found.tolist() == [0.25, 0.0]
    after[1, 2] = 9.0
    assert share_outside(trained(states=1.0, actions=0.1), first, after, action).tolist() == [0.25, 0.25]


def test_actions_of_one_step_share_its_state() -> None:
    first, after = torch.full((1, 2), 9.0), torch.zeros(1, 2, 2)
    action = torch.zeros(1, 2, 3, 2)
    assert share_outside(trained(states=1.0, actions=0.1), first, after, action).tolist() == [0.5]


def test_a_ranking_says_how_often_a_policy_acts_outside(tmp_path) -> None:
    refs = toy_refs(1, extra=["gain=0.8"])  # one hardly moves, one strides
    request = TriageRequest(policies=refs, world=Ref(name="toy", digest="w"), k=1, budget=32, width=16)
    go = functools.partial(run, request, load_policy=load_toy)
    found = go(
        load_world=functools.partial(ToyWorld, coverage=trained(states=2.0, actions=0.05)), out=tmp_path / "known"
    ).ranking
    outside = {line.name: line.outside for line in found.policies}
    assert outside["toy-000"] < 0.01 and outside["toy-001"] > 0.1
    lines = {line["name"]: line for line in found.to_json()["per_policy"]}
    assert lines["toy-001"]["outside"] == pytest.approx(outside["toy-001"])
    assert read_ranking(tmp_path / "known").digest == found.digest
    plain = go(load_world=ToyWorld, out=tmp_path / "plain").ranking
    assert all(line.outside is None for line in plain.policies) and "outside" not in plain.to_json()["per_policy"][0]
