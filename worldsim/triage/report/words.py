"""Numbers and sentences for people: how certain a ranking is, what it leaves open, how it was judged.

All of it is plain text, which the page escapes.
"""

from collections.abc import Sequence

from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Estimate, Interval, clopper_pearson
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.ranking.censoring import MOST_CENSORED, Censoring
from worldsim.triage.ranking.judge_correction import find_rates
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report.data import ReportData, RoundTrip, Truth

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


_CHANCE = 0.1  # from this probability on, a policy outside the chosen k is still a candidate

_ESTIMATES: dict[str, tuple[str, str]] = {
    "pearson": ("Pearson r", "linear correlation over policies; blind to offset and scale"),
    "noise_ceiling": ("Noise ceiling of r", "what a perfect world would be expected to show with these rollouts"),
    "pearson_disattenuated": ("r net of noise", "the limit of many rollouts; noise can lift it above 1"),
    "pearson_without_extremes": ("r without best and worst", "a single broken policy can make r look good"),
    "spearman": ("Spearman", "correlation of the ranks"),
    "kendall": ("Kendall tau-b", "pairs in the right order minus pairs in the wrong one, as a share"),
    "order_accuracy": (
        "Clear pairs in order",
        "pairs of policies clearly apart in truth that the world orders rightly",
    ),
    "mmrv": ("MMRV", "mean maximum rank violation: how much true success a wrong order costs; 0 is best"),
    "bias": ("Mean bias", "world minus truth; positive where the world is optimistic"),
    "bias_spread": ("Spread of the bias", "between policies, net of noise: this is what reorders them"),
    "mean_absolute_error": ("Mean absolute error", "of the world's rates"),
    "recall": ("Recall of the best k", "share of the world's best k that are truly among the best k"),
    "recall_within_epsilon": ("Recall, ties forgiven", "the same, counting those within a small distance of the k-th"),
    "regret": ("Regret", "true success lost by taking the best of the world's k rather than the best of all"),
    "set_regret": ("Set regret", "mean true success lost over all k"),
    "episode_phi": ("Episode correlation", "of single outcomes, same start and same noise"),
    "episode_phi_within": ("... within a policy", "the same, not counting differences between policies"),
    "episode_accuracy": ("Episodes alike", "matched episodes with the same outcome"),
    "episode_kappa": ("Cohen's kappa", "agreement of outcomes beyond chance; 1 is perfect"),
}


def describe_estimate(name: str) -> tuple[str, str]:
    """Return label and meaning of an estimate; one that is not known goes under its own name."""
    return _ESTIMATES.get(name, (name.replace("_", " "), ""))


def describe_certainty(data: ReportData) -> str:
    """Say how certain the choice is, inside the world."""
    top, k = data.ranking.top, data.ranking.k
    if not top or not data.ranking.selects:
        return "There was nothing to choose from: no more policies ran than were asked for."
    if data.ranking.same_success is not None:
        return (
            f"Not at all: success says nothing about their order, since every policy solved "
            f"{percent(data.ranking.same_success)} of its episodes. They are ordered by progress alone. {_winners_success(data)}"
        )
    low, high = chance(min(p.p_top_k for p in top)), chance(max(p.p_top_k for p in top))
    between = (low if low == high else f"between {low} and {high}").replace(">", "over").replace("<", "under")
    who = "each" if len(top) > 1 else "it"
    among = f"to the best {count(k)}" if k > 1 else "at the top"
    last, cut = top[-1].overall, data.ranking.censoring
    tied = (
        0
        if last is None or data.ranking.by_progress
        else sum(p.overall is not None and p.overall[0] == last[0] for p in data.alive[k:])
    )
    tie = (
        f" {plural(tied, 'other policy has', 'other policies have')} the same success as the last of them."
        if tied
        else ""
    )
    others = [p for p in data.alive[k:] if p.p_top_k >= _CHANCE]
    rest = (
        f"{plural(len(others), 'other policy', 'other policies')} still {'has' if len(others) == 1 else 'have'} a chance "
        f"of {percent(_CHANCE)} or more."
        if others
        else f"No other policy has a chance of {percent(_CHANCE)} or more."
    )
    by = f" by progress after {plural(cut.steps, 'action')}" if cut is not None and cut.by_progress else ""
    return (
        f"The probability that {who} belongs {among} in this world{by} is {between}.{tie} {rest} {_winners_success(data)}"
    ).rstrip()


def _winners_success(data: ReportData) -> str:
    """Say how well the winners do, and on what."""
    top = data.ranking.top
    rates = [p.shown.success for p in top if p.shown.success is not None]
    if not rates or data.ranking.by_progress:
        return ""
    least = min(p.shown.rollouts for p in top)
    fresh, them = all(p.audit is not None for p in top), "them" if len(top) > 1 else "it"
    where = f"the episodes that chose {them}, which flatters"
    if fresh:
        episodes = plural(least, "fresh episode") if len(top) == 1 else f"{plural(least, 'fresh episode')} each"
        where = f"{episodes}, which did not choose {them}"
    return f"{'They solve' if len(top) > 1 else 'It solves'} {_share(min(rates), max(rates))} of {where}."


def _share(low: float, high: float) -> str:
    """Write a range of shares that may be none or all."""
    return "none" if high == 0 else "all" if low == 1 else percent_range(low, high)


