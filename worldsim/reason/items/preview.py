"""An item as a picture, for people to look at: frames in a row, question, read-out and answer.

Shape legend: F frames, S pixels.
"""

from pathlib import Path

from worldsim import storage
from worldsim.reason.items.item import Item

_GAP_PX, _LINE_PX, _CHARS = 6, 14, 130


def draw_items(items: list[Item], path: str | Path, *, frame_px: int = 112) -> None:
    """Write a PNG with one row per item.

    Args:
        items: What to draw, from the top down.
        path: The file.
        frame_px: Side of a drawn frame.

    Raises:
        StorageError: The file cannot be written.
    """
    import io
    import textwrap

    from PIL import Image, ImageDraw

    texts = []
    for item in items:
        words = f"{item.task}/{item.group} #{item.number} difficulty {item.difficulty:.2f} | {item.prompt}"
        lines = [line for part in words.splitlines() for line in textwrap.wrap(part, _CHARS)]
        texts.append([*lines, *textwrap.wrap(f"= {item.completion}", _CHARS)])
    heights = [frame_px + _LINE_PX * len(lines) + 3 * _GAP_PX for lines in texts]
    width = max(len(i.frames) for i in items) * (frame_px + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (max(width, 900), sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for item, lines, height in zip(items, texts, heights, strict=True):
        for number, frame in enumerate(item.frames.numpy()):
            picture = Image.fromarray(frame).resize((frame_px, frame_px), Image.Resampling.NEAREST)
            sheet.paste(picture, (_GAP_PX + number * (frame_px + _GAP_PX), top + _GAP_PX))
        for number, line in enumerate(lines):
            pen.text((_GAP_PX, top + frame_px + 2 * _GAP_PX + number * _LINE_PX), line, fill="black")
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    storage.write_bytes(Path(path), buffer.getvalue())
