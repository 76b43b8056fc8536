"""Which states and actions a world was trained on.

Shape legend: N rows, P proprio, A action, X numbers of proprioception and action side by side.
"""

import dataclasses

import numpy as np

from worldsim.arrays import Bools, Float64s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which proprioception and actions the training data holds.

    Attributes:
        proprio_low: Of each number of proprioception, the 0.5 % quantile; `proprio_high` the 99.5 % quantile.
        action_low: The same of actions; `action_high` likewise.
        mean: Of proprioception and action side by side, X numbers.
        whitening: Rows of a matrix [X, X] that maps differences from the mean to independent numbers of variance 1.
        limit: Distance from the mean in these numbers (Mahalanobis) that 99 % of the rows do not exceed.
    """

    proprio_low: tuple[float, ...]
    proprio_high: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float

    @classmethod
    def measure(cls, proprio_NP: Float64s, action_NA: Float64s) -> "Coverage":
        """Measure rows that belong together, at least two."""
        rows_NX = np.concatenate([proprio_NP, action_NA], axis=1).astype(np.float64)
        mean_X, spread_X = rows_NX.mean(0), np.maximum(rows_NX.std(0), 1e-6)
        unit_NX = (rows_NX - mean_X) / spread_X
        values, vectors = np.linalg.eigh(unit_NX.T @ unit_NX / len(rows_NX) + 1e-3 * np.eye(len(mean_X)))
        whitening = (vectors / np.sqrt(values)).T / spread_X
        distance_N = np.linalg.norm((rows_NX - mean_X) @ whitening.T, axis=1)
        low, high = np.quantile(rows_NX, [0.005, 0.995], axis=0).round(6).tolist()
        count = proprio_NP.shape[1]
        return cls(
            proprio_low=tuple(low[:count]),
            proprio_high=tuple(high[:count]),
            action_low=tuple(low[count:]),
            action_high=tuple(high[count:]),
            mean=tuple(mean_X.round(6).tolist()),
            whitening=tuple(tuple(float(f"{v:.6g}") for v in row) for row in whitening),
            limit=round(float(np.quantile(distance_N, 0.99)), 6),
        )

    def outside(self, proprio_NP: Float64s, action_NA: Float64s) -> Bools:
        """Which rows [N] lie farther from the training data than 99 % of that data."""
        rows_NX = np.concatenate([proprio_NP, action_NA], axis=1) - np.array(self.mean)
        return np.asarray(np.linalg.norm(rows_NX @ np.array(self.whitening).T, axis=1) > self.limit)
