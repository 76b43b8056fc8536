"""What a leaderboard goes by when a judge's rates were corrected: as many true episodes as each rate is worth.

Not for correcting (`worldsim.triage.ranking.judge_correction`).

Shape legend: K policies.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import Corrected
from worldsim.triage.ranking.posterior import Prior, Sweep

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """Corrected rates as wins and counts; see `worldsim.triage.ranking.posterior.Tally`.

    Attributes:
        policies: Number of policies K.
        failed: bool [K].
        wins: float64 [K], rate times count.
        count: float64 [K], effective episodes.
        success_mean: float64 [K], the corrected rate; nan where there is none.
        progress_mean: float64 [K], as judged.
    """

    policies: int
    failed: NDArray[np.bool_]
    wins: Floats
    count: Floats
    success_mean: Floats
    progress_mean: Floats

    @classmethod
    def of(cls, evidence: Evidence, corrected: Sequence[Corrected | None]) -> Self | None:
        """The standing of all policies, or None where one that did not crash has no corrected rate."""
        if any(c is None and not f for c, f in zip(corrected, evidence.failed, strict=True)):
            return None
        value = np.array([np.nan if c is None else c.value for c in corrected])
        count = np.array([0.0 if c is None else c.effective for c in corrected])
        return cls(
            policies=evidence.policies,
            failed=evidence.failed,
            wins=np.nan_to_num(value) * count,
            count=count,
            success_mean=value,
            progress_mean=evidence.progress_mean,
        )

    def prior(self) -> Prior:
        """The prior that these rates teach: their spread between policies, net of their noise.

        The noise of a rate is p (1 - p) / count at the common mean p, which no rate of 0 or 1 makes vanish.
        """
        alive = ~self.failed & (self.count > 0)
        value, count = self.success_mean[alive], self.count[alive]
        total, few = int(alive.sum()), int(count.min()) if count.size else 0
        centre = (float(value.sum()) + 1) / (total + 2)
        if total < 3 or few < 2:
            return Sweep(policies=total, episodes=0, centre=centre).prior(self)
        centre = float(value.mean())
        spread = float(value.var(ddof=1) - (centre * (1 - centre) / count).mean())
        return Sweep(policies=total, episodes=few, centre=centre, spread=spread).prior(self)
