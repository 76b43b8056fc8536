"""TFRecord: checksums against known values, Examples by their bytes, hostile files refused by record."""

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.importers.rlds_files import example, field, record, varint
from worldsim.data.importers.tfrecord import MOST_RECORD_BYTES, crc32c, masked_crc32c, parse_example, read_records
from worldsim.errors import StorageError


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksum_of_the_standard() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"") == 0


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 1023, 2048, 3001])
def test_checksum_of_any_length(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


def test_an_example_is_read_back() -> None:
    numbers = np.array([0, 1, -1, 2**40, -(2**63)], np.int64)
    given = {"f": np.array([0.5, -3], np.float32), "i": numbers, "b": [b"", b"x" * 300]}
    found = parse_example(example(given), source="x")
    assert found["b"] == given["b"]
    assert np.array_equal(found["f"], given["f"]) and found["f"].dtype == np.float32
    assert np.array_equal(found["i"], numbers) and found["i"].dtype == np.int64


def test_unpacked_numbers_and_unknown_fields() -> None:
    value = field(3, varint(1 << 3) + varint(7) + varint(1 << 3) + varint(300)) + varint(9 << 3 | 5) + b"abcd"
    found = parse_example(field(1, field(1, field(1, b"n") + field(2, value))), source="x")
    assert found["n"].tolist() == [7, 300]


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = field(1, data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\xff",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b",
        b"\x00\x01",
        field(1, field(1, field(1, b"\xff\xfe") + field(2, b""))),
        field(1, field(1, field(1, b"n") + field(2, field(3, field(1, b"\xff"))))),
        field(1, field(1, field(1, b"n") + field(2, field(3, field(1, b"\xff" * 10 + b"\x01"))))),
        field(1, field(1, field(1, b"n") + field(2, field(2, field(1, b"abc"))))),
    ],
)
def test_damaged_examples_are_refused(data: bytes) -> None:
    with pytest.raises(StorageError, match="record 3 is no tf.train.Example"):
        parse_example(data, source="record 3")


def test_what_lies_deeper_than_an_example_is_left_as_bytes() -> None:
    """Messages are read to the depth of an Example only."""
    found = parse_example(field(1, field(1, field(1, b"n") + field(2, field(1, nested(5000))))), source="x")
    assert found == {"n": [nested(4999)]}


def test_records_in_order(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"".join(record(bytes([i]) * i) for i in range(4)))
    assert list(read_records(tmp_path / "f")) == [bytes([i]) * i for i in range(4)]
    (tmp_path / "f").write_bytes(b"")
    assert list(read_records(tmp_path / "f")) == []


def claim(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + struct.pack("<I", masked_crc32c(head))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (record(b"good") + record(b"cut")[:-1], "record 1 is cut short"),
        (record(b"good") + b"\0" * 5, "record 1 is cut short"),
        (record(b"good")[:-4] + b"\0\0\0\0", "record 0 does not match its checksum"),
        (b"PK\x03\x04 a zip file, not records", "record 0: its length"),
        (claim(MOST_RECORD_BYTES + 1), "claims 1073741825 bytes"),
        (claim(2**64 - 1), "at most 1073741824 are read"),
        (claim(1000) + b"short", "it has 1000 bytes, 1 are there"),
    ],
)
def test_damaged_files_are_refused_by_record(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(StorageError, match=words):
        list(read_records(tmp_path / "f"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        list(read_records(tmp_path / "f"))
