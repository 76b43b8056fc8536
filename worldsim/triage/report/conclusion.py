"""What a report concludes: which checkpoints to try, or why none is recommended and what is missing."""

import dataclasses

from worldsim.triage.report.data import ReportData
from worldsim.triage.report.trust import Reliance, assess_reliance
from worldsim.triage.report.words import count, percent, percent_range, plural

_EVEN = 0.5  # chosen policies that average less than this are no clear winners


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The first thing that a reader should know.

    Attributes:
        title: In one sentence.
        missing: What is missing for a recommendation, and what to do about it; empty where nothing is.
    """

    title: str
    missing: str = ""


def conclude(data: ReportData) -> Conclusion:
    """Draw the conclusion of a run: checkpoints are recommended where nothing that was measured speaks against it.

    Args:
        data: The run.
    """
    top, total = data.ranking.top, len(data.ranking.policies)
    if not top:
        return Conclusion(title=f"None of the {plural(total, 'checkpoint')} could be tried.")
    by_progress = data.ranking.by_progress
    against = _fails_held_out(data) or (None if by_progress else _solves_nothing(data))
    if against is not None:
        return against
    if not data.ranking.selects:
        many = f"All {plural(len(top), 'checkpoint')} that ran, best first."
        return Conclusion(title=many if len(top) > 1 else "Only one checkpoint ran.")
    rates = {p.shown.success for p in data.alive}
    if len(rates) == 1 and not by_progress:
        who = plural(len(data.alive), "checkpoint")
        return Conclusion(
            title=f"The {who} that ran are tied at {percent(rates.pop())} success.",
            missing="A ranking needs a task, or starts, on which they differ. They are ordered by progress alone.",
        )
    return _contradicted(data) or _chosen(data)


def _fails_held_out(data: ReportData) -> Conclusion | None:
    """The world does not even predict its own recordings."""
    if data.validity is None or data.validity.usable is not False:
        return None
    return Conclusion(
        title="No checkpoint is recommended: the world fails on its own held-out episodes.",
        missing=f"A world that predicts. {' '.join(data.validity.reasons)} Train it longer, on more episodes, or with "
        "another tokenizer or predictor, and rank again.",
    )


def _solves_nothing(data: ReportData) -> Conclusion | None:
    """Those that come first solve nothing."""
    top = data.ranking.top
    if any(p.shown.success != 0.0 for p in top):
        return None
    if any(p.shown.success for p in data.alive):
        title = f"The {count(len(top))} that come first solved none of their fresh episodes."
    else:
        title = f"None of the {plural(len(data.alive), 'checkpoint')} that ran solved an episode."
    truths = [p.truth.success for p in data.truth.policies if p.truth.success is not None] if data.truth else []
    if truths and max(truths) > 0:
        name = data.truth.name if data.truth else ""
        missing = (
            f"A world in which the task can be solved: in {name} the same checkpoints solve "
            f"{percent_range(min(truths), max(truths))}. Do not choose by this world."
        )
    else:
        missing = "Checkpoints that solve some episodes, or a world in which the task can be solved."
    return Conclusion(title=title, missing=f"{missing} The order below is by progress alone.")


def _contradicted(data: ReportData) -> Conclusion | None:
    """What was measured outside the world says no."""
    rows = {r.claim: r for r in assess_reliance(data)}
    order, rates = _find(rows, "order holds"), _find(rows, "absolute terms")
    truth = data.truth.name if data.truth else "the truth"
    if order.answer == "no":
        return Conclusion(
            title=f"No checkpoint is recommended: {truth} contradicts the order of this world.",
            missing=f"A world whose order holds. {order.reason} Choose by the truth, or train the world on more episodes.",
        )
    if rates.answer == "no" and order.answer != "yes":
        return Conclusion(
            title="No checkpoint is recommended: the success rates of this world are wrong, and its order is not confirmed.",
            missing=f"{order.reason} {rates.reason} Compare more checkpoints, on more true episodes, or train the world "
            "on more episodes.",
        )
    return None


def _chosen(data: ReportData) -> Conclusion:
    """Those that come first are recommended, as clearly as they lead."""
    top, total = data.ranking.top, len(data.ranking.policies)
    these = "this one" if len(top) == 1 else f"these {count(len(top))}"
    choice = _find({r.claim: r for r in assess_reliance(data)}, "inside the world")
    if sum(p.p_top_k for p in top) < _EVEN * len(top) or choice.answer == "no":
        return Conclusion(
            title=f"No clear winners: {these} come{'s' if len(top) == 1 else ''} first, but not by much.",
            missing=f"Rollouts: {choice.reason} A larger --budget tells them apart, and the run continues.",
        )
    missing, by = "", ""
    if (cut := data.ranking.censoring) is not None and cut.by_progress:
        by = f", by progress after {plural(cut.steps, 'action')}"
        missing = (
            f"A ranking by success: {percent(cut.share)} of rollouts are undecided after {plural(cut.steps, 'action')}. It needs a "
            "world that is valid for longer, or more --steps, where its later predictions are believed all the same."
        )
    return Conclusion(title=f"Try {these} of {plural(total, 'checkpoint')} first{by}.", missing=missing)


def _find(rows: dict[str, Reliance], words: str) -> Reliance:
    """The row whose claim holds these words."""
    return next(row for claim, row in rows.items() if words in claim)
