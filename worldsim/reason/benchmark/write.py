"""Items written as a benchmark folder: clips, questions and a preview.

A question keeps its wording: asked in words, `worldsim.reason.benchmark.read` shows just what the item showed, but for
what the video codec changes (about 1 of 255 in a pixel).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError
from worldsim.reason.benchmark.format import CLIPS, ENDING, LETTERS
from worldsim.reason.items.item import Item, draw_items, format_prompt
from worldsim.video import encode_mp4

KIND = "reason items"
SHEET = "items.png"
_RATE_HZ = 4.0
_SHOWN = 4
"""Items of each task on the sheet."""


def write_items(items: Sequence[Item], folder: str | Path, *, origin: dict[str, Any] | None = None) -> Path:
    """Write items as a benchmark folder, a dataset for each task; atomically.

    Args:
        items: What to write, of any tasks.
        folder: Where; replaced if it was written by this function, refused if it holds anything else.
        origin: JSON values for the manifest: command, data.

    Returns:
        The folder.

    Raises:
        InvalidInputError: No items, or one that cannot be written in this layout; it is named.
        StorageError: The folder holds something else, or cannot be written.
    """
    path = Path(folder)
    if not items:
        raise InvalidInputError("There are no items to write. Ask for one at least.")
    if path.exists() and not _is_ours(path):
        raise StorageError(f"{path} holds something else than items. Choose another folder.")
    with storage.folder_writer(path) as staging:
        for task in dict.fromkeys(i.task for i in items):
            own = [i for i in items if i.task == task]
            entries = [_entry(item, place, staging / task) for place, item in enumerate(own)]
            storage.write_json(staging / task / f"{task}_benchmark_{ENDING}", entries)
        draw_items(_first_of_each(items), staging / SHEET)
        manifest = {**(origin or {}), "kind": KIND, "items": len(items)}
        storage.write_json(staging / storage.MANIFEST, manifest)
    return path


def _is_ours(path: Path) -> bool:
    """Whether a folder was written here, or is empty."""
    if not path.is_dir():
        return False
    if not any(path.iterdir()):
        return True
    manifest = storage.read_json(path / storage.MANIFEST) if (path / storage.MANIFEST).is_file() else None
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def _entry(item: Item, place: int, folder: Path) -> dict[str, Any]:
    """Write an item's clip, and return its part of the JSON file."""
    name = f"{item.task} item {item.number}"
    if not 2 <= len(item.options) <= len(LETTERS):
        raise InvalidInputError(f"{name}: 2 to {len(LETTERS)} options can be lettered; it has {len(item.options)}.")
    asked = item.prompt.removesuffix(format_prompt("", item.options))
    if asked == item.prompt or Path(item.task).name != item.task:
        raise InvalidInputError(
            f"{name}: a prompt worded by `worldsim.reason.items.item.ask` and a task with a plain name can be written; got "
            f"{item.prompt!r:.120}."
        )
    clip = f"{CLIPS}/{item.task}_{place:05d}.mp4"
    storage.write_bytes(folder / clip, encode_mp4(item.frames.numpy(), rate_hz=_RATE_HZ, exact=True))
    lettered = dict(zip(LETTERS, item.options, strict=False))
    pair = {
        "question": asked,
        "index2ans": lettered,
        "answer": next(k for k, text in lettered.items() if text == item.answer),
        "task": item.task,
        "group": item.group,
        "difficulty": item.difficulty if math.isfinite(item.difficulty) else 0.0,
        "think": item.think,
        "whole": True,
    }
    return {"video": clip, "qa_pairs": pair, "provenance": storage.to_json(item.provenance), "taken": list(item.taken)}


def _first_of_each(items: Sequence[Item]) -> list[Item]:
    """The first few of each task."""
    return [i for task in dict.fromkeys(i.task for i in items) for i in [j for j in items if j.task == task][:_SHOWN]]
