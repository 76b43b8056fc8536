"""Benchmark folders for the tests: a square stands left or right on a plain, in real mp4 files."""

import json
from pathlib import Path

import numpy as np

from worldsim.video import encode_mp4

SIDES = ("left", "right")


def clip(path: Path, *, number: int = 0, side: str = "left", frames: int = 6, px: int = 32) -> Path:
    """A square that stays on its side; frame t is a little brighter than t - 1, and no two numbers look the same."""
    video = np.full((frames, px, px, 3), 40 + number, np.uint8)
    video += np.arange(frames, dtype=np.uint8)[:, None, None, None] * 8
    left = px // 8 if side == "left" else px // 2 + px // 8
    video[:, px // 4 : 3 * px // 4, left : left + px // 4] = (230, 40, 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(video, rate_hz=10, exact=True))
    return path


def pair(number: int, **changes: object) -> dict[str, object]:
    """A question about the clip of a number."""
    asked = {
        "question": "On which side is the square?",
        "index2ans": {"A": "left", "B": "right"},
        "answer": "AB"[number % 2],
    }
    return asked | changes


def dataset(
    folder: Path, name: str = "robot", *, count: int = 6, clips: str = "clips", **changes: object
) -> list[dict[str, object]]:
    """Write a dataset in the public layout; returns its entries."""
    entries: list[dict[str, object]] = []
    for number in range(count):
        where = f"{clips}/{number}.mp4".lstrip("/")
        clip(folder / name / where, number=number, side=SIDES[number % 2])
        entries.append({"video": where, "qa_pairs": pair(number, **changes)})
    save(folder, entries, name)
    return entries


def save(folder: Path, entries: object, name: str = "robot", *, ending: str = "_benchmark_qa_pairs.json") -> Path:
    """Write a file with questions."""
    path = folder / name / f"{name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path
