import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.actions import ActionPart, ActionSpec
from worldsim.errors import InvalidInputError

SPEC = ActionSpec(names=("a", "b"), units=("m/s", "rad"), low=(-1, 0.5), high=(3, 2), rate_hz=10)


def test_idle_is_zero_clipped_into_the_limits() -> None:
    assert SPEC.idle == (0.0, 0.5)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=2))
def test_checking_clips_and_normalising_inverts(values: list[float]) -> None:
    action = SPEC.check(torch.tensor([values]))
    low, high = torch.tensor(SPEC.low), torch.tensor(SPEC.high)
    assert bool(((action >= low) & (action <= high)).all())
    unit = SPEC.normalize(action)
    assert bool((unit.abs() <= 1 + 1e-6).all())
    assert torch.allclose(SPEC.denormalize(unit), action, atol=1e-5)


@pytest.mark.parametrize(
    "action", [torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0), torch.tensor([float("nan"), 1])]
)
def test_bad_actions_are_refused(action: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="expected|finite"):
        SPEC.check(action)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("a", "a")},
        {"names": ()},
        {"units": ("m",)},
        {"low": (3, 0.5)},
        {"high": (float("inf"), 2)},
        {"rate_hz": 0.0},
        {"idle": (9.0, 1.0)},
        {"high": (1e39, 2)},
        {"low": (-3.4e38, 0.5)},
        {"low": (3.0, 1.9999999999), "high": (4.0, 2.0)},
        {"parts": (ActionPart(name="all", shape=(3,)),)},
        {"parts": (ActionPart(name="x"), ActionPart(name="x"))},
        {"parts": (ActionPart(name="x", path=("a",)), ActionPart(name="y"))},
        {"parts": (ActionPart(name="x", path=(1,)), ActionPart(name="y", path=(0,)))},
        {"parts": (ActionPart(name="x", path=("a",)), ActionPart(name="y", path=("a", "b")))},
        {"parts": (ActionPart(name="x", dtype="int64"), ActionPart(name="y"))},
        {"parts": (ActionPart(name="choice", kind="discrete", dtype="int64"), ActionPart(name="y"))},
        {"parts": (ActionPart(name="x", path=("a",)), ActionPart(name="y", dtype="int64", path=("b",)))},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    fields = {"names": ("a", "b"), "units": ("m", "m"), "low": (-1, 0.5), "high": (3, 2), "rate_hz": 10.0}
    with pytest.raises(InvalidInputError):
        ActionSpec(**{**fields, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": (0,)},
        {"kind": "discrete", "shape": (2,), "dtype": "int64"},
        {"kind": "discrete", "dtype": "float32"},
        {"kind": "multi_discrete", "shape": (2,), "dtype": "int64", "start": (1,)},
        {"kind": "gauss"},
        {"dtype": "no such type"},
        {"dtype": "complex64"},
        {"rotation": "quat_wxyz", "shape": (3,)},
        {"rotation": "quat_xyzw", "shape": (4,)},
        {"start": (1,)},
        {"name": ""},
    ],
)
def test_a_part_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        ActionPart(**{"name": "part", **fields})  # type: ignore[arg-type]


def test_rotations_idle_at_the_identity() -> None:
    def idle(rotation: str, size: int) -> tuple[float, ...]:
        parts = (ActionPart(name="position", shape=(1,)), ActionPart(name="turn", shape=(size,), rotation=rotation))  # type: ignore[arg-type]
        names, limits = tuple(f"n{i}" for i in range(size + 1)), (1.0,) * (size + 1)
        low = tuple(-x for x in limits)
        return ActionSpec(names=names, units=names, low=low, high=limits, rate_hz=10, parts=parts).idle

    assert idle("quat_wxyz", 4) == (0, 1, 0, 0, 0)
    assert idle("rot6d", 6) == (0, 1, 0, 0, 0, 1, 0)
    assert idle("axis_angle", 3) == (0, 0, 0, 0)


MIXED = ActionSpec(
    names=("speed", "tool", "gear"),
    units=("m/s", "1", "1"),
    low=(-2, 0, -1),
    high=(2, 2, 3),
    rate_hz=10,
    parts=(
        ActionPart(name="speed", path=("speed",)),
        ActionPart(name="tool", kind="discrete", dtype="int64", path=("tool",)),
        ActionPart(name="gear", dtype="int32", path=("gear",)),
    ),
)


def test_choices_are_numbers_here_and_one_hot_for_networks() -> None:
    assert (MIXED.dim, MIXED.encoded_dim, MIXED.choices) == (3, 5, (0, 3, 0))
    action = MIXED.check(torch.tensor([[1.0, 1.4, 2.6], [-9.0, 7.0, -7.0], [0.0, -3.0, 0.4]]))
    assert action.tolist() == [[1, 1, 3], [-2, 2, -1], [0, 0, 0]]
    encoded = MIXED.normalize(action)
    assert encoded.tolist() == [[0.5, 0, 1, 0, 1], [-1, 0, 0, 1, -1], [0, 1, 0, 0, -0.5]]
    assert MIXED.denormalize(encoded * 0.9).tolist()[0][1] == 1
    assert torch.equal(MIXED.denormalize(encoded), action)
    assert torch.equal(MIXED.from_unit(MIXED.to_unit(action)), action)


def test_every_choice_is_equally_likely() -> None:
    unit = torch.linspace(-1, 1, 3001)[:, None].expand(-1, 3)
    _, counts = MIXED.from_unit(unit)[:, 1].unique(return_counts=True)
    assert counts.tolist() == pytest.approx([1000] * 3, abs=2)
    _, counts = MIXED.from_unit(unit)[:, 2].unique(return_counts=True)
    assert counts.tolist() == pytest.approx([600] * 5, abs=2)


@pytest.mark.parametrize("spec", [SPEC, MIXED])
def test_no_step_waits_for_the_device(spec: ActionSpec) -> None:
    action = torch.empty(4, spec.dim, device="meta")  # has no values: looking at one is an error
    encoded = spec.normalize(spec.check(action))
    assert spec.denormalize(encoded).shape == spec.from_unit(spec.to_unit(action)).shape == (4, spec.dim)


def test_constants_made_without_gradients_serve_with_them() -> None:
    spec = ActionSpec(names=("own",), units=("m",), low=(-3,), high=(5,), rate_hz=7)
    with torch.inference_mode():
        spec.normalize(spec.check(torch.zeros(1)))
    action = torch.zeros(1, requires_grad=True)
    spec.normalize(spec.check(action)).sum().backward()
    assert action.grad is not None and float(action.grad) == 0.25


@pytest.mark.parametrize("spec", [SPEC, MIXED])
def test_scaling_is_compiled_as_one_graph(spec: ActionSpec) -> None:
    def there_and_back(action: torch.Tensor) -> torch.Tensor:
        return spec.denormalize(spec.normalize(action))

    action = spec.from_unit(torch.rand(3, spec.dim, generator=torch.Generator().manual_seed(0)))
    compiled = torch.compile(there_and_back, backend="eager", dynamic=False, fullgraph=True)
    assert torch.equal(compiled(action), there_and_back(action))
