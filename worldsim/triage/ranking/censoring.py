"""Episodes that are played no farther than a world is valid: which are undecided then, and what policies are ranked by.

An episode that is solved by then is decided. One that is not is censored: whether it would have been solved is not known.
It is compared by its progress, with true episodes that are played just as far.
"""

import dataclasses
from typing import Self

from worldsim.stats.correlation import SOLVED
from worldsim.triage.ranking.evidence import Evidence

MOST_CENSORED = 0.3
"""Share of rollouts that may be censored where policies are ranked by success."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Censoring:
    """How many rollouts are censored.

    Attributes:
        steps: Actions after which every episode ends here.
        length: Actions of the task's episodes, more than `steps`.
        rollouts: Episodes played by policies that did not crash.
        censored: Those of them that are not solved after `steps`.
    """

    steps: int
    length: int
    rollouts: int
    censored: int

    @classmethod
    def count(cls, evidence: Evidence, *, steps: int, length: int) -> Self | None:
        """Count them; None where episodes are played to their end, so that none is."""
        if steps >= length:
            return None
        done_KN = evidence.done & ~evidence.failed[:, None]
        open_KN = done_KN & (evidence.success < SOLVED)
        return cls(steps=steps, length=length, rollouts=int(done_KN.sum()), censored=int(open_KN.sum()))

    @property
    def share(self) -> float:
        """Share of the rollouts that are censored; 0 without rollouts."""
        return self.censored / self.rollouts if self.rollouts else 0.0

    @property
    def by_progress(self) -> bool:
        """Whether too many are, so that policies are ranked by progress and not by success."""
        return self.share > MOST_CENSORED

    def to_json(self) -> dict[str, int | float | str]:
        """Return JSON values."""
        return {
            "steps": self.steps,
            "episode_length": self.length,
            "n_episodes": self.rollouts,
            "n_censored": self.censored,
            "ranked_by": "progress" if self.by_progress else "success",
        }

    @staticmethod
    def fields_from_json(value: dict[str, int]) -> dict[str, int]:
        """Return what `to_json` gave as fields for `storage.from_json`.

        Raises:
            KeyError, TypeError: The value is something else.
        """
        return {
            "steps": value["steps"],
            "length": value["episode_length"],
            "rollouts": value["n_episodes"],
            "censored": value["n_censored"],
        }


def deciding(evidence: Evidence, censoring: Censoring | None) -> Evidence:
    """What policies are compared by: their outcomes, or progress in the place of success where too many are censored."""
    if censoring is None or not censoring.by_progress:
        return evidence
    return evidence.wrap(success=evidence.progress, progress=evidence.progress, failed=evidence.failed)
