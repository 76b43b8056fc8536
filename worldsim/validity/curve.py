"""Error of one quantity by how many actions ahead, and how far it stays below that of copying."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

BOUND = 0.9
"""Share of episodes whose error stays below a stated bound."""
MARGIN = 0.1
"""Share of copying's error by which a world must be better to count as better."""
Unit = Literal["grey levels", "sd", "px", "progress", "wrong"]
"""Of an error: grey levels of 255, standard deviations, pixels, progress in 0..1, or the share misread.

Means of grey levels, deviations and progress are root mean squares. Progress is compared by its mean, which is what minimises
squared error; by absolute error, a world that says 0 of episodes most of which stay there would seem right about all of them.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """Error of one quantity by how many actions ahead, of the world and of two predictions that anybody can make.

    Attributes:
        quantity: What is predicted, for example ``"pictures"`` or ``"place of thing 1"``.
        unit: Of all errors.
        horizons: Actions ahead, in order; the other fields have a value for each.
        world: Mean error over the episodes that last as long (the root mean square in some units, see `Unit`).
        bound: Error below which an episode stays with a probability of `BOUND`, by split conformal prediction; None where
            there are too few episodes to state one.
        copying: Error of repeating the first frame.
        constant: Error of always saying the same: the median picture, the mean value.
        episodes: How many it was measured on.
        tolerance: Error below which nothing is wrong.
        changes: Share of episodes in which it changes by more than the tolerance.
    """

    quantity: str
    unit: Unit
    horizons: tuple[int, ...]
    world: tuple[float, ...]
    bound: tuple[float | None, ...]
    copying: tuple[float, ...]
    constant: tuple[float, ...]
    episodes: tuple[int, ...]
    tolerance: float = 0.0
    changes: float = 1.0

    def beats(self, index: int) -> bool:
        """Whether the world is better by `MARGIN` than copying, and better than a constant, at one of the horizons."""
        return self.world[index] <= (1 - MARGIN) * self.copying[index] and self.world[index] < self.constant[index]

    @property
    def reach(self) -> int:
        """Actions ahead up to which the world beats copying, 0 where it never does.

        Horizons before the first at which it does are left out, as little has changed there; errors within the tolerance
        count as none.
        """
        first = next((i for i in range(len(self.horizons)) if self.beats(i)), None)
        if first is None:
            return 0
        reached = self.horizons[first]
        for i in range(first + 1, len(self.horizons)):
            if not self.beats(i) and self.world[i] > self.tolerance:
                break
            reached = self.horizons[i]
        return reached

    def last(self, horizon: int | None = None) -> int:
        """Index of the last horizon measured, or of the last within `horizon`."""
        within = [i for i, h in enumerate(self.horizons) if horizon is None or h <= horizon]
        return within[-1] if within else 0

    def figure(self, value: float | None) -> str:
        """An error for people; pictures as a signal-to-noise ratio."""
        if value is None:
            return "unknown"
        match self.unit:
            case "grey levels":
                return f"{20 * math.log10(255 / max(value, 0.255)):.1f} dB"
            case "sd" | "px":
                return f"{value:.3g} {self.unit}"
            case "wrong":
                return f"{100 * value:.1f} %"
            case "progress":
                return f"{value:.3f}"

    def compare(self, index: int) -> str:
        """The world beside the others at one of the horizons, in a sentence."""
        own, copied, same = (self.figure(v[index]) for v in (self.world, self.copying, self.constant))
        text = f"{self.quantity} after {count_actions(self.horizons[index])}: {own}, and copying {copied}, a constant {same}."
        return text[0].upper() + text[1:]


def conformal_bound(errors: Sequence[float], share: float = BOUND) -> float | None:
    """The smallest of these errors that the error of one more episode stays below with a probability of `share`.

    Split conformal prediction (Lei et al., "Distribution-free predictive inference for regression", 2018): the
    ceil((n + 1) share)-th smallest of n errors. None where n is too small for any of them to be such a bound.
    """
    rank = math.ceil((len(errors) + 1) * share - 1e-9)
    return sorted(errors)[rank - 1] if rank <= len(errors) else None


def valid_horizon(curves: Sequence[ErrorCurve], *, recorded: int, horizon: int) -> int:
    """Actions up to which all of these quantities are predicted better than by copying.

    Args:
        curves: Of what outcomes are read from, at least one.
        recorded: Actions of the longest recorded episode.
        horizon: Actions of an episode in the world.

    Returns:
        The least reach of any; where all reach the last horizon measured, as far as episodes were recorded.
    """
    if all(c.reach == c.horizons[-1] for c in curves):
        return min(recorded, horizon)
    return min(*(c.reach for c in curves), horizon)


def count_actions(count: int) -> str:
    """So many actions, in words."""
    return f"{count} action{'s' if count > 1 else ''}"
