import re
import sys

import numpy as np
import pytest
import torch

from worldsim.core import IMAGE, STATE, TASK, TRUE_STATE, text_rows
from worldsim.errors import InvalidInputError, PolicyError, UnknownNameError
from worldsim.evaluate.policies import load_policy, policy_digest
from worldsim.policies.function import FunctionPolicy, function_digest, load_function
from worldsim.protocols import Policy

SOURCE = """
import numpy as np
from worldsim.policies.scripted import PushExpert, PushExpertConfig

def towards(observation):
    return -observation["observation.state"]

def expert():
    return PushExpert(PushExpertConfig(goal_m=(0.1, 0.1)))

ready = PushExpert()
number = 3

def nothing():
    return 3

def breaks():
    raise KeyError("weights")

class Needy:
    def __init__(self, size):
        self.size = size
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's file in the working directory, importable by name; forgotten afterwards."""
    (tmp_path / "my_robot.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield "my_robot"
    sys.modules.pop("my_robot", None)


def observation(n=3):
    return {
        IMAGE: torch.zeros(n, 8, 8, 3, dtype=torch.uint8),
        STATE: torch.arange(2.0 * n).reshape(n, 2),
        TRUE_STATE: torch.zeros(n, 4),
    }


def act(policy, n=3):
    action, _ = policy.act(observation(n), policy.initial(n), torch.arange(n))
    return action


def test_plain_function_becomes_a_policy(module):
    policy = load_policy(f"{module}:towards")
    assert isinstance(policy, Policy)
    assert policy.needs == {IMAGE, STATE}
    assert torch.equal(act(policy), -observation()[STATE])


def test_factories_objects_and_classes(module):
    assert load_policy(f"{module}:expert").config.goal_m == (0.1, 0.1)
    assert act(load_policy(f"{module}:ready")).shape == (3, 2)
    assert act(load_policy("worldsim.policies.scripted:PushExpert")).shape == (3, 2)


def test_by_file(module, tmp_path):
    policy = load_policy(f"{tmp_path / 'my_robot.py'}:towards")
    assert torch.equal(act(policy), -observation()[STATE])


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("towads", UnknownNameError, "towards"),
        ("number", InvalidInputError, "int"),
        ("nothing", InvalidInputError, "no policy"),
        ("breaks", PolicyError, "KeyError"),
        ("Needy", InvalidInputError, "needs arguments"),
    ],
)
def test_names_that_are_no_policies(module, name, error, match):
    with pytest.raises(error, match=match):
        load_function(f"{module}:{name}")


@pytest.mark.parametrize("ref", ["no_such_module:f", "no.such.module:f", "no_such_file.py:f"])
def test_missing_modules(module, ref):
    for call in (load_function, policy_digest):
        with pytest.raises(InvalidInputError, match=r"no.such"):
            call(ref)


def test_a_name_that_a_module_lacks_is_refused_before_a_run(module):
    with pytest.raises(
        UnknownNameError, match=r"my_robot has no 'towads' \(did you mean 'towards'\?\); it defines [^.]*\.$"
    ) as error:
        policy_digest(f"{module}:towads")
    assert not re.search(r"\b(np|PushExpert)\b", str(error.value))


def test_module_that_raises_on_import(tmp_path, monkeypatch):
    (tmp_path / "sick_module.py").write_text("raise ValueError('no gripper')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="no gripper"):
        load_function("sick_module:f")
    with pytest.raises(PolicyError, match="no gripper"):
        load_function(f"{tmp_path / 'sick_module.py'}:f")


def test_digest_follows_source_and_name(module, tmp_path):
    first = policy_digest(f"{module}:towards")
    assert first == policy_digest(f"{module}:towards")
    assert first == policy_digest(f"{tmp_path / 'my_robot.py'}:towards")
    assert first != policy_digest(f"{module}:expert")
    (tmp_path / "my_robot.py").write_text(SOURCE + "\n# changed\n")
    assert first != function_digest(f"{module}:towards")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.zeros((3, 2)) * np.nan, "NaN"),
        (np.full((3, 2), np.inf), "infinity"),
        (np.full((3, 2), 1e300), "infinity"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((3, 2), complex), "no array of real"),
        ("left", "no array of real"),
        (None, "no array of real"),
        ([[0.0], [0.0, 1.0], [0.0]], "no array of real"),
    ],
)
def test_bad_returns_name_the_policy(value, match):
    with pytest.raises(PolicyError, match=match) as caught:
        act(FunctionPolicy(lambda seen: value, name="my arm"))
    assert "my arm" in str(caught.value)


def test_good_returns_of_other_kinds():
    for value in ([[1, 2]] * 3, torch.ones(3, 2, dtype=torch.float64), np.ones((3, 2), np.int64)):
        action = act(FunctionPolicy(lambda seen, value=value: value))
        assert action.dtype == torch.float32
        assert action.shape == (3, 2)


def test_an_exception_inside_is_wrapped_with_its_cause():
    def fails(seen):
        raise RuntimeError("motor off")

    with pytest.raises(PolicyError, match=r"fails raised RuntimeError: motor off") as caught:
        act(FunctionPolicy(fails))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_needs_can_be_declared_and_are_enforced():
    def f(seen):
        assert set(seen) == {TRUE_STATE}
        return seen[TRUE_STATE][:, :2]

    f.needs = [TRUE_STATE]
    policy = FunctionPolicy(f)
    assert policy.needs == {TRUE_STATE}
    assert act(policy).shape == (3, 2)
    with pytest.raises(PolicyError, match="environment_state"):
        policy.act({STATE: torch.zeros(1, 2)}, None, torch.arange(1))
    with pytest.raises(UnknownNameError, match=r"observation\.image"):
        FunctionPolicy(f, needs=["observation.images"])


def test_a_function_cannot_change_what_others_see():
    def vandal(seen):
        seen[STATE][:] = 99
        return seen[STATE]

    given = observation()
    FunctionPolicy(vandal).act(given, None, torch.arange(3))
    assert given[STATE].max() < 99


def test_not_callable():
    with pytest.raises(InvalidInputError, match="callable"):
        FunctionPolicy(3)


def test_named_cameras_and_the_task_reach_a_function() -> None:
    seen: dict[str, object] = {}

    def look(observation):
        seen.update({key: value.copy() for key, value in observation.items()})
        return np.zeros((2, 1), np.float32)

    side = "observation.images.side"
    policy = FunctionPolicy(look, needs=[side, TASK])
    given = {side: torch.full((2, 4, 6, 3), 7, dtype=torch.uint8), TASK: text_rows(["push the L", "stop"])}
    policy.act(given, None, torch.arange(2))
    assert seen[side].shape == (2, 4, 6, 3) and seen[TASK].tolist() == ["push the L", "stop"]
    with pytest.raises(UnknownNameError, match=r"observation.images.NAME"):
        FunctionPolicy(look, needs=["observation.imagesside"])
