"""How numbers are written for people: plain text, which the page escapes."""

from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Estimate, Interval
from worldsim.triage.report.data import RoundTrip

THIN = "\u202f"  # narrow no-break space
_MINUS = "\u2212"
_POINTS = frozenset({"mmrv", "bias", "bias_spread", "mean_absolute_error", "regret", "set_regret"})
_SHARES = frozenset({"order_accuracy", "recall", "recall_within_epsilon", "episode_accuracy"})


def percent(value: float | None, *, decimals: int = 0) -> str:
    """Write a share, ``87 %``; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{decimals}f}{THIN}%"


def percent_range(low: float, high: float) -> str:
    """Write a range of shares, ``12 to 34 %``; one number where both read the same."""
    return percent(low) if percent(low) == percent(high) else f"{100 * low:.0f} to {percent(high)}"


def chance(probability: float) -> str:
    """Write a probability without claiming certainty."""
    if probability > 0.995:
        return f">{THIN}99{THIN}%"
    return f"<{THIN}1{THIN}%" if probability < 0.005 else percent(probability)


def points(value: float) -> str:
    """Write a difference of shares in percentage points, without sign: ``3.1 points``."""
    return f"{abs(100 * value):.1f} points"


def span(interval: Interval, *, decimals: int = 0, scale: int = 100) -> str:
    """Write an interval of a share, by default in per cent: ``[79, 93]``."""
    return f"[{scale * interval.low:.{decimals}f}, {scale * interval.high:.{decimals}f}]"


def count(number: int) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{number:,}".replace(",", THIN)


def plural(number: int, noun: str, many: str = "") -> str:
    """Write a count with its noun."""
    return f"{count(number)} {noun if number == 1 else many or noun + 's'}"


def track(share: float) -> str:
    """Write a place on a 0..100 track, in per cent of the track."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def letters(text: str) -> str:
    """Write letters of a compact letter display, without spaces where each is a single one."""
    return text if any(len(letter) > 1 for letter in text.split()) else text.replace(" ", "")


def ending(success: float, progress: float | None) -> str:
    """Write how an episode ended."""
    verdict = "solved" if success >= SOLVED else "not solved"
    return verdict if progress is None else f"{verdict}, progress {progress:.2f}"


def change(trip: RoundTrip) -> str:
    """Write what a policy loses (−) or gains (+) on encoded and decoded frames, with its interval."""
    sign = _MINUS if trip.lost > 0 else "+" if trip.lost < 0 else ""
    if trip.gap is None:
        return f"{sign}{points(trip.lost)}"
    ends = span(Interval(-trip.gap.high, -trip.gap.low)).replace("-", _MINUS)
    return f"{sign}{points(trip.lost)} {ends}"


def estimate(given: Estimate) -> str:
    """Write an estimate with its interval in the unit it is read in, or why there is none."""
    if given.value is None:
        return f"undefined: {given.undefined}"
    interval = estimate_interval(given)
    return f"{estimate_value(given)} {interval or f'(no interval: {given.undefined})'}"


def estimate_value(given: Estimate) -> str:
    """Write the value of an estimate; a dash where there is none."""
    if given.value is None:
        return "–"
    factor, decimals, unit = _unit(given.name)
    return f"{given.value * factor:.{decimals}f}{unit}".replace("-", _MINUS)


def estimate_interval(given: Estimate) -> str:
    """Write the interval of an estimate; empty where there is none."""
    if given.low is None or given.high is None:
        return ""
    factor, decimals, _ = _unit(given.name)
    return f"[{given.low * factor:.{decimals}f}, {given.high * factor:.{decimals}f}]".replace("-", _MINUS)


def _unit(name: str) -> tuple[float, int, str]:
    if name in _POINTS:
        return 100, 1, f"{THIN}pts"
    if name in _SHARES:
        return 100, 0, f"{THIN}%"
    return 1, 3, ""


FILTERS = (
    *(change, chance, count, ending, estimate, estimate_interval, estimate_value),
    *(letters, percent, plural, span, track),
)
"""What the page's template formats with, each under its own name."""
