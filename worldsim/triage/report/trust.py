"""How far a run may be relied on: four questions with an answer each, and the cautions that go with them.

The limits are stated here by name, once; they are judgements, not theorems.
"""

import dataclasses
from typing import Literal

from worldsim.triage.report.data import ReportData, Truth
from worldsim.triage.report.words import estimate, percent, plural, points, same_everywhere

Answer = Literal["yes", "partly", "no", "unknown"]

SURE = 0.9  # a chosen policy this likely to belong there is certain
ORDERED, HALF_ORDERED = 0.9, 0.75  # share of clearly different pairs in the right order
FEW_TRUE = 10  # true episodes of a policy; an order of fewer is mostly chance
FEW_POLICIES = 10  # a correlation over fewer says little
BIAS, LARGE_BIAS = 0.05, 0.08  # mean difference of success rates, and mean absolute difference half as much again
GAP, LARGE_GAP = 0.05, 0.10  # success lost by seeing encoded and decoded frames
ALIKE, HALF_ALIKE = 0.8, 0.5  # Cohen's kappa of matched episodes
LOW_CEILING = 0.9  # expected correlation of a perfect world; below, rollouts are the bottleneck
FAR = 0.2  # share of a policy's actions taken where the world was hardly trained
FEW_STARTS = 20
FEW_ROLLOUTS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliance:
    """One thing a reader may want to rely on.

    Attributes:
        claim: The statement.
        answer: Whether the run supports it.
        reason: The numbers behind the answer.
    """

    claim: str
    answer: Answer
    reason: str


def assess_reliance(data: ReportData) -> tuple[Reliance, ...]:
    """Answer the questions, from the most to the least supported kind of statement; that of the world's figures comes first."""
    return (*_world(data), _choice(data), _order(data), _rates(data), _episodes(data.truth))


def list_cautions(data: ReportData) -> tuple[str, ...]:
    """Return what a reader must know before believing a number, one or two sentences each, gravest first."""
    found = [_gap_caution(data), _bias_caution(data), _ceiling_caution(data), *_sample_cautions(data)]
    found.insert(0, describe_outside(data))
    if data.failed:
        count = plural(len(data.failed), "policy", "policies")
        found.append(
            f"{count} crashed and {'is' if len(data.failed) == 1 else 'are'} not ranked; the reasons are below."
        )
    return (*(text for text in found if text), *data.remarks)


def describe_outside(data: ReportData) -> str:
    """That policies act where the world was hardly trained, in a sentence; empty where they do not, or it is not known."""
    far = [line for line in data.alive if line.outside is not None and line.outside > FAR]
    if not far:
        return ""
    worst = max(far, key=lambda line: line.outside or 0.0)
    return (
        f"{plural(len(far), 'policy', 'policies')} act{'s' if len(far) == 1 else ''} where this world was hardly trained, "
        f"{data.labels[worst.policy]} in {percent(worst.outside)} of its actions (1 % is usual): what it predicts there is not to be "
        "relied on."
    )


def average_round_trip_gap(data: ReportData) -> float | None:
    """Mean success that policies lose on encoded and decoded frames; None where it was not measured."""
    rows = data.round_trip
    return sum(trip.lost for trip in rows) / len(rows) if rows else None


def _world(data: ReportData) -> tuple[Reliance, ...]:
    """Whether the world predicts episodes that it was not trained on; nothing where it states no figures."""
    validity = data.validity
    if validity is None:
        return ()
    answer: Answer = "unknown" if validity.usable is None else "yes" if validity.usable else "no"
    said = [
        *validity.reasons,
        f"{text[0].upper()}{text[1:]}." if (text := validity.summary()) else "",
        validity.undrawn,
        validity.untold,
        validity.unaware,
    ]
    claim = "The world predicts episodes that it was not trained on"
    return (Reliance(claim=claim, answer=answer, reason=" ".join(filter(None, said))),)


def _choice(data: ReportData) -> Reliance:
    top, k = data.ranking.top, data.ranking.k
    claim = f"These are the best {k} inside the world" if k > 1 else "This is the best inside the world"
    if not data.ranking.selects:
        return Reliance(claim=claim, answer="unknown", reason="There was nothing to choose from.")
    if data.ranking.same_success is not None:
        reason = (
            f"It cannot be said: all have {percent(data.ranking.same_success)} success and are ordered by progress."
        )
        return Reliance(claim=claim, answer="unknown", reason=reason)
    certain = sum(p.p_top_k >= SURE for p in top)
    answer: Answer = "yes" if certain == len(top) else "partly" if 2 * certain >= len(top) else "no"
    reason = f"{certain} of {len(top)} belong there with at least {percent(SURE)} probability."
    return Reliance(claim=claim, answer=answer, reason=reason)


def _order(data: ReportData) -> Reliance:
    claim = "The order holds outside the world"
    truth = data.truth
    if truth is None:
        return Reliance(claim=claim, answer="unknown", reason="No ground truth was given.")
    compared = data.compared
    ordered, pearson, number = compared.get("order_accuracy"), compared.get("pearson"), compared.policies
    if number < FEW_POLICIES or ordered is None or ordered.value is None:
        reason = f"Only {plural(number, 'policy', 'policies')} could be compared; {FEW_POLICIES} or more are needed."
        if ordered is not None and ordered.value is None and number >= FEW_POLICIES:
            reason = f"It cannot be said: {ordered.undefined}."
        return Reliance(claim=claim, answer="unknown", reason=reason)
    answer: Answer = "yes" if ordered.value >= ORDERED else "partly" if ordered.value >= HALF_ORDERED else "no"
    if answer == "yes" and compared.truth_rollouts < FEW_TRUE:
        answer = "partly"
    gap = points(compared.epsilon).replace(".0 ", " ")
    by = " by progress" if data.ranking.by_progress else ""
    reason = f"Of pairs at least {gap} apart in {truth.name}{by}, {estimate(ordered)} are in the right order"
    tail = f"; Pearson r = {estimate(pearson)} over {number} policies." if pearson is not None else "."
    few = f" Some had {plural(compared.truth_rollouts, 'true episode')} only."
    return Reliance(
        claim=claim, answer=answer, reason=reason + tail + (few if compared.truth_rollouts < FEW_TRUE else "")
    )


