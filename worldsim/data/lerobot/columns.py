"""Columns of one episode's rows as checked arrays: what is uneven, empty, out of order or not finite is named.

Shape legend: R rows, D numbers of a row.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldsim.arrays import Float32s, Float64s
from worldsim.data.lerobot.features import Vector, stored

RATE_TOLERANCE = 0.05
"""How far the usual distance of rows may be from what info.json says, as a share of it."""


def check_times(table: pa.Table, rate_hz: float) -> Float64s:
    """When each row was recorded since its episode began, in seconds: [R], as LeRobot takes it, from the table.

    Rows may be missing, and the first need not be at 0.

    Raises:
        ValueError: Rows are out of order, or do not follow each other at the rate.
    """
    count = table.num_rows
    if "frame_index" in table.column_names:
        numbers = table["frame_index"].to_numpy()
        wrong = np.flatnonzero(np.diff(numbers) <= 0)
        if len(wrong):
            row = int(wrong[0]) + 1
            raise ValueError(f"frame_index is {numbers[row]} in row {row}, after {numbers[row - 1]}: it must rise")
    if "timestamp" not in table.column_names:
        return np.arange(count) / rate_hz
    times_s = read_column(table, "timestamp", 1)[:, 0].astype(np.float64)
    steps_s = np.diff(times_s)
    wrong = np.flatnonzero(~(steps_s > 0))
    if len(wrong) or not np.isfinite(times_s[:1]).all():
        row = int(wrong[0]) + 1 if len(wrong) else 0
        raise ValueError(f"timestamp is {times_s[row]:g} in row {row}: it must be a number, and rise")
    usual_s = float(np.median(steps_s)) if len(steps_s) else 1 / rate_hz
    if abs(usual_s * rate_hz - 1) > RATE_TOLERANCE:
        raise ValueError(
            f"its rows are {usual_s:.4g} s apart by their timestamps, and info.json says {rate_hz:g} frames per second; "
            "write the right fps there"
        )
    return times_s


def join_columns(table: pa.Table, vector: Vector) -> Float32s:
    """The columns of a vector side by side, finite: [R, D].

    Raises:
        KeyError: A column is missing.
        ValueError: Rows are uneven or empty, of another width than stated, or hold NaN or infinity.
    """
    parts = []
    for name, width in zip(vector.names, vector.widths, strict=True):
        part = read_column(table, name, width)
        if not np.isfinite(part).all():
            row, place = np.argwhere(~np.isfinite(part))[0]
            raise ValueError(f"{name!r} holds {part[row, place]} in row {row}, number {place}")
        parts.append(part)
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def read_column(table: pa.Table, name: str, width: int | None) -> Float32s:
    """A column of numbers, or of lists of numbers at any depth: [R, D].

    Raises:
        KeyError: There is no such column.
        ValueError: Rows are uneven or empty, or of another width than `width`, where that is known.
    """
    array = stored(table[name])
    flat, lengths = array, np.ones(len(array), np.int64)
    while pa.types.is_nested(flat.type):
        if flat.null_count:
            raise ValueError(f"{name!r} has an empty cell")
        counts = pc.list_value_length(flat).to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(counts)])
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        lengths = (ends[bounds][1:] - ends[bounds][:-1]).astype(np.int64)
        flat = flat.flatten()
    if flat.null_count:
        raise ValueError(f"{name!r} has an empty cell")
    expected = width or (int(lengths[0]) if len(lengths) else 1)
    wrong = np.flatnonzero(lengths != expected)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{name!r} has {lengths[row]} numbers in row {row}, expected {expected}")
    values = flat.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(len(array), expected), np.float32)