def describe_unknowns(data: ReportData) -> str:
    """Say what the run leaves open."""
    if data.truth is None:
        return (
            "How these policies fare outside the world was not measured: every number here is about episodes imagined by "
            f"{data.world}. Give a ground truth, or try the winners on the robot."
        )
    compared = data.compared
    order, bias = compared.get("order_accuracy"), compared.get("bias")
    text = f"Nothing here was measured on a robot: the yardstick was {data.truth.name}."
    if not data.ranking.by_progress and (alike := same_everywhere(data.truth)):
        return f"{text} How far the world agrees with it cannot be said: every policy solved {alike} on both sides."
    if order is not None and order.value is not None:
        text += f" Of the policies clearly apart there, the world put {percent(order.value)} of the pairs in the right order."
    if bias is not None and bias.value is not None:
        size = f"{points(bias.value)} too {'high' if bias.value > 0 else 'low'}"
        rates = "progress was" if data.ranking.by_progress else "success rates were"
        text += f" On average its {rates} {'right' if points(bias.value) == points(0) else size}."
    return text


def same_everywhere(truth: Truth) -> str:
    """Say what all policies solved, where all outcomes are the same in world and truth: agreement is then no evidence."""
    rates = {side.success for row in truth.policies for side in (row.world, row.truth)}
    return "nothing" if rates == {0.0} else "everything" if rates == {1.0} else ""


def describe_censoring(found: Censoring, *, valid: int | None, paired: bool) -> tuple[str, ...]:
    """Say how far episodes were played, why no farther, and what policies are ranked by.

    Args:
        found: How many rollouts are undecided.
        valid: Actions up to which the world is valid; None where that did not decide.
        paired: True episodes were played just as far.
    """
    why = f"as far as this world is valid ({plural(valid, 'action')} ahead)" if valid else "as was asked for"
    played = f"Episodes end after {count(found.steps)} of {plural(found.length, 'action')}, {why}."
    undecided = (
        f"{percent(found.share)} of {plural(found.rollouts, 'rollout')} are not solved by then, and whether they would have been is "
        "not known"
    )
    same = " True episodes are read at the same action." if paired else ""
    if found.by_progress:
        return (
            played,
            f"{undecided}. That is more than {percent(MOST_CENSORED)}, so there is no ranking by success: policies are ranked by "
            f"their progress after {plural(found.steps, 'action')}.{same}",
        )
    return (played, f"{undecided}; they count as not solved.{same}")


def describe_judging(
    ranking: Ranking, *, judge: str, rates: Sequence[JudgeRates], confidence: float
) -> tuple[str, ...]:
    """Say that a judge judged, and how its errors were kept out of the ranking.

    Args:
        ranking: The leaderboard.
        judge: Version of the judge; empty for the world's own heads.
        rates: How often it was right where the truth was known.
        confidence: Of the intervals, in (0, 1).
    """
    alive = [p for p in ranking.policies if p.failed is None]
    by_truth = [p.corrected for p in alive if p.corrected and p.corrected.method == "truth"]
    by_rates = [p for p in alive if p.corrected and p.corrected.method == "rates"]
    order = (
        "Policies are ordered by success corrected for its errors."
        if ranking.corrected
        else "Policies are ordered by progress, and no success is corrected."
        if ranking.by_progress
        else "Policies are ordered by its verdicts, as its errors could not be corrected for every policy."
    )
    found = [
        f"Episodes were judged by {judge}, not by the world's own heads. {order}"
        if judge
        else f"Episodes were judged by the world's own heads, whose errors on labelled episodes are known. {order}"
    ]
    if by_truth:
        pairs, weight = min(c.truths for c in by_truth), sum(c.weight for c in by_truth) / len(by_truth)
        found.append(
            f"{_count_policies(len(by_truth))} corrected by {plural(pairs, 'paired true episode')} or more each, with the "
            f"judge's verdicts on the others as a prediction of weight {weight:.2f} on average (PPI++; the more it errs, "
            "the less it weighs). This corrects the world's errors too."
        )
    if by_rates:
        used = {r.group: r for p in by_rates if (r := find_rates(p.name, rates)) is not None}
        shown = "; ".join(_describe_rates(used[name], confidence) for name in sorted(used))
        found.append(
            f"{_count_policies(len(by_rates))} corrected by how often the judge was right where the truth was known "
            f"(Rogan-Gladen; {shown}). This corrects the judge and not the world: what the world imagines wrongly stays."
        )
    if len(by_truth) + len(by_rates) < len(alive) and not ranking.by_progress:
        found.append(
            "The judge's errors are not known, or it is hardly better than chance, so its rates are not corrected. "
            "Calibrate it on videos with known outcomes, or let some episodes run in the simulator too."
        )
    return tuple(found)


def _count_policies(number: int) -> str:
    return f"{plural(number, 'policy was', 'policies were')}"


def _describe_rates(rates: JudgeRates, confidence: float) -> str:
    """Write sensitivity and specificity with exact intervals."""
    parts = []
    for name, right, total in (
        ("sensitivity", rates.solved_right, rates.solved),
        ("specificity", rates.unsolved_right, rates.unsolved),
    ):
        (low,), (high,) = clopper_pearson([right], [total], alpha=1 - confidence)
        interval = span(Interval(float(low), float(high)))
        parts.append(f"{name} {percent(right / max(total, 1))} {interval} of {total}")
    who = f"{rates.group}: " if rates.group else ""
    return f"{who}{', '.join(parts)}"
