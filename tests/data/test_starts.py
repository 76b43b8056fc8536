"""Starts: rows in and out, wrapping, and files that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data import toys
from worldsim.core import IMAGE, SIMULATOR, STATE, TASK, Camera, WorldSpec, row_texts, text_rows
from worldsim.data.starts import Starts, read_observation
from worldsim.errors import InvalidInputError, StorageError

WRIST = "observation.images.wrist__left"


def table(n: int = 4) -> Starts:
    generator = torch.Generator().manual_seed(0)
    return Starts(
        {
            IMAGE: torch.randint(0, 256, (n, 8, 8, 3), generator=generator, dtype=torch.uint8),
            STATE: torch.rand(n, 2, generator=generator),
            SIMULATOR: torch.rand(n, 5, generator=generator, dtype=torch.float64),
        }
    )


def test_round_trip(tmp_path: Path) -> None:
    starts = table()
    assert starts.to_bytes() == starts.to_bytes()
    (tmp_path / "s.npz").write_bytes(starts.to_bytes())
    read = Starts.load(tmp_path / "s.npz")
    assert read.rows.keys() == starts.rows.keys() and len(read) == 4
    assert all(torch.equal(read.rows[k], v) and read.rows[k].dtype == v.dtype for k, v in starts.rows.items())


def test_indices_wrap_around() -> None:
    starts = table()
    assert torch.equal(starts.select(torch.tensor([5, 0, -1]))[STATE], starts.rows[STATE][[1, 0, 3]])


def test_state_is_needed_and_everything_of_one_length() -> None:
    with pytest.raises(InvalidInputError):
        Starts({IMAGE: table().rows[IMAGE]})
    with pytest.raises(InvalidInputError):
        Starts({**table().rows, STATE: torch.zeros(3, 2)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (IMAGE, torch.zeros(4, 8, 8, 3)),
        (WRIST, torch.zeros(4, 3, 8, 8, dtype=torch.uint8)),
        ("action", torch.zeros(4, 2)),
        (STATE, torch.zeros(4)),
    ],
)
def test_what_is_no_first_observation_is_named(key: str, value: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match=key):
        Starts({**table().rows, key: value})


def test_cameras_and_tasks_come_back(tmp_path: Path) -> None:
    """Also a camera whose name looks like an escaped dot."""
    rows = table().rows
    starts = Starts(
        {
            WRIST: rows[IMAGE],
            "observation.images.top": torch.ones(4, 6, 5, 3, dtype=torch.uint8),
            STATE: rows[STATE],
            TASK: text_rows(["push", "pull", "", "lift it"]),
        }
    )
    (tmp_path / "s.npz").write_bytes(starts.to_bytes())
    read = Starts.load(tmp_path / "s.npz")
    assert list(read.rows) == list(starts.rows) and all(torch.equal(read.rows[k], v) for k, v in starts.rows.items())
    assert row_texts(read.select(torch.tensor([3, 1]))[TASK]) == ("lift it", "pull")


def test_a_world_reads_its_own_cameras_and_names_what_does_not_fit() -> None:
    rows = table().rows
    cameras = (Camera(key=WRIST, height=8, width=8), Camera(key="observation.images.top", height=6, width=5))
    spec = WorldSpec(action=toys.ACTION, cameras=cameras, latent_shape=(1, 1, 1), proprio_dim=2, horizon=5)
    seen = {
        "observation.images.top": torch.ones(4, 6, 5, 3, dtype=torch.uint8),
        WRIST: rows[IMAGE],
        STATE: rows[STATE],
        "other": torch.zeros(4, 1),
    }
    frames, proprio = read_observation(seen, spec)
    assert list(frames) == [c.key for c in cameras] and torch.equal(proprio, rows[STATE])
    for key, wrong in [
        (WRIST, seen["observation.images.top"]),
        (WRIST, rows[IMAGE].float()),
        (WRIST, rows[IMAGE][:3]),
        (STATE, torch.zeros(4, 3)),
    ]:
        with pytest.raises(InvalidInputError, match=f"^{key} must be"):
            read_observation({**seen, key: wrong}, spec)
    for key in (WRIST, STATE):
        with pytest.raises(InvalidInputError, match=f"lacks '{key}'"):
            read_observation({k: v for k, v in seen.items() if k != key}, spec)


def test_no_pickles_are_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", observation__image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StorageError, match=r"s\.npz"):
        Starts.load(tmp_path / "s.npz")
    with pytest.raises(StorageError, match="missing"):
        Starts.load(tmp_path / "missing.npz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_damage_never_escapes_the_typed_error(tmp_path: Path, place: int, value: int, cut: bool) -> None:
    data = bytearray(table().to_bytes())
    place %= len(data)
    if cut:
        data = data[:place]
    else:
        data[place] = value
    (tmp_path / "s.npz").write_bytes(data)
    try:
        Starts.load(tmp_path / "s.npz")
    except StorageError as error:
        assert "s.npz" in str(error)
