"""Round trips between Gymnasium's action spaces and flat action vectors, over random spaces."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from worldsim import spaces as ours
from worldsim.actions import ActionPart, ActionSpec
from worldsim.errors import InvalidInputError
from worldsim.storage import from_json, to_json

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    shape = draw(SHAPES)
    kind = draw(st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int8, np.int64]))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    scale = 10.0 ** draw(st.integers(-3, 4)) if kind is not np.float16 else 10.0
    if np.issubdtype(kind, np.floating):
        low = generator.uniform(-scale, scale, shape).astype(kind)
        return spaces.Box(
            low, (low + generator.uniform(0.5, 1, shape).astype(kind) * kind(scale)).astype(kind), shape, kind
        )
    low = generator.integers(0 if kind is np.uint8 else -100, 100, shape).astype(kind)
    return spaces.Box(low, low + generator.integers(1, 27, shape).astype(kind), shape, kind)


SIMPLE = st.one_of(
    boxes(),
    st.builds(
        lambda n, start: spaces.Discrete(n, start=start),
        st.integers(1, 9),
        st.sampled_from([0, 0, -4, 3, 2**40]),
    ),
    st.builds(
        lambda n, start: spaces.MultiDiscrete(n, start=np.full_like(n, start)),
        st.sampled_from([np.array([2, 5]), np.array([[3, 1], [4, 2]]), np.array([7])]),
        st.sampled_from([0, -2, 5]),
    ),
    st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary((2, 2))]),
)
SPACES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from(["arm", "arm_0", "a/b", "0", "gripper"]), inner, min_size=1, max_size=3).map(
            spaces.Dict
        ),
    ),
    max_leaves=5,
)


def same(one: Any, other: Any) -> bool:
    """Equal in structure, type, shape and every number."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)


@given(SPACES, st.integers(0, 1000))
def test_actions_come_back_exactly(space: spaces.Space[Any], seed: int) -> None:
    spec = ours.action_spec(space, rate_hz=10)
    space.seed(seed)
    there = ours.from_env(spec, space.sample())
    assert there.shape == (spec.dim,) and there.dtype == np.float32
    action = ours.to_env(spec, spec.check(torch.from_numpy(there)))
    assert space.contains(action)
    np.testing.assert_array_equal(
        ours.from_env(spec, action), ours.from_env(spec, ours.to_env(spec, ours.from_env(spec, action)))
    )
    if not any(p.dtype in ("float64", "float16") for p in spec.parts):  # those are not float32's numbers
        np.testing.assert_array_equal(ours.from_env(spec, action), there)
        assert same(ours.to_env(spec, there), ours.to_env(spec, ours.from_env(spec, action)))


@given(SPACES)
def test_spaces_come_back_and_specs_are_written_to_json(space: spaces.Space[Any]) -> None:
    spec = ours.action_spec(space, rate_hz=10)
    assert ours.action_space(spec) == space
    assert repr(ours.action_space(spec)) == repr(space)
    assert from_json(ActionSpec, to_json(spec)) == spec
    assert ours.fit_spec(spec, space) is spec


@given(SPACES, st.integers(0, 1000))
def test_any_vector_becomes_an_action_of_the_space(space: spaces.Space[Any], seed: int) -> None:
    spec = ours.action_spec(space, rate_hz=10)
    unit = torch.rand(spec.dim, generator=torch.Generator().manual_seed(seed)) * 4 - 2
    for action in (spec.check(unit * 100), spec.check(spec.from_unit(unit.clamp(-1, 1)))):
        assert space.contains(ours.to_env(spec, action))


@given(SPACES, st.integers(0, 1000))
def test_batches_are_the_single_actions(space: spaces.Space[Any], seed: int) -> None:
    spec = ours.action_spec(space, rate_hz=10)
    batched = gymnasium.vector.utils.batch_space(space, 3)
    batched.seed(seed)
    action = batched.sample()
    rows = list(gymnasium.vector.utils.iterate(batched, action))
    together = ours.from_env(spec, action, (3,))
    np.testing.assert_array_equal(together, np.stack([ours.from_env(spec, row) for row in rows]))


