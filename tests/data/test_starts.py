"""Starts: rows in and out, wrapping, and files that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldsim.core import IMAGE, SIMULATOR, STATE
from worldsim.data.starts import Starts
from worldsim.errors import InvalidInputError, StorageError


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


def test_image_and_state_are_needed() -> None:
    with pytest.raises(InvalidInputError):
        Starts({IMAGE: table().rows[IMAGE]})
    with pytest.raises(InvalidInputError):
        Starts({**table().rows, STATE: torch.zeros(3, 2)})


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
