"""Reads TFRecord files of `tf.train.Example` messages without TensorFlow, with every length and checksum checked.

A record is its length (8 bytes), a checksum of that, the data, and a checksum of those: CRC-32C (Castagnoli), rotated and
offset. A message is read by its wire format to the fixed depth that an Example has; nothing in it can nest deeper.

Shape legend: N values.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.arrays import Float32s, Int64s
from worldsim.errors import StorageError

MOST_RECORD_BYTES = 1 << 30
"""A longer record is refused before it is read."""
MOST_FEATURES = 10_000
Feature = list[bytes] | Float32s | Int64s
"""Values of one feature of an Example: texts and pictures, float32 [N], or int64 [N]."""
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_BLOCK = 256
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Words = NDArray[np.uint32]


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, in order.

    Raises:
        StorageError: The file is missing or cut short, a checksum does not fit, or a record is unreasonably long; the
            record is named by its number.
    """
    number = 0
    try:
        left = path.stat().st_size
        with path.open("rb") as file:
            while left:
                length = _length(file.read(12), f"{path}: record {number}", left)
                data = file.read(length)
                if len(data) != length or struct.unpack("<I", file.read(4))[0] != masked_crc32c(data):
                    raise StorageError(f"{path}: record {number} does not match its checksum. Download the file again.")
                left -= length + 16
                yield data
                number += 1
    except (OSError, struct.error) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{path} could not be read at record {number}: {error}. Download it again.") from error


def _length(head: bytes, where: str, left: int) -> int:
    """Length of a record from the 12 bytes before it; `left` bytes remain, these included."""
    if len(head) < 12:
        raise StorageError(f"{where} is cut short: {len(head)} bytes are left of it. Download the file again.")
    length, checksum = struct.unpack("<QI", head)
    if checksum != masked_crc32c(head[:8]):
        raise StorageError(
            f"{where}: its length does not match its checksum. This is no TFRecord file, or it is damaged."
        )
    if length > MOST_RECORD_BYTES:
        raise StorageError(f"{where} claims {length} bytes; at most {MOST_RECORD_BYTES} are read.")
    if length + 16 > left:
        raise StorageError(
            f"{where} is cut short: it has {length} bytes, {max(0, left - 16)} are there. Download it again."
        )
    return int(length)


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes.

    The checksum is linear: blocks are advanced side by side, and joined pairwise by what advancing over a block does.
    """
    blocks = 1 << max(0, (len(data) // _BLOCK).bit_length() - 1)
    size = -(-len(data) // blocks)
    padded = np.zeros(blocks * size, np.uint8)  # leading zeros change nothing
    padded[len(padded) - len(data) :] = np.frombuffer(data, np.uint8)
    columns = np.ascontiguousarray(padded.reshape(blocks, size).T).astype(np.uint32)
    table = _table()
    state: Words = np.zeros(blocks, np.uint32)
    for column in columns:
        state = table[(state ^ column) & 255] ^ (state >> np.uint32(8))
    while len(state) > 1:
        state = _apply(_advance(size), state[0::2]) ^ state[1::2]
        size *= 2
    start = _apply(_advance(len(data)), np.array([0xFFFFFFFF], np.uint32))
    return int(start[0] ^ state[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> Words:
    table: Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    return table


def _apply(operator: Words, state: Words) -> Words:
    """A linear map of 32 bits, given by the images [32] of the single bits, on states [N]."""
    bits = (state[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    result: Words = np.bitwise_xor.reduce(np.where(bits.astype(bool), operator, np.uint32(0)), axis=1)
    return result


@functools.lru_cache(maxsize=256)
def _advance(count: int) -> Words:
    """What advancing over `count` zero bytes does to the single bits, [32]."""
    bits: Words = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if count == 0:
        return bits
    half = _advance(count // 2)
    twice = _apply(half, half) if count > 1 else half
    return (_table()[twice & 255] ^ (twice >> np.uint32(8))) if count % 2 else twice


def parse_example(data: bytes, *, source: object) -> dict[str, Feature]:
    """The features of a `tf.train.Example`.

    Args:
        data: The message.
        source: Where it comes from, for messages.

    Raises:
        StorageError: It is no such message.
    """
    found: dict[str, Feature] = {}
    try:
        for features in _inner(memoryview(data), 1):
            for entry in _inner(features, 1):
                if len(found) >= MOST_FEATURES:
                    raise ValueError(f"more than {MOST_FEATURES} features")
                name = b"".join(_inner(entry, 1)).decode("utf8")
                found[name] = _feature([value for value in _inner(entry, 2)])
    except (ValueError, IndexError, struct.error, OverflowError) as error:
        raise StorageError(f"{source} is no tf.train.Example ({error}). Check where it comes from.") from error
    return found


def _feature(values: list[memoryview]) -> Feature:
    """The list that a Feature message holds; the last one counts, as in any protobuf parser."""
    result: Feature = []
    for value in values:
        for number, part in _fields(value):
            if number == 1:
                result = [bytes(item) for item in _inner(part, 1)]
            elif number == 2:
                result = np.frombuffer(b"".join(p for n, p in _fields(part) if n == 1), "<f4").astype(np.float32)
            elif number == 3:
                pieces = [_varints(p) for n, p in _fields(part) if n == 1]
                result = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    return result


def _inner(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of the fields of one number."""
    return (content for number, content in _fields(message) if number == wanted)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field; a varint stays as its bytes.

    Raises:
        ValueError: The message is cut short, or a field is of a kind that no Example has.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, start = key & 7, at
        if kind == _BYTES:
            length, start = _varint(message, at)
            at = start + length
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at > len(message) or key >> 3 == 0:
            raise ValueError("a field that is longer than its message" if key >> 3 else "a field of number 0")
        yield key >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of at most 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _varints(packed: memoryview) -> Int64s:
    """Numbers that follow each other, int64 [N]."""
    data = np.frombuffer(packed, np.uint8)
    if not len(data):
        return np.zeros(0, np.int64)
    last = data < 128
    if not last[-1]:
        raise ValueError("a number that is cut short")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(starts, np.diff(np.append(starts, len(data))))
    if place.max() > 9:
        raise ValueError("a number of more than 64 bits")
    parts = (data & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)