@given(SPACES, st.integers(0, 1000))
def test_networks_read_and_write_what_was_meant(space: spaces.Space[Any], seed: int) -> None:
    spec = ours.action_spec(space, rate_hz=10)
    unit = torch.rand(4, spec.dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    action = spec.check(spec.from_unit(unit))
    encoded = spec.normalize(action)
    assert encoded.shape == (4, spec.encoded_dim)
    assert bool((encoded.abs() <= 1 + 1e-4).all())
    discrete = torch.tensor([n > 0 for n in spec.choices])
    decoded = spec.denormalize(encoded)
    assert torch.equal(decoded[:, discrete], action[:, discrete])
    span = torch.tensor(spec.high) - torch.tensor(spec.low)
    assert bool(((decoded - action).abs() <= 1e-5 * span.clamp(min=1) + 1e-2 * span * (span < 1e-2)).all())
    assert torch.equal(spec.check(spec.from_unit(spec.to_unit(action)))[:, discrete], action[:, discrete])


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (spaces.Text(5), "no fixed number"),
        (spaces.Graph(spaces.Box(0, 1), None), "nodes"),
        (spaces.Sequence(spaces.Discrete(2)), "no fixed length"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1)]), "which of several"),
        (spaces.Dict({"arm": spaces.Box(-1, 1), "words": spaces.Text(5)}), "text"),
        (spaces.Dict({}), "at least one"),
        (spaces.Tuple([]), "at least one"),
        (spaces.Box(-1, 1, (0,)), "cannot have shape"),
    ],
)
def test_spaces_that_no_vector_holds_are_refused_with_the_reason(space: spaces.Space[Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        ours.action_spec(space, rate_hz=10)


@pytest.mark.parametrize("limit", [np.inf, 3.4e38, np.finfo(np.float32).max, 1e39, 1e12])
def test_limits_that_are_none_are_named_and_can_be_supplied(limit: float) -> None:
    space = spaces.Box(np.array([-1.0, -limit]), np.array([1.0, limit]), dtype=np.float64)
    with pytest.raises(InvalidInputError, match=r"'action_1' has limits \[-.*low= and high="):
        ours.action_spec(space, rate_hz=10)
    spec = ours.action_spec(space, rate_hz=10, low=-2, high=[5, 6])
    assert (spec.low, spec.high) == ((-1, -2), (1, 6))
    with pytest.raises(InvalidInputError, match="one finite number or 2"):
        ours.action_spec(space, rate_hz=10, low=[1, 2, 3])
    with pytest.raises(InvalidInputError, match="finite with low < high"):
        ours.action_spec(space, rate_hz=10, low=8, high=7)


def test_integer_boxes_execute_integers_up_to_the_highest() -> None:
    space = spaces.Box(0, 3, (1,), np.int64)
    spec = ours.action_spec(space, rate_hz=10)
    given = torch.tensor([[-0.4], [0.6], [2.4], [2.6], [9.0]])
    checked = spec.check(given)
    assert checked.flatten().tolist() == [0, 1, 2, 3, 3]
    assert [int(ours.to_env(spec, row)[0]) for row in checked] == [0, 1, 2, 3, 3]
    assert ours.to_env(spec, checked[0]).dtype == np.int64
    with pytest.raises(InvalidInputError, match="float32 holds exactly"):
        ours.action_spec(spaces.Box(0, 2**30 // 4 * 3, (1,), np.int64), rate_hz=10)


def test_bad_actions_are_refused() -> None:
    spec = ours.action_spec(
        spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "tool": spaces.Tuple([spaces.Discrete(3, start=1)])}), rate_hz=10
    )
    assert spec.names == ("arm_0", "arm_1", "tool/0")
    arm, one = np.zeros(2, np.float32), np.int64(1)
    assert ours.from_env(spec, {"arm": arm, "tool": (one,)}).tolist() == [0, 0, 0]
    for action, words in [
        ({"arm": arm}, "lacks 'tool/0'"),
        ({"arm": arm, "tool": ()}, "lacks 'tool/0'"),
        ({"arm": arm, "tool": (np.int64(0),)}, "none of the choices"),
        ({"arm": arm, "tool": (1.5,)}, "whole numbers"),
        ({"arm": np.zeros(3), "tool": (one,)}, r"shape \(3,\); expected \(2,\)"),
        ({"arm": "left", "tool": (one,)}, "must be numbers"),
    ]:
        with pytest.raises(InvalidInputError, match=words):
            ours.from_env(spec, action)


def test_a_spec_takes_the_structure_of_the_space_it_describes() -> None:
    spec = ActionSpec(names=tuple("abcd"), units=("m",) * 4, low=(-1, -1, -1, 0), high=(1, 1, 1, 2), rate_hz=10)
    space = spaces.Dict({"arm": spaces.Box(-2, 2, (3,), np.float64), "tool": spaces.Discrete(3)})
    fitted = ours.fit_spec(spec, space)
    assert fitted.names == spec.names and fitted.high == spec.high
    action = ours.to_env(fitted, torch.tensor([0.5, 0, 0, 2]))
    assert space.contains(action) and action["tool"] == 2
    with pytest.raises(InvalidInputError, match="has 4 choices of action 'd'"):
        ours.fit_spec(spec, spaces.Dict({"arm": spaces.Box(-2, 2, (3,)), "tool": spaces.Discrete(4)}))
    with pytest.raises(InvalidInputError, match="The environment takes actions of"):
        ours.fit_spec(spec, spaces.Box(-1, 1, (3,)))
    with pytest.raises(InvalidInputError, match="The environment takes actions of"):
        ours.fit_spec(fitted, spaces.Box(-1, 1, (4,)))


class Arm(gymnasium.Env[Any, Any]):
    """An environment with an ActionSpec of its own."""

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(-2, 2, (1,))
    observation_space = spaces.Box(-1, 1, (1,))
    action_spec = ActionSpec(names=("torque",), units=("N",), low=(-2,), high=(2,), rate_hz=50)


def test_an_environments_own_spec_holds_only_while_no_wrapper_changes_actions() -> None:
    assert ours.action_spec_of(Arm()) is Arm.action_spec
    assert ours.action_spec_of(gymnasium.wrappers.TimeLimit(Arm(), 3)) is Arm.action_spec
    scaled = ours.action_spec_of(gymnasium.wrappers.RescaleAction(Arm(), -1, 1))
    assert (scaled.names, scaled.low, scaled.high, scaled.rate_hz) == (("action_0",), (-1,), (1,), 20)

    class Narrowed(gymnasium.Wrapper[Any, Any, Any, Any]):
        action_space = spaces.Box(-1, 1, (1,))

    assert ours.action_spec_of(Narrowed(Arm())).high == (1,)


def test_parts_of_one_box_stay_one_box() -> None:
    spec = ActionSpec(
        names=tuple("xyzabcg"),
        units=("m",) * 7,
        low=(-1,) * 7,
        high=(1,) * 7,
        rate_hz=10,
        parts=(
            ActionPart(name="position", shape=(3,)),
            ActionPart(name="rotation", shape=(3,), rotation="euler_xyz"),
            ActionPart(name="gripper", shape=(1,), role="gripper"),
        ),
    )
    assert ours.action_space(spec) == spaces.Box(-1, 1, (7,))
    assert ours.to_env(spec, torch.arange(7) / 10).shape == (7,)