def _rates(data: ReportData) -> Reliance:
    claim = "Success rates are right in absolute terms"
    if (cut := data.ranking.censoring) is not None and cut.by_progress:
        reason = f"Success is not ranked: {percent(cut.share)} of rollouts are undecided where their episodes end."
        return Reliance(claim=claim, answer="unknown", reason=reason)
    gap, reasons, grades = average_round_trip_gap(data), [], []
    shift = data.truth.success.get("bias") if data.truth else None
    error = data.truth.success.get("mean_absolute_error") if data.truth else None
    if shift is not None and shift.value is not None:
        size = max(abs(shift.value), (error.value or 0.0) / 1.5 if error else 0.0)
        grades.append(_grade(size, BIAS, LARGE_BIAS))
        reasons.append(f"mean bias {estimate(shift)}")
        reasons += [f"mean error {estimate(error)}"] if error and error.value is not None else []
    if gap is not None:
        grades.append(_grade(gap, GAP, LARGE_GAP))
        reasons.append(f"round-trip gap {points(gap)}")
    if not grades:
        return Reliance(claim=claim, answer="unknown", reason="Neither a ground truth nor a round trip was measured.")
    if data.truth is not None and (every := same_everywhere(data.truth)):
        return Reliance(
            claim=claim, answer="unknown", reason=f"It cannot be said: every policy solved {every} on both sides."
        )
    answer: Answer = "no" if "no" in grades else "partly" if "partly" in grades or data.truth is None else "yes"
    text = "; ".join(reasons)
    return Reliance(claim=claim, answer=answer, reason=text[0].upper() + text[1:] + ".")


def _episodes(truth: Truth | None) -> Reliance:
    claim = "A single episode ends as it would in truth"
    kappa = truth.success.get("episode_kappa") if truth else None
    if truth is not None and truth.episodes is not None and kappa is not None and kappa.value is None:
        return Reliance(claim=claim, answer="unknown", reason=f"It cannot be said: {kappa.undefined}.")
    if truth is None or truth.episodes is None or kappa is None or kappa.value is None:
        return Reliance(
            claim=claim, answer="unknown", reason="No episode was run in both with the same start and noise."
        )
    answer: Answer = "yes" if kappa.value >= ALIKE else "partly" if kappa.value >= HALF_ALIKE else "no"
    same = f"{percent(truth.episodes.same)} of {plural(truth.episodes.total, 'matched episode')}"
    return Reliance(claim=claim, answer=answer, reason=f"{same} ended alike; Cohen's kappa {estimate(kappa)}.")


def _gap_caution(data: ReportData) -> str:
    gap = average_round_trip_gap(data)
    if gap is None or gap <= GAP:
        return ""
    return (
        f"Absolute success is not to be trusted: policies lose {points(gap)} in the real environment merely by seeing frames "
        "that the world has encoded and decoded."
    )


def _bias_caution(data: ReportData) -> str:
    if data.truth is None or data.ranking.by_progress:
        return ""
    shift = data.truth.success.get("bias")
    if shift is None or shift.value is None or abs(shift.value) <= LARGE_BIAS:
        return ""
    way = "optimistic" if shift.value > 0 else "pessimistic"
    ordered = _order(data).answer in ("yes", "partly")
    advice = "Read its success rates as an order only." if ordered else "Do not rely on its success rates."
    return f"The world is {way} by {points(shift.value)} on average. {advice}"


def _ceiling_caution(data: ReportData) -> str:
    ceiling = data.compared.get("noise_ceiling") if data.truth else None
    if ceiling is None or (ceiling.value is not None and ceiling.value >= LOW_CEILING):
        return ""
    if ceiling.value is None:
        return f"How much of the disagreement is sampling noise cannot be said: {ceiling.undefined}."
    return (
        f"With so few rollouts even a perfect world would show a correlation of about {ceiling.value:.2f} only: more "
        "rollouts would say more about the world than these numbers do."
    )


def _sample_cautions(data: ReportData) -> list[str]:
    """Cautions about what was sampled."""
    found = []
    least = min((p.shown.rollouts for p in data.ranking.top), default=FEW_ROLLOUTS)
    if least < FEW_ROLLOUTS:
        found.append(f"A winner was judged on {plural(least, 'episode')} only; its interval is wide.")
    if data.ranking.top and any(p.audit is None for p in data.ranking.top):
        found.append(
            "Winners were not tried again on fresh episodes, so their success is overstated: they were chosen for it."
        )
    if data.distinct_starts is not None and data.distinct_starts < FEW_STARTS:
        found.append(
            f"All episodes begin from {plural(data.distinct_starts, 'start')}: other starts may give another order."
        )
    return found


def _grade(size: float, small: float, large: float) -> Answer:
    return "yes" if size <= small else "partly" if size <= large else "no"
