"""Every policy of this package against the executable contract that users' policies are checked with."""

import dataclasses

import pytest

from worldsim.core import STATE, Camera, WorldSpec
from worldsim.errors import PolicyError
from worldsim.evaluate.policies import load_policy
from worldsim.evaluate.triage import prepare
from worldsim.policies.contract import Contract, Declared, check_contract
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.function import FunctionPolicy
from worldsim.policies.scripted import PushExpert, PushExpertConfig
from worldsim.testing.policies import check_policy

NOISY = Degradation(noise=0.3, noise_memory=0.5, random=0.3, delay_steps=1, frozen_after=4)


@pytest.mark.parametrize("kind", ["pixel", "state", "expert", "goals", "noisy", "function", "chunks"])
def test_contract(kind, spec, make_pixel, make_state):
    policy = {
        "pixel": make_pixel,
        "state": make_state,
        "chunks": lambda: make_pixel(chunk=3, executed=2),
        "expert": PushExpert,
        "goals": lambda: PushExpert(PushExpertConfig(goal_spread_m=0.1, offset_m=0.02)),
        "noisy": lambda: DegradedPolicy(make_pixel(), action=spec, how=NOISY),
        "function": lambda: FunctionPolicy(lambda seen: seen[STATE] * 0.1),
    }[kind]()
    world = WorldSpec(
        action=spec, cameras=(Camera(height=16, width=24),), latent_shape=(1, 1, 1), proprio_dim=2, horizon=10
    )
    check_policy(policy, world)


class Reader:
    """Declares that it reads an instruction."""

    contract = Contract(reads_task=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, ""),
        ({"cameras": (Camera(height=32, width=24),)}, "image of 16x24 pixels, the world draws 32x24"),
        ({"cameras": (Camera(height=16, width=32),)}, "image of 16x24 pixels, the world draws 16x32"),
        ({"rate_hz": 11.0}, "acts at 10 Hz, the world at 11 Hz"),
        (
            {"cameras": (Camera(key="observation.images.top", height=16, width=24),)},
            "the world draws observation.images.top",
        ),
        ({"cameras": ()}, "the world draws nothing"),
        ({"proprio_dim": 3}, "reads 2 proprioceptive values, the world has 3"),
        ({"rate_hz": 50.0}, "acts at 10 Hz, the world at 50 Hz"),
        ({"rate_hz": 10.05}, ""),
        ({"dim": 1}, r"gives 2 actions, the world takes 1 \(vx\)"),
        ({"dim": 1, "proprio_dim": 3, "cameras": ()}, "draws nothing.*has 3.*takes 1"),
    ],
)
def test_what_a_world_does_not_give_is_named_before_anything_runs(changes, match, spec, make_pixel, tmp_path):
    make_pixel().save_pretrained(tmp_path / "p")
    action = dataclasses.replace(spec, rate_hz=changes.get("rate_hz", spec.rate_hz))
    if "dim" in changes:
        first = {name: getattr(spec, name)[:1] for name in ("names", "units", "low", "high", "idle")}
        action = dataclasses.replace(action, parts=(), **first)
    own = {"cameras": (Camera(height=16, width=24),), "proprio_dim": 2}
    rest = {key: value for key, value in changes.items() if key in own}
    world = WorldSpec(action=action, latent_shape=(1, 1, 1), horizon=10, **{**own, **rest})
    if not match:
        assert isinstance(load_policy(str(tmp_path / "p"), spec=world), Declared)
        return
    with pytest.raises(PolicyError, match=match):
        load_policy(str(tmp_path / "p"), spec=world)


def test_an_instruction_is_needed_by_those_who_read_one(spec):
    world = WorldSpec(action=spec, latent_shape=(1, 1, 1), proprio_dim=2, horizon=10)
    with pytest.raises(PolicyError, match="the world has no task"):
        check_contract(Reader(), world, name="reader")
    for good in ({"task": "push it"}, {"observes": ("task", STATE)}):
        check_contract(Reader(), dataclasses.replace(world, **good), name="reader")
    check_contract(FunctionPolicy(lambda seen: seen[STATE]), world, name="says nothing")


def test_a_triage_checks_its_policies_against_its_world(make_pixel, tmp_path):
    make_pixel().save_pretrained(tmp_path / "small")
    job = prepare([str(tmp_path / "small")], world="push", truth=0)
    with pytest.raises(PolicyError, match="16x24 pixels, the world draws 64x64"):
        job.load_policy(job.request.policies[0])
