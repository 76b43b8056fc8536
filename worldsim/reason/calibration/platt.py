"""Platt scaling: from a judge's log-odds to calibrated probabilities.

Shape legend: N judged episodes.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from worldsim.arrays import Float64s
from worldsim.errors import InvalidInputError

_HOTTEST = 1e4
"""Temperatures end here: at it a log-odds of any model says nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Platt:
    """p = sigmoid(log-odds / temperature + bias); without a bias this is temperature scaling.

    Attributes:
        temperature: Above 1 where the judge is too sure of itself.
        bias: In nats; above 0 where it says no too often.

    Raises:
        InvalidInputError: A temperature that is not above 0, or a number that is not finite.
    """

    temperature: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature) and math.isfinite(self.bias)):
            raise InvalidInputError(
                f"A calibration needs a finite temperature above 0 and a finite bias; got {self.temperature}, {self.bias}."
            )

    def __call__(self, logodds: ArrayLike) -> Float64s:
        """Probabilities [N] of log-odds [N]."""
        return np.asarray(special.expit(np.asarray(logodds, np.float64) / self.temperature + self.bias))

    @classmethod
    def fit(cls, logodds: ArrayLike, solved: ArrayLike, *, bias: bool = True) -> "Platt":
        """Fit by maximum likelihood (Platt, "Probabilistic outputs for support vector machines", 1999).

        The targets are Platt's (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0, so that a judge without a mistake
        among few episodes does not become infinitely sure.

        Args:
            logodds: [N], of yes against no.
            solved: bool [N], the truth.
            bias: Fit the bias too; else it is 0 (temperature scaling: Guo et al., 2017).

        Raises:
            InvalidInputError: Numbers that differ or are not finite, or an outcome that never occurs.
        """
        z, y = np.asarray(logodds, np.float64), np.asarray(solved, np.bool_)
        if z.shape != y.shape or z.ndim != 1 or not np.isfinite(z).all():
            raise InvalidInputError(
                f"Expected finite log-odds and a truth for each; got shapes {z.shape} and {y.shape}."
            )
        wins = int(y.sum())
        if not 0 < wins < y.size:
            raise InvalidInputError(
                f"Of {y.size} episodes {wins} are solved. A calibration needs solved and unsolved ones; judge others too."
            )
        target = np.where(y, (wins + 1) / (wins + 2), 1 / (y.size - wins + 2))

        def loss(x: Float64s) -> tuple[float, Float64s]:
            """Mean negative log-likelihood and its gradient, over the logarithm of 1 / temperature and the bias."""
            scale = math.exp(x[0])
            margin = scale * z + (x[1] if bias else 0.0)
            error = special.expit(margin) - target
            slope = np.array([(error * z).mean() * scale, error.mean() if bias else 0.0])
            return float(np.logaddexp(0, margin).mean() - (target * margin).mean()), slope

        span = math.log(_HOTTEST)
        best = optimize.minimize(
            loss,
            np.zeros(2),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-span, span), (-50.0, 50.0)],
            options={"gtol": 1e-9},
        )
        return cls(temperature=math.exp(-float(best.x[0])), bias=float(best.x[1]) if bias else 0.0)
