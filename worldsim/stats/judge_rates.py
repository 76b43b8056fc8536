"""How often a judge agrees with known outcomes: sensitivity and specificity, counted, with exact intervals."""

import dataclasses
import math

from worldsim.arrays import Bools
from worldsim.errors import InvalidInputError

_GROUP = 20  # solved and unsolved episodes each, from which a group's own rates are used


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proportion:
    """Hits among trials; as text with its Clopper-Pearson 95 % interval.

    Attributes:
        hits: Successes.
        count: Trials, at least 1.
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """Hits / count."""
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval, lower and upper end."""
        from worldsim.stats.intervals import clopper_pearson  # scipy, which training does without

        low, high = clopper_pearson([self.hits], [self.count])
        return float(low[0]), float(high[0])

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] of {self.count}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAccuracy:
    """The mean of sensitivity and specificity.

    Attributes:
        value: In 0..1; 0.5 is chance.
        interval: 95 %, from the exact intervals of both (Newcombe's square-and-add, Stat. Med. 17, 1998).
        count: Episodes.
    """

    value: float
    interval: tuple[float, float]
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}] of {self.count}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeRates:
    """How often a judge was right where the truth was known.

    Attributes:
        group: Whose episodes: the beginning of policies' names, in full parts between slashes; empty for all.
        solved: Episodes truly solved.
        solved_right: Of them, those it called solved.
        unsolved: Episodes truly not solved.
        unsolved_right: Of them, those it called not solved.

    Raises:
        InvalidInputError: More right than there are.
    """

    group: str = ""
    solved: int
    solved_right: int
    unsolved: int
    unsolved_right: int

    def __post_init__(self) -> None:
        if not (0 <= self.solved_right <= self.solved and 0 <= self.unsolved_right <= self.unsolved):
            raise InvalidInputError(f"A judge cannot be right more often than it was asked; got {self}.")

    @classmethod
    def of(cls, judged: Bools, solved: Bools, *, group: str = "") -> "JudgeRates":
        """Count the agreement of verdicts bool [N] with outcomes bool [N]."""
        return cls(
            group=group,
            solved=int(solved.sum()),
            solved_right=int(judged[solved].sum()),
            unsolved=int((~solved).sum()),
            unsolved_right=int((~judged[~solved]).sum()),
        )

    @property
    def few(self) -> bool:
        """Too few episodes for rates of a group's own."""
        return min(self.solved, self.unsolved) < _GROUP

    @property
    def sensitivity(self) -> Proportion | None:
        """Share of the solved episodes that it calls solved; None where there are none."""
        return Proportion(hits=self.solved_right, count=self.solved) if self.solved else None

    @property
    def specificity(self) -> Proportion | None:
        """Share of the unsolved episodes that it calls unsolved; None where there are none."""
        return Proportion(hits=self.unsolved_right, count=self.unsolved) if self.unsolved else None

    @property
    def balanced(self) -> BalancedAccuracy | None:
        """Their mean, which guessing cannot raise by guessing the common outcome; None where an outcome has no episode."""
        parts = (self.sensitivity, self.specificity)
        if parts[0] is None or parts[1] is None:
            return None
        value = (parts[0].value + parts[1].value) / 2
        below, above = (
            math.hypot(*(p.value - p.interval[side] for p in parts if p is not None)) / 2 for side in (0, 1)
        )
        interval = (max(0.0, value - below), min(1.0, value + above))
        return BalancedAccuracy(value=value, interval=interval, count=self.solved + self.unsolved)
