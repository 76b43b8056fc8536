"""Groups of policies that the data cannot tell apart, from simultaneous intervals.

Two policies are separated when their intervals do not meet. Not for a probability that one beats the other
(`posterior`).
"""

import string
from collections.abc import Sequence

from worldsim.triage.intervals import Interval


def tiers(intervals: Sequence[Interval]) -> tuple[int, ...]:
    """Cut a leaderboard into consecutive groups.

    A tier opens with a leader and holds everyone after it who is not separated from that leader; the first who is opens
    the next tier.

    Args:
        intervals: Simultaneous intervals in rank order, best first.

    Returns:
        The tier of each, from 1.
    """
    found: list[int] = []
    leader = 0
    for i, interval in enumerate(intervals):
        if i == 0 or interval.high < intervals[leader].low:
            leader = i
            found.append((found[-1] if found else 0) + 1)
        else:
            found.append(found[-1])
    return tuple(found)


def letters(intervals: Sequence[Interval]) -> tuple[str, ...]:
    """Compact letter display: two policies share a letter exactly if they are not separated.

    The groups are the maximal sets of mutually meeting intervals. Meeting intervals have a common point (Helly), so
    each group is the set of intervals that hold some lower end: what insert-and-absorb finds for any relation (Piepho,
    J. Comput. Graph. Stat. 13, 2004), found here by one sweep.

    Args:
        intervals: Simultaneous intervals in any order.

    Returns:
        The letters of each; ``a`` is the group with the highest values, after ``z`` comes ``aa``.
    """
    points = sorted({i.low for i in intervals}, reverse=True)
    groups = [frozenset(j for j, i in enumerate(intervals) if point in i) for point in points]
    maximal = [g for g in groups if not any(g < other for other in groups)]
    maximal = list(dict.fromkeys(maximal))
    labels = [_label(i) for i in range(len(maximal))]
    return tuple(
        " ".join(label for label, group in zip(labels, maximal, strict=True) if j in group)
        for j in range(len(intervals))
    )


def _label(i: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    text = ""
    i += 1
    while i > 0:
        i, rest = divmod(i - 1, 26)
        text = string.ascii_lowercase[rest] + text
    return text
