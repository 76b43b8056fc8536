"""What a model thinks of an episode it is shown: the outcome task's two questions in one pass, as numbers and in words.

Not for choosing frames or for calibrated verdicts (`worldsim.reason.critic`).

Shape legend: B episodes, F frames shown, S pixels, O options.
"""

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.core import Rows, Verdict
from worldsim.errors import InvalidInputError
from worldsim.reason.item import Item
from worldsim.reason.tasks.outcome import BINS, OPTIONS, About, Outcome, wording
from worldsim.reason.video import Provenance
from worldsim.reason.vlm import VLM
from worldsim.reason.weigh import weigh

YES, NO = OPTIONS.index("yes"), OPTIONS.index("no")
MIDDLES = tuple(sum(map(int, b.split("-"))) / 200 for b in BINS)
"""Progress in the middle of each bin: what an answer counts as."""
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opinion(Rows):
    """What a model would answer about B episodes, before any calibration."""

    logodds: Tensor  # float64 [B], of yes against no
    progress: Tensor  # float32 [B], expected over the bins' middles: 0.1..0.9
    unsaid: Tensor  # float32 [B], probability of replies in other words than the options, the larger of both questions


def opinion(vlm: VLM, frames: Sequence[Tensor], *, task: str, think: int = 0) -> Opinion:
    """Ask whether the robot succeeded and how far it got.

    Args:
        vlm: The model.
        frames: uint8 [F, S, S, 3] of each episode.
        task: As in `OutcomeConfig`.
        think: As in `CriticSettings`.

    Raises:
        InvalidInputError: The model's probabilities are not numbers.
    """
    rows = [[_item(i, f, about, task) for about in ("success", "progress")] for i, f in enumerate(frames)]
    thinks = thoughts(vlm, frames, task=task, most=think) if think else None
    success_BO, progress_BO = (_finite(found) for found in weigh(vlm, rows, thinks=thinks))
    said = torch.stack([success_BO.logsumexp(1), progress_BO.logsumexp(1)]).exp().amin(0)
    return Opinion(
        logodds=success_BO[:, YES].double() - success_BO[:, NO].double(),
        progress=_expected(progress_BO),
        unsaid=(1 - said).clamp(0, 1),
    )


def progress(vlm: VLM, frames: Sequence[Tensor], *, task: str, think: int = 0) -> Tensor:
    """Ask only how far the robot got, float32 [B]; arguments and errors as `opinion`."""
    rows = [[_item(i, f, "progress", task)] for i, f in enumerate(frames)]
    thinks = thoughts(vlm, frames, task=task, most=think) if think else None
    return _expected(_finite(weigh(vlm, rows, thinks=thinks)[0]))


def thoughts(vlm: VLM, frames: Sequence[Tensor], *, task: str, most: int = 64) -> list[str]:
    """What the model says it sees before it answers whether the robot succeeded; generated, `most` tokens each."""
    items = [_item(i, f, "success", task) for i, f in enumerate(frames)]
    found = [_THOUGHT.search(reply) for reply in vlm.replies(items, max_new_tokens=most, batch=len(items))]
    return ["" if m is None else " ".join(m.group(1).split()) for m in found]


def rationale(verdict: Verdict, seen: Opinion, thought: Sequence[str], *, calibrated: bool) -> tuple[str, ...]:
    """One line per episode: the numbers that decided, and what the model says it sees where it was asked."""
    found = []
    for row in range(verdict.batch):
        p, abstain, failed_at = float(verdict.success[row]), bool(verdict.abstain[row]), int(verdict.failed_at[row])
        verdict_word = "undecided" if abstain else "solved" if p >= 0.5 else "not solved"
        parts = [f"{verdict_word}: success {p:.2f}, progress {float(verdict.progress[row]):.2f}"]
        if float(seen.unsaid[row]) >= 0.1:
            parts.append(f"other words {float(seen.unsaid[row]):.2f}")
        if failed_at >= 0:
            parts.append(f"no progress after {failed_at}")
        if not calibrated:
            parts.append("uncalibrated")
        found.append(", ".join(parts) + (f"; sees {thought[row]}" if thought[row] else ""))
    return tuple(found)


def _item(number: int, frames: Tensor, about: About, task: str) -> Item:
    """The outcome task's question; its answer is not known and not read."""
    prompt, options = wording(about, task)
    return Item(
        task=Outcome.name,
        group=about,
        number=number,
        prompt=prompt,
        frames=frames,
        options=options,
        answer=options[0],
        difficulty=0.5,
        think="",
        provenance=Provenance(kind="dream", episode=str(number)),
        taken=tuple(range(len(frames))),
    )


def _expected(logprob_BO: Tensor) -> Tensor:
    return logprob_BO.softmax(1) @ torch.tensor(MIDDLES)


def _finite(logprob_BO: Tensor) -> Tensor:
    if not bool(logprob_BO.isfinite().all()):
        bad = (~logprob_BO.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        raise InvalidInputError(
            f"The model gives no number for episodes {bad[:5]} of {len(logprob_BO)}: its weights are broken, or the number "
            "format is too small. Train it again, or load it in float32."
        )
    return logprob_BO
