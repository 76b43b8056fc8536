"""Calibrating a critic: it judges labelled videos of held-out policies; half of the policies fit it, the others test it.

The videos must be ones that the model did not learn from.

Shape legend: N judged episodes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError
from worldsim.progress import Progress, silent
from worldsim.reason.calibration.metrics import JudgeMetrics
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.critic import Assessment, ReasonCritic
from worldsim.reason.frame_source import RecordedFrames
from worldsim.reason.items.item import KeyedChoices
from worldsim.reason.items.sources import Source, subsample
from worldsim.reason.items.video import Video
from worldsim.reason.settings import Calibration

_TRIES = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JudgedEpisodes:
    """A critic's assessments of N episodes, and how they ended.

    Attributes:
        assessments: Before calibration, in the order of the episodes.
        solved: bool [N].
        progress: float [N], true progress at the end; nan where it is not known.
        groups: The policy of each.
        sources: Name of the source of each.
        unlabelled: Videos that were left out because their outcome is not known.
    """

    assessments: Assessment
    solved: Bools
    progress: Float64s
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    unlabelled: int = 0


def judge_sources(
    critic: ReasonCritic,
    sources: Mapping[str, Source],
    *,
    most: int = 0,
    progress: Progress = silent,
) -> JudgedEpisodes:
    """Let a critic judge labelled videos.

    Args:
        critic: Calibrated or not: its calibration is not used.
        sources: By name, readable (see `worldsim.reason.items.sources.skip_unreadable`).
        most: Videos of each source at most, spread over it; 0 for all.
        progress: Called after each batch.

    Raises:
        InvalidInputError: A source has no labelled video; it is named.
    """
    parts: list[Assessment] = []
    facts: list[tuple[bool, float, str, str]] = []
    chosen = {name: subsample(source, most) for name, source in sources.items()}
    total, done, unlabelled = sum(map(len, chosen.values())), 0, 0
    for name, source in chosen.items():
        before = len(facts)
        for first in range(0, len(source), critic.batch):
            videos = [source.video(i) for i in range(first, min(first + critic.batch, len(source)))]
            known = [v for v in videos if v.success is not None]
            if known:
                parts.append(critic.assess(RecordedFrames([v.frames for v in known])))
                facts += [_facts(v, name) for v in known]
            done, unlabelled = done + len(videos), unlabelled + len(videos) - len(known)
            progress("episodes judged", done, total, {})
        if len(facts) == before:
            raise InvalidInputError(
                f"None of the {len(source)} videos of {name} says whether it was solved. Record success with them "
                "(worldsim collect does), or leave this data out."
            )
    if not parts:
        raise InvalidInputError("A calibration needs videos; no data was given.")
    solved, ends, groups, names = zip(*facts, strict=True)
    return JudgedEpisodes(
        assessments=Assessment.cat(parts),
        solved=np.array(solved, np.bool_),
        progress=np.array(ends, np.float64),
        groups=groups,
        sources=names,
        unlabelled=unlabelled,
    )


def calibrate(
    critic: ReasonCritic,
    judged: JudgedEpisodes,
    *,
    bias: bool = True,
    seed: int = 0,
    data: Mapping[str, str] | None = None,
    command: str = "",
) -> ReasonCritic:
    """Fit temperature and bias on half of the policy groups, and test them on the other half.

    Args:
        critic: The judge.
        judged: Its assessments.
        bias: Fit the bias too; else the temperature alone.
        seed: Splits the groups; halves in which an outcome never occurs are drawn again.
        data: Digest of each source by name, for the record.
        command: As typed, for the record.

    Returns:
        The critic with its calibration and its figures.

    Raises:
        InvalidInputError: Fewer than two groups, or no split in which both outcomes occur in both halves.
    """
    fit = split_policies(judged, seed=seed)
    platt = Platt.fit(judged.assessments.logodds.numpy()[fit], judged.solved[fit], bias=bias)
    made = critic.with_settings(dataclasses.replace(critic.settings, platt=platt, calibration=None))
    rows = np.flatnonzero(~fit)
    calibration = Calibration(
        fitted_on=tuple(sorted({judged.groups[i] for i in np.flatnonzero(fit)})),
        fitted_episodes=int(fit.sum()),
        metrics=metrics_of(made, judged, rows),
        data=dict(data or {}),
        command=command,
    )
    return made.with_settings(dataclasses.replace(made.settings, calibration=calibration))


def metrics_of(critic: ReasonCritic, judged: JudgedEpisodes, rows: Int64s) -> JudgeMetrics:
    """Figures of a critic on some of the judged episodes, as it is calibrated now."""
    found = judged.assessments.rows(torch.from_numpy(rows))
    probability, abstain = critic.decide(found)
    return JudgeMetrics.of(
        probability.numpy(),
        judged.solved[rows],
        groups=[judged.groups[i] for i in rows],
        sources=[judged.sources[i] for i in rows],
        abstained=abstain.numpy(),
        progress=(found.progress.numpy(), judged.progress[rows]),
    )


def split_policies(judged: JudgedEpisodes, *, seed: int = 0) -> Bools:
    """Which episodes to fit on, bool [N]: those of half of the policy groups, drawn by the seed.

    Raises:
        InvalidInputError: As `calibrate`.
    """
    names = sorted(set(judged.groups))
    if len(names) < 2:
        raise InvalidInputError(
            f"A calibration is tested on other policies than it is fitted on; these videos are all of {names}. Add data of "
            "other policies."
        )
    for attempt in range(_TRIES):
        chosen = {names[i] for i in KeyedChoices("calibrate", seed, attempt).order(len(names))[: (len(names) + 1) // 2]}
        fit = np.array([g in chosen for g in judged.groups])
        if all(len({*judged.solved[part].tolist()}) == 2 for part in (fit, ~fit)):
            return fit
    wins = int(judged.solved.sum())
    raise InvalidInputError(
        f"Of {len(judged.groups)} episodes {wins} are solved, and no split of the {len(names)} policies leaves solved and "
        "unsolved ones on both sides. Add data of policies that succeed and fail."
    )


def _facts(video: Video, source: str) -> tuple[bool, float, str, str]:
    assert video.success is not None
    end = float("nan") if video.progress is None else float(video.progress[-1])
    return video.success >= 0.5, end, video.provenance.policy, source


def summary(critic: ReasonCritic) -> dict[str, Any]:
    """The figures in the manifest of a calibrated critic; empty for another."""
    calibration = critic.settings.calibration
    if calibration is None:
        return {}
    metrics, rates = calibration.metrics, calibration.metrics.rates
    return {
        "ece": round(metrics.ece, 4),
        "brier": round(metrics.brier, 4),
        "balanced_accuracy": None if metrics.balanced_accuracy is None else round(metrics.balanced_accuracy, 4),
        "progress_error": None if metrics.progress_error is None else round(metrics.progress_error, 4),
        "sensitivity": str(rates.sensitivity),
        "specificity": str(rates.specificity),
        "episodes": metrics.episodes,
    }
