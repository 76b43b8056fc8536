"""What a run says, in plain words: headline, how sure, what it does not know; and how numbers are written.

Every sentence is a function of a `ReportData`. Escaping is the page's business: nothing here is HTML.
"""

from collections.abc import Sequence

from worldsim.stats.intervals import Estimate, Interval
from worldsim.text import shorten
from worldsim.triage.report.data import ReportData

THIN = "\u202f"  # narrow no-break space
_CHANCE = 0.1  # from this probability on, a policy outside the chosen k is still a candidate
_EVEN = 0.5  # chosen policies that average less than this are no clear winners
_NAMED = 3  # winners that a sentence names before it says "and n more"
_POINTS = frozenset({"mmrv", "bias", "bias_spread", "mean_absolute_error", "regret", "set_regret"})
_SHARES = frozenset({"order_accuracy", "recall", "recall_within_epsilon", "episode_accuracy"})


def percent(value: float | None, *, decimals: int = 0) -> str:
    """Write a share, ``87 %``; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{decimals}f}{THIN}%"


def chance(probability: float) -> str:
    """Write a probability without claiming certainty."""
    if probability > 0.995:
        return f">{THIN}99{THIN}%"
    return f"<{THIN}1{THIN}%" if probability < 0.005 else percent(probability)


def points(value: float) -> str:
    """Write a difference of shares in percentage points, without sign: ``3.1 points``."""
    return f"{abs(100 * value):.1f} points"


def span(interval: Interval, *, decimals: int = 0) -> str:
    """Write an interval of a share in per cent: ``[79, 93]``."""
    return f"[{100 * interval.low:.{decimals}f}, {100 * interval.high:.{decimals}f}]"


def whole(number: int) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{number:,}".replace(",", THIN)


def plural(count: int, noun: str, many: str = "") -> str:
    """Write a count with its noun."""
    return f"{whole(count)} {noun if count == 1 else many or noun + 's'}"


def estimate(given: Estimate) -> str:
    """Write an estimate with its interval in the unit it is read in, or why there is none."""
    if given.value is None:
        return f"undefined: {given.undefined}"
    factor, decimals, unit = _unit(given.name)
    value = f"{given.value * factor:.{decimals}f}{unit}".replace("-", "\u2212")
    if given.low is None or given.high is None:
        return f"{value} (no interval: {given.undefined})"
    ends = f"{given.low * factor:.{decimals}f}, {given.high * factor:.{decimals}f}".replace("-", "\u2212")
    return f"{value} [{ends}]"


def _unit(name: str) -> tuple[float, int, str]:
    if name in _POINTS:
        return 100, 1, f"{THIN}pts"
    if name in _SHARES:
        return 100, 0, f"{THIN}%"
    return 1, 3, ""


def title(data: ReportData) -> str:
    """Return the first thing a reader should know."""
    top, total = data.ranking.top, len(data.ranking.policies)
    if not top:
        return f"None of the {plural(total, 'checkpoint')} could be tried."
    if len(data.alive) <= data.ranking.k:
        return (
            f"All {plural(len(top), 'checkpoint')} that ran, best first."
            if len(top) > 1
            else "Only one checkpoint ran."
        )
    these = "this one" if len(top) == 1 else f"these {whole(len(top))}"
    if sum(p.p_top_k for p in top) < _EVEN * len(top):
        return f"No clear winners: {these} come{'s' if len(top) == 1 else ''} first, but not by much."
    return f"Try {these} of {plural(total, 'checkpoint')} first."


def how_sure(data: ReportData) -> str:
    """Say how sure the choice is, inside the world."""
    top, k = data.ranking.top, data.ranking.k
    if not top or len(data.alive) <= k:
        return "There was nothing to choose from: no more policies ran than were asked for."
    low, high = chance(min(p.p_top_k for p in top)), chance(max(p.p_top_k for p in top))
    between = (low if low == high else f"between {low} and {high}").replace(">", "over").replace("<", "under")
    who = "each" if len(top) > 1 else "it"
    among = f"to the best {whole(k)}" if k > 1 else "at the top"
    others = [p for p in data.alive[k:] if p.p_top_k >= _CHANCE]
    rest = (
        f"{plural(len(others), 'other policy', 'other policies')} still {'has' if len(others) == 1 else 'have'} a chance "
        f"of {percent(_CHANCE)} or more."
        if others
        else f"No other policy has a chance of {percent(_CHANCE)} or more."
    )
    return f"The probability that {who} belongs {among} in this world is {between}. {rest} {_rates(data)}"


def _rates(data: ReportData) -> str:
    """Say how well the winners do, and on what."""
    top = data.ranking.top
    rates = [p.shown.success for p in top if p.shown.success is not None]
    if not rates:
        return ""
    low, high = min(rates), max(rates)
    between = f"{100 * low:.0f} to {percent(high)}" if len(rates) > 1 else percent(low)
    least = plural(min(p.shown.rollouts for p in top), "fresh episode")
    fresh = all(p.audit is not None for p in top)
    where = f"{least}, which did not choose them" if fresh else "the episodes that chose them, which flatters"
    return f"{'They solve' if len(top) > 1 else 'It solves'} {between} of {where}."


def not_known(data: ReportData) -> str:
    """Say what the run leaves open."""
    if data.truth is None:
        return (
            "How these policies fare outside the world was not measured: every number here is about episodes imagined by "
            f"{data.world}. Give a ground truth, or try the winners on the robot."
        )
    order, shift = _value(data, "order_accuracy"), _value(data, "bias")
    text = f"Nothing here was measured on a robot: the yardstick was {data.truth.name}."
    if order is not None:
        text += f" Of the policies clearly apart there, the world put {percent(order)} of the pairs in the right order."
    if shift is not None:
        text += f" On average its success rates were {points(shift)} too {'high' if shift > 0 else 'low'}."
    return text


def headline(data: ReportData) -> str:
    """Return the whole message in one line, names included, for a terminal or a log."""
    names = [shorten(data.labels[p.policy], width=48) for p in data.ranking.top]
    return f"{title(data)} {listing(names)}".strip()


def listing(names: Sequence[str]) -> str:
    """Name the first few: ``a, b, c and 7 more``."""
    if len(names) <= _NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _value(data: ReportData, name: str) -> float | None:
    """Look up an estimate of the success agreement that may be missing."""
    if data.truth is None:
        return None
    return next((e.value for e in data.truth.success.estimates if e.name == name), None)
