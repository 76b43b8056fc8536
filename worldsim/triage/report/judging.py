"""What a report says about a judge of one's own: that it judged, and how its errors were kept out of the ranking.

Not for correcting (`worldsim.triage.ranking.judge_correction`).
"""

from worldsim.stats.intervals import clopper_pearson
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.ranking.judge_correction import find_rates
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report.words import percent, plural
from worldsim.triage.request import TriageRequest


def judging(ranking: Ranking, request: TriageRequest) -> tuple[str, ...]:
    """Sentences for a reader; none where the world's own heads judged.

    Args:
        ranking: The leaderboard.
        request: The run.
    """
    if not request.judge:
        return ()
    alive = [p for p in ranking.policies if p.failed is None]
    by_truth = [p.corrected for p in alive if p.corrected and p.corrected.method == "truth"]
    by_rates = [p for p in alive if p.corrected and p.corrected.method == "rates"]
    order = (
        "The order goes by rates without its errors (corrected)."
        if ranking.corrected
        else "The order goes by what it said, as its errors could not be corrected for every policy."
    )
    found = [f"Episodes were judged by {request.judge}, not by the world's own heads. {order}"]
    if by_truth:
        pairs, weight = min(c.truths for c in by_truth), sum(c.weight for c in by_truth) / len(by_truth)
        found.append(
            f"{_policies(len(by_truth))} corrected by {plural(pairs, 'paired true episode')} or more each, with what the "
            f"judge said of the others as a prediction of weight {weight:.2f} on average (PPI++; the more it errs, the less "
            "it weighs). This corrects the world's errors too."
        )
    if by_rates:
        used = {r.group: r for p in by_rates if (r := find_rates(p.name, request.judge_rates)) is not None}
        told = "; ".join(_rates(used[name], request.confidence) for name in sorted(used))
        found.append(
            f"{_policies(len(by_rates))} corrected by how often the judge was right where the truth was known (Rogan-Gladen; "
            f"{told}). This corrects the judge and not the world: what the world imagines wrongly stays."
        )
    if len(by_truth) + len(by_rates) < len(alive):
        found.append(
            "The judge's errors are not known, or it is hardly better than a coin, so its rates stand as they are. Calibrate "
            "it on videos with known outcomes, or let some episodes run in the simulator too."
        )
    return tuple(found)


def _policies(count: int) -> str:
    return f"{plural(count, 'policy was', 'policies were')}"


def _rates(rates: JudgeRates, confidence: float) -> str:
    """Sensitivity and specificity with exact intervals."""
    parts = []
    for name, right, count in (
        ("sensitivity", rates.solved_right, rates.solved),
        ("specificity", rates.unsolved_right, rates.unsolved),
    ):
        low, high = clopper_pearson([right], [count], alpha=1 - confidence)
        parts.append(f"{name} {percent(right / max(count, 1))} [{100 * low[0]:.0f}, {100 * high[0]:.0f}] of {count}")
    who = f"{rates.group}: " if rates.group else ""
    return f"{who}{', '.join(parts)}"
