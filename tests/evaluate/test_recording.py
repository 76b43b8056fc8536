"""Policies that are recorded in an environment found by name."""

from worldsim.data.collect.record import LONGEST
from worldsim.data.collect.rollouts import RolloutOptions
from worldsim.evaluate.recording import policies_in_environment

ENV, POLICIES = "tests.cli.arena:make", ["tests.cli.arena:lazy"]


def test_where_no_length_is_registered_episodes_are_as_long_as_in_recordings_without_policies() -> None:
    job = policies_in_environment(ENV, POLICIES, options=RolloutOptions())
    assert job.world.spec.horizon == LONGEST
    job = policies_in_environment(ENV, POLICIES, options=RolloutOptions(steps=7))
    assert job.world.spec.horizon == 7
