"""How good a judge's probabilities are on episodes whose outcome is known.

Shape legend: N judged episodes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from worldsim.arrays import Bools, Float64s
from worldsim.errors import InvalidInputError
from worldsim.stats.judge_rates import JudgeRates

BINS = 10
"""Bins of the calibration error; each holds as many episodes as the others, up to one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeMetrics:
    """Figures of a judge on episodes that it was not fitted on.

    Attributes:
        episodes: N.
        policies: How many policies' episodes these are.
        ece: Expected calibration error over `bins` bins of equal mass.
        bins: How many bins.
        brier: Mean squared error of the probability.
        balanced_accuracy: Mean of sensitivity and specificity; None where an outcome never occurs.
        abstained: Share of the episodes on which the judge declines to say; the other figures count them too.
        progress_error: Mean distance of judged and true progress at the end; None where no truth is known.
        rates: Sensitivity and specificity on all episodes; probability 1/2 counts as solved.
        groups: Of each policy, and of policies whose names share the part before their last slash, by that name.
        sources: Of each data folder, in the order given, where there are several.
    """

    episodes: int
    policies: int
    ece: float
    bins: int
    brier: float
    balanced_accuracy: float | None
    abstained: float
    progress_error: float | None
    rates: JudgeRates
    groups: tuple[JudgeRates, ...] = ()
    sources: tuple[JudgeRates, ...] = ()

    @classmethod
    def of(
        cls,
        probability: ArrayLike,
        solved: ArrayLike,
        *,
        groups: Sequence[str],
        sources: Sequence[str] = (),
        abstained: ArrayLike | None = None,
        progress: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> "JudgeMetrics":
        """Compare probabilities with the truth.

        Args:
            probability: [N] in 0..1.
            solved: bool [N].
            groups: The policy group of each.
            sources: The data folder of each.
            abstained: bool [N].
            progress: Judged [N] and true [N], nan where it is not known.

        Raises:
            InvalidInputError: Numbers that differ, none, or a probability outside 0..1.
        """
        p, y = np.asarray(probability, np.float64), np.asarray(solved, np.bool_)
        if not p.size or p.shape != y.shape or len(groups) != p.size or not ((p >= 0) & (p <= 1)).all():
            raise InvalidInputError(
                f"Expected probabilities in 0..1, a truth and a group for each; got shapes {p.shape}, {y.shape} and "
                f"{len(groups)} groups."
            )
        rates, many = JudgeRates.of(p >= 0.5, y), sorted(set(sources))
        both = rates.sensitivity is not None and rates.specificity is not None
        return cls(
            episodes=int(p.size),
            policies=len(set(groups)),
            ece=calibration_error(p, y),
            bins=min(BINS, int(p.size)),
            brier=float(np.square(p - y).mean()),
            balanced_accuracy=balanced_accuracy(p, y) if both else None,
            abstained=0.0 if abstained is None else float(np.asarray(abstained, np.float64).mean()),
            progress_error=None if progress is None else _distance(*progress),
            rates=rates,
            groups=tuple(sorted((*_by(groups, p, y), *_by(_families(groups), p, y)), key=lambda e: e.group)),
            sources=_by(sources, p, y) if len(many) > 1 else (),
        )


def balanced_accuracy(probability: Float64s, solved: Bools) -> float:
    """Mean of sensitivity and specificity at 1/2; both outcomes must occur."""
    said = probability >= 0.5
    return float((said[solved].mean() + (~said[~solved]).mean()) / 2)


def calibration_error(probability: Float64s, solved: Bools, *, bins: int = BINS) -> float:
    """Expected calibration error: mean over episodes of |mean probability - share solved| of their bin.

    Bins hold equal numbers of episodes in the order of their probability, so that none is empty; a perfect judge still
    shows a little, about 0.02 with 10 bins of 100.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    gaps = [abs(float(probability[part].mean() - solved[part].mean())) * part.size for part in parts]
    return sum(gaps) / probability.size


def _distance(judged: ArrayLike, true: ArrayLike) -> float | None:
    gap = np.abs(np.asarray(judged, np.float64) - np.asarray(true, np.float64))
    return float(np.nanmean(gap)) if np.isfinite(gap).any() else None


def _families(names: Sequence[str]) -> list[str]:
    """Of each policy, what several checkpoints of one run share; empty where a name has no parts or is alone."""
    family = {name: name.rpartition("/")[0] for name in set(names)}
    shared = {f for f in family.values() if f and list(family.values()).count(f) > 1 and f not in family}
    return [family[name] if family[name] in shared else "" for name in names]


def _by(names: Sequence[str], probability: Float64s, solved: Bools) -> tuple[JudgeRates, ...]:
    """Rates on each name's episodes, sorted."""
    label = np.array(names)
    known = sorted(name for name in set(names) if name)
    return tuple(JudgeRates.of(probability[label == name] >= 0.5, solved[label == name], group=name) for name in known)
