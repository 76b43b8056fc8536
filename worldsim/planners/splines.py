"""Fewer numbers per plan: actions as a spline through a few knots, for any rule.

A spline is linear in its knots, so one matrix [H, K] does everything: knots to actions, actions to the nearest knots (by
least squares), and a gradient in actions to one in knots.

Shape legend: H steps, K knots, A action width.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

_HOLD, _LINEAR, _CUBIC = 0, 1, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spline:
    """How a plan is written.

    Attributes:
        knots: K, between 2 (1 for holding) and the horizon.
        degree: 0 holds each knot, 1 interpolates linearly, 3 by a natural cubic (which may overshoot: it is clipped).

    Raises:
        InvalidInputError: Another degree, or too few knots.
    """

    knots: int
    degree: int = _LINEAR

    def __post_init__(self) -> None:
        if self.degree not in (_HOLD, _LINEAR, _CUBIC):
            raise InvalidInputError(f"A spline's degree is 0, 1 or 3; got {self.degree}.")
        if self.knots < (1 if self.degree == _HOLD else 2):
            raise InvalidInputError(f"A spline of degree {self.degree} needs more than {self.knots} knots.")

    def basis(self, horizon: int) -> "Basis":
        """The matrices for plans of H steps.

        Raises:
            InvalidInputError: More knots than steps.
        """
        if self.knots > horizon:
            raise InvalidInputError(f"{self.knots} knots cannot shape {horizon} steps. Use fewer knots.")
        place = torch.linspace(0, self.knots - 1, horizon, dtype=torch.float64)
        if self.degree == _HOLD:
            index = (torch.arange(horizon) * self.knots // horizon)[:, None]
            matrix = torch.zeros(horizon, self.knots, dtype=torch.float64).scatter(1, index, 1.0)
        elif self.degree == _LINEAR:
            matrix = (1 - (place[:, None] - torch.arange(self.knots)[None]).abs()).clamp_min(0)
        else:
            from scipy.interpolate import CubicSpline

            curve = CubicSpline(range(self.knots), torch.eye(self.knots).numpy(), bc_type="natural")
            matrix = torch.from_numpy(curve(place.numpy()))
        return Basis(matrix, torch.linalg.pinv(matrix))


class Basis:
    """Between knots and actions; plans without a spline use None instead and are their own knots.

    Args:
        matrix: [H, K], knots to actions.
        inverse: [K, H], actions to the nearest knots.
    """

    def __init__(self, matrix: Tensor, inverse: Tensor) -> None:
        self._matrix, self._inverse = matrix, inverse

    def expand(self, knots: Tensor) -> Tensor:
        """[..., K, A] -> [..., H, A]."""
        return self._matrix.to(knots) @ knots

    def fit(self, actions: Tensor) -> Tensor:
        """[..., H, A] -> [..., K, A]."""
        return self._inverse.to(actions) @ actions

    def pull(self, gradient: Tensor) -> Tensor:
        """A gradient in actions [..., H, A] as one in knots [..., K, A]."""
        return self._matrix.to(gradient).T @ gradient

    def spread(self, std: Tensor) -> Tensor:
        """A spread of knots [..., K, A] as one of actions: each action's own weights, without their signs."""
        return self._matrix.to(std).abs() @ std
