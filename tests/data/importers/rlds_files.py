"""Writes small RLDS folders: TFRecord files of Examples, byte by byte, beside features.json."""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldsim.data.importers.tfrecord import masked_crc32c

Value = Sequence[bytes] | np.ndarray


def varint(number: int) -> bytes:
    out = bytearray()
    number &= 2**64 - 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, Value]) -> bytes:
    entries = b""
    for name, value in features.items():
        if not isinstance(value, np.ndarray):
            inner = field(1, b"".join(field(1, item) for item in value))
        elif value.dtype.kind == "f":
            inner = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            inner = field(3, field(1, b"".join(varint(int(n)) for n in value.ravel())))
        entries += field(1, field(1, name.encode()) + field(2, inner))
    return field(1, entries)


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))


def picture(shade: int, *, size: tuple[int, int] = (12, 16), kind: str = "png") -> bytes:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[2:6, 1 + shade % 8 : 6 + shade % 8] = (200, shade, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def flat() -> bytes:
    """A picture of one colour, of the same size."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12)).save(buffer, "png")
    return buffer.getvalue()


def tensor(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": "none"}}


def folder(**features: Any) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


IMAGE = {"image": {"shape": {"dimensions": ["12", "16", "3"]}, "dtype": "uint8", "encodingFormat": "png"}}
STEP = folder(
    action=folder(arm=tensor(2), gripper=tensor()),
    observation=folder(front=IMAGE, wrist=IMAGE, state=tensor(3)),
    language_instruction={"text": {}},
    reward=tensor(),
    is_last=tensor(dtype="bool"),
)
FEATURES = folder(
    steps={"sequence": {"feature": STEP, "length": "-1"}}, episode_metadata=folder(id=tensor(dtype="int32"))
)


def steps(index: int, *, rows: int = 5, reward: float = 0.0, blank: bool = False) -> dict[str, Value]:
    """The Example of episode `index`; `blank` gives its wrist camera no real pictures."""
    r = np.random.default_rng(index)
    wrist = [picture(9, size=(1, 1))] * rows if blank else [picture(i + 50) for i in range(rows)]
    return {
        "steps/action/arm": r.normal(size=(rows, 2)).astype(np.float32),
        "steps/action/gripper": r.random(rows).astype(np.float32),
        "steps/observation/state": r.normal(size=(rows, 3)).astype(np.float32),
        "steps/observation/front": [picture(index + i) for i in range(rows)],
        "steps/observation/wrist": wrist,
        "steps/language_instruction": [f"task {index % 2}".encode()] * rows,
        "steps/reward": np.array([0] * (rows - 1) + [reward], np.float32),
        "steps/is_last": np.arange(rows) == rows - 1,
        "episode_metadata/id": np.array([index]),
    }


def write(path: Path, episodes: Sequence[Mapping[str, Value]], *, promised: int | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "features.json").write_text(json.dumps(FEATURES))
    split = {"name": "train", "shardLengths": [str(len(episodes) if promised is None else promised)]}
    (path / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": [split]}))
    data = b"".join(record(example(e)) for e in episodes)
    (path / "toy-train.tfrecord-00000-of-00001").write_bytes(data)
    return path
