"""Groups of policies that the data cannot tell apart, from simultaneous intervals.

Two policies are separated when their intervals do not meet. Not for a probability that one beats the other
(`posterior`).
"""

import string
from collections.abc import Sequence

from worldsim.stats.intervals import Interval


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

    The groups are the maximal sets of mutually meeting intervals, which insert-and-absorb finds for any relation
    (Piepho, J. Comput. Graph. Stat. 13, 2004). Intervals that meet pairwise have a common point (Helly), so one sweep
    from the top finds them: a group is complete when an interval ends after another has begun.

    Args:
        intervals: Simultaneous intervals in any order.

    Returns:
        The letters of each; ``a`` is the group with the highest values, after ``z`` comes ``aa``.
    """
    opens = sorted((-interval.high, 0, j) for j, interval in enumerate(intervals))
    closes = sorted((-interval.low, 1, j) for j, interval in enumerate(intervals))
    found: list[list[str]] = [[] for _ in intervals]
    open_now: set[int] = set()
    grown, groups = False, 0
    for _, closing, j in sorted(opens + closes):
        if not closing:
            open_now.add(j)
            grown = True
            continue
        if grown:
            for member in open_now:
                found[member].append(_label(groups))
            grown, groups = False, groups + 1
        open_now.remove(j)
    return tuple(" ".join(labels) for labels in found)


def _label(i: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    text = ""
    i += 1
    while i > 0:
        i, rest = divmod(i - 1, 26)
        text = string.ascii_lowercase[rest] + text
    return text
