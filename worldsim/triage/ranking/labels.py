"""Names of policies as people can read them: safe characters, no common path, no overlong tails.

For tables, figures and pages; never for identity, which is the name itself and the digest.
"""

import unicodedata
from collections.abc import Sequence

_GAP = "…"
_UNPRINTABLE = "\ufffd"
_BLANK = dict.fromkeys("\n\r\t", " ")


def clean(text: str) -> str:
    """Return `text` with line breaks as spaces and what cannot be shown (controls, surrogates, overrides) replaced."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else _BLANK.get(c, _UNPRINTABLE) for c in text
    )


def shorten(text: str, *, width: int) -> str:
    """Return `text` in at most `width` characters; what is left out of the middle becomes an ellipsis.

    The end is favoured: it tells checkpoints of one run apart.
    """
    if len(text) <= width:
        return text
    head = max(0, (width - 1) // 3)
    tail = max(0, width - 1 - head)
    return text[:head] + _GAP + (text[-tail:] if tail else "")


def labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return a short label for each name, in order.

    Path components that every name shares are dropped: ``out/a/checkpoints/100/pretrained_model`` beside
    ``out/b/checkpoints/200/pretrained_model`` becomes ``a/100`` beside ``b/200``. Where paths differ in depth only what
    they begin or end with is dropped; at least one component stays. Different names keep different labels, unless they
    differ in unprintable characters only.
    """
    parts = [clean(name).split("/") for name in names]
    if len(set(map(tuple, parts))) < 2:
        return tuple("/".join(p) for p in parts)
    if len({len(p) for p in parts}) == 1:
        telling = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
        return tuple("/".join(p[i] for i in telling) for p in parts)
    room = min(len(p) for p in parts) - 1
    head = 0
    while head < room and len({p[head] for p in parts}) == 1:
        head += 1
    tail = 0
    while tail < room - head and len({p[-1 - tail] for p in parts}) == 1:
        tail += 1
    return tuple("/".join(p[head : len(p) - tail]) for p in parts)
