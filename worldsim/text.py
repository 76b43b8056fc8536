"""Text that comes from outside (names, paths, messages of a crash, the command), made fit to be shown to people.

Never for identity: that is the name itself, and the digest.
"""

import shlex
import sys
import unicodedata
from collections.abc import Sequence

_ELLIPSIS = "…"
_UNPRINTABLE = "\ufffd"


def printable(text: object, *, lines: bool = False) -> str:
    """Return text that can go to a terminal, a log or a page.

    Control characters (escape sequences among them), surrogates and overrides of the writing direction are replaced.
    Brackets stay: print with ``markup=False``, or as `rich.text.Text`, so that rich takes none for a tag.

    Args:
        text: Anything with a ``str``.
        lines: Keep line breaks; else they become spaces.
    """
    blank = {"\r": " ", "\t": " ", "\n": "\n" if lines else " "}
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else blank.get(c, _UNPRINTABLE) for c in str(text)
    )


def command_text() -> str:
    """The command that this process runs, with its arguments, quoted so that a shell would run it again."""
    return shlex.join(["worldsim", *sys.argv[1:]])


def first_sentence(error: Exception) -> str:
    """What was wrong, without what to do about it."""
    return str(error).split(". ")[0].rstrip(".")


def shorten(text: str, *, width: int) -> str:
    """Return `text` in at most `width` characters; what is left out of the middle becomes an ellipsis.

    The end is favoured: it tells checkpoints of one run apart.
    """
    if len(text) <= width:
        return text
    head = max(0, (width - 1) // 3)
    tail = max(0, width - 1 - head)
    return text[:head] + _ELLIPSIS + (text[-tail:] if tail else "")


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as aligned text: the first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def strip_common_parts(names: Sequence[str]) -> tuple[str, ...]:
    """Return a short printable label for each name, in order.

    Path components that every name shares are dropped: ``out/a/checkpoints/100/pretrained_model`` beside
    ``out/b/checkpoints/200/pretrained_model`` becomes ``a/100`` beside ``b/200``. Where paths differ in depth, only
    what they begin or end with is dropped; at least one component stays. Different names keep different labels, unless
    they differ in unprintable characters only.
    """
    parts = [printable(name).split("/") for name in names]
    if len(set(map(tuple, parts))) < 2:
        return tuple("/".join(p) for p in parts)
    if len({len(p) for p in parts}) == 1:
        differing = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
        return tuple("/".join(p[i] for i in differing) for p in parts)
    droppable = min(len(p) for p in parts) - 1
    head = 0
    while head < droppable and len({p[head] for p in parts}) == 1:
        head += 1
    tail = 0
    while tail < droppable - head and len({p[-1 - tail] for p in parts}) == 1:
        tail += 1
    return tuple("/".join(p[head : len(p) - tail]) for p in parts)
