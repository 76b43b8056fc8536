"""Calibrating a critic: it judges labelled videos of held-out policies, half of them fit it and the others try it.

Not for the arithmetic (`worldsim.reason.platt`, `worldsim.reason.trial`). The videos must be ones that the model did not
learn from.

Shape legend: N judged episodes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.draw import Draw
from worldsim.reason.opinion import Opinion
from worldsim.reason.platt import Platt
from worldsim.reason.reel import Filmed
from worldsim.reason.settings import Calibration
from worldsim.reason.sources import Source, thinned
from worldsim.reason.trial import Trial
from worldsim.reason.video import Video

Bools = NDArray[np.bool_]
_TRIES = 64
Tell = Callable[[int, int], None]
"""Told how many episodes are judged, of how many."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a critic thought of N episodes, and how they ended.

    Attributes:
        opinions: Before calibration, in the order of the episodes.
        solved: bool [N].
        progress: float [N], true progress at the end; nan where it is not known.
        groups: The policy of each.
        sources: Name of the source of each.
        unlabelled: Videos that were left out because nobody knows their outcome.
    """

    opinions: Opinion
    solved: Bools
    progress: NDArray[np.float64]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    unlabelled: int = 0


def judge_sources(
    critic: ReasonCritic, sources: Mapping[str, Source], *, most: int = 0, tell: Tell = lambda done, total: None
) -> Judged:
    """Let a critic judge labelled videos.

    Args:
        critic: Calibrated or not: its calibration is not used.
        sources: By name, readable (see `worldsim.reason.sources.tolerant`).
        most: Videos of each source at most, spread over it; 0 for all.
        tell: Told after each batch.

    Raises:
        InvalidInputError: A source has no labelled video; it is named.
    """
    parts: list[Opinion] = []
    facts: list[tuple[bool, float, str, str]] = []
    chosen = {name: thinned(source, most) for name, source in sources.items()}
    total, seen, unlabelled = sum(map(len, chosen.values())), 0, 0
    for name, source in chosen.items():
        before = len(facts)
        for first in range(0, len(source), critic.batch):
            videos = [source.video(i) for i in range(first, min(first + critic.batch, len(source)))]
            known = [v for v in videos if v.success is not None]
            if known:
                parts.append(critic.opinions(Filmed([v.frames for v in known])))
                facts += [_facts(v, name) for v in known]
            seen, unlabelled = seen + len(videos), unlabelled + len(videos) - len(known)
            tell(seen, total)
        if len(facts) == before:
            raise InvalidInputError(
                f"None of the {len(source)} videos of {name} says whether it was solved. Record success with them "
                "(worldsim collect does), or leave this data out."
            )
    if not parts:
        raise InvalidInputError("A calibration needs videos; no data was given.")
    solved, progress, groups, names = zip(*facts, strict=True)
    return Judged(
        opinions=Opinion.cat(parts),
        solved=np.array(solved, np.bool_),
        progress=np.array(progress, np.float64),
        groups=groups,
        sources=names,
        unlabelled=unlabelled,
    )


def calibrated(
    critic: ReasonCritic,
    judged: Judged,
    *,
    bias: bool = True,
    seed: int = 0,
    data: Mapping[str, str] | None = None,
    command: str = "",
) -> ReasonCritic:
    """Fit temperature and bias on half of the policy groups, and try them on the other half.

    Args:
        critic: Who judged.
        judged: What it thought.
        bias: Fit the bias too; else the temperature alone.
        seed: Parts the groups; halves in which an outcome never occurs are drawn again.
        data: Digest of each source by name, for the record.
        command: As typed, for the record.

    Returns:
        The critic with its calibration and its figures.

    Raises:
        InvalidInputError: Fewer than two groups, or no parting in which both outcomes occur in both halves.
    """
    fit = halves(judged, seed=seed)
    platt = Platt.fit(judged.opinions.logodds.numpy()[fit], judged.solved[fit], bias=bias)
    made = critic.with_settings(dataclasses.replace(critic.settings, platt=platt, calibration=None))
    rows = np.flatnonzero(~fit)
    calibration = Calibration(
        fitted_on=tuple(sorted({judged.groups[i] for i in np.flatnonzero(fit)})),
        fitted_episodes=int(fit.sum()),
        trial=trial_of(made, judged, rows),
        data=dict(data or {}),
        command=command,
    )
    return made.with_settings(dataclasses.replace(made.settings, calibration=calibration))


def trial_of(critic: ReasonCritic, judged: Judged, rows: NDArray[np.int64]) -> Trial:
    """Figures of a critic on some of the judged episodes, as it is calibrated now."""
    seen = judged.opinions.rows(torch.from_numpy(rows))
    probability, abstain = critic.read(seen)
    return Trial.of(
        probability.numpy(),
        judged.solved[rows],
        groups=[judged.groups[i] for i in rows],
        sources=[judged.sources[i] for i in rows],
        abstained=abstain.numpy(),
        progress=(seen.progress.numpy(), judged.progress[rows]),
    )


def halves(judged: Judged, *, seed: int = 0) -> Bools:
    """Which episodes to fit on, bool [N]: those of half of the policy groups, drawn by the seed.

    Raises:
        InvalidInputError: As `calibrated`.
    """
    names = sorted(set(judged.groups))
    if len(names) < 2:
        raise InvalidInputError(
            f"A calibration is tried on other policies than it is fitted on; these videos are all of {names}. Add data of "
            "other policies."
        )
    for attempt in range(_TRIES):
        chosen = {names[i] for i in Draw("calibrate", seed, attempt).order(len(names))[: (len(names) + 1) // 2]}
        fit = np.array([g in chosen for g in judged.groups])
        if all(len({*judged.solved[part].tolist()}) == 2 for part in (fit, ~fit)):
            return fit
    wins = int(judged.solved.sum())
    raise InvalidInputError(
        f"Of {len(judged.groups)} episodes {wins} are solved, and no parting of the {len(names)} policies leaves solved and "
        "unsolved ones on both sides. Add data of policies that succeed and fail."
    )


def _facts(video: Video, source: str) -> tuple[bool, float, str, str]:
    assert video.success is not None
    end = float("nan") if video.progress is None else float(video.progress[-1])
    return video.success >= 0.5, end, video.provenance.policy, source


def summary(critic: ReasonCritic) -> dict[str, Any]:
    """The figures that stand in the manifest of a calibrated critic; empty for another."""
    calibration = critic.settings.calibration
    if calibration is None:
        return {}
    trial, errors = calibration.trial, calibration.trial.errors
    return {
        "ece": round(trial.ece, 4),
        "brier": round(trial.brier, 4),
        "balanced_accuracy": None if trial.balanced_accuracy is None else round(trial.balanced_accuracy, 4),
        "progress_error": None if trial.progress_error is None else round(trial.progress_error, 4),
        "sensitivity": str(errors.sensitivity),
        "specificity": str(errors.specificity),
        "episodes": trial.episodes,
    }
