"""One number with its uncertainty: what every statistic of agreement is reported as."""

import dataclasses

from worldsim.stats.intervals import Interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        name: What it is.
        value: None where it is undefined.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        n: Independent units behind it: policies, or matched episodes for ``episode_...``.
        undefined: Why there is no value, or no interval; empty otherwise.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    undefined: str = ""

    @classmethod
    def of(cls, name: str, *, value: float, interval: Interval | None, n: int, undefined: str = "") -> "Estimate":
        """Build an estimate; `undefined` is kept only where the interval is missing."""
        if interval is None:
            return cls(name=name, value=value, n=n, undefined=undefined or "too few of its bootstrap draws are defined")
        return cls(name=name, value=value, low=interval.low, high=interval.high, n=n)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} undefined because {self.undefined} (n = {self.n})"
        span = f"{self.low:.3f} .. {self.high:.3f}" if self.low is not None else f"no interval because {self.undefined}"
        return f"{self.name} {self.value:.3f} ({span}, n = {self.n})"
