"""Which numbers of proprioception are joint angles: those whose cosines and sines explain the picture.

A coarse picture is regressed on standardised proprioception and its squares, and on products of (1, cosine, sine) over some
of the numbers as well. Numbers are added one by one, as long as they explain clearly more of held-out pictures. Places of small
reach, such as a tip's in metres, gain nothing by it; one in larger units may pass for an angle, which gives it products for features.
Velocities, the rates at which other numbers change, are left out.

Shape legend: N rows, P proprio, F features, Q components of the coarse picture, H W frame.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.tokenizers.structured.actor import MOST_JOINTS, joint_products
from worldsim.train.recipes.structured.rows import FrameRows

LEAST_GAINED = 0.05
"""Share of the coarse picture's variance that joints must explain beyond other features."""
_FIRST, _CLEAR, _SMALL = 0.02, 0.03, 0.005
"""What the first joint must explain beyond itself and its square, which is all that a place of small reach does; what another
one must explain: so much, or so little where a polynomial of it explains no more."""
_VELOCITY = 0.7
"""Correlation with another number's change in a step from which a number is a velocity."""
_ALIKE = 0.7
"""Of numbers that gain so large a part of the most, the first is added: positions stand before velocities."""
_ROWS = 3000
_COARSE, _COMPONENTS = 16, 48
_RIDGES = (1e-3, 1e-2, 1e-1)
_ROWS_PER_FEATURE = 4
_MOST_RAD, _MOST_DEG = 12 * math.pi, 400.0
"""Numbers that go farther are no angles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joints:
    """Which numbers of proprioception are joint angles.

    Attributes:
        numbers: In ascending order; empty where none are.
        degrees: Whether they are in degrees, not in radians.
        explained: Share of the variance of held-out coarse pictures that is linear in features with their products.
        without: The same without any.
    """

    numbers: tuple[int, ...] = ()
    degrees: bool = False
    explained: float = 0.0
    without: float = 0.0

    def said(self) -> str:
        """A sentence without its full stop."""
        if not self.numbers:
            return f"no number of proprioception acts as a joint angle (features explain {self.without:.0%} of a coarse picture)"
        unit = "degrees" if self.degrees else "rad"
        return (
            f"joint angles ({unit}) are numbers {', '.join(map(str, self.numbers))} of proprioception: with their products "
            f"{self.explained:.0%} of a coarse picture is explained, {self.without:.0%} without"
        )


@torch.no_grad()
def find_joints(rows: FrameRows, held_out: FrameRows) -> Joints:
    """Find joint angles from frames [N, 3, H, W] with proprioception [N, P], judged on held-out rows; in closed form."""
    some = [r.first(_ROWS) for r in (rows, held_out)]
    proprio_NP = torch.cat([r.proprio_NP for r in some]).double()
    if not proprio_NP.shape[1]:
        return Joints()
    split = len(some[0])
    spread, reach = proprio_NP[:split].std(0, correction=0), proprio_NP.abs().amax(0)
    target_NQ = _coarse(some)
    plain_NF = _plain(proprio_NP, split)
    without = _explained(plain_NF, target_NQ, split)
    found, moving = Joints(without=without), find_velocities(rows)
    for degrees, beyond, most in ((False, 0.0, _MOST_RAD), (True, 4 * math.pi, _MOST_DEG)):
        columns = ((reach > beyond) & (reach <= most) & (spread > 1e-6) & ~moving).nonzero()[:, 0].tolist()
        angle_NP = proprio_NP.deg2rad() if degrees else proprio_NP
        numbers, explained = _add_joints(angle_NP, plain_NF, target_NQ, columns, split)
        if explained > max(found.explained, without + LEAST_GAINED):
            found = Joints(numbers=tuple(sorted(numbers)), degrees=degrees, explained=explained, without=without)
    return found


def find_velocities(rows: FrameRows) -> Tensor:
    """Which numbers of proprioception [N, P] are rates of change of others, bool [P]; none where rows are no sequences."""
    now_NP, later_NP = rows.proprio_NP.double(), rows.later_NP
    count = now_NP.shape[1]
    if later_NP is None or len(rows) < _ROWS_PER_FEATURE:
        return torch.zeros(count, dtype=torch.bool)
    change_NP = later_NP.double() - now_NP
    low_P, high_P = (change_NP.quantile(q, 0) for q in (0.02, 0.98))  # an angle may jump by a full turn
    change_NP = change_NP.clamp(low_P, high_P)
    most_P = torch.zeros(count).double()
    for rate_NP in (now_NP, later_NP.double(), (now_NP + later_NP) / 2):
        alike_PP = _standard(change_NP).T @ _standard(rate_NP) / len(rows)
        most_P = torch.maximum(most_P, alike_PP.fill_diagonal_(0).amax(0))
    return most_P > _VELOCITY


def _standard(x_NP: Tensor) -> Tensor:
    """Each number with mean 0 and spread 1; 0 where it is constant."""
    return (x_NP - x_NP.mean(0)) / x_NP.std(0, correction=0).clamp_min(1e-9)


def _add_joints(
    angle_NP: Tensor, plain_NF: Tensor, target_NQ: Tensor, columns: Sequence[int], split: int
) -> tuple[list[int], float]:
    """Add joints one by one; the share that is explained comes with them."""
    chosen = list[int]()

    def share(products_NF: Tensor) -> float:
        return _explained(torch.cat([plain_NF, products_NF], 1), target_NQ, split)

    explained = share(plain_NF[:, :0])
    while len(chosen) < MOST_JOINTS and split >= _ROWS_PER_FEATURE * (plain_NF.shape[1] + 3 ** (len(chosen) + 1)):
        gained = {j: share(joint_products(angle_NP[:, [*chosen, j]])) - explained for j in columns if j not in chosen}
        most = max(gained.values(), default=0.0)
        if most < (_SMALL if chosen else _FIRST):
            break
        joint = next(j for j in gained if gained[j] >= _ALIKE * most)
        before_NF, last_NF = joint_products(angle_NP[:, chosen]), _products(angle_NP[:, [joint]], split)
        mixed_NF = (_with_one(before_NF)[:, :, None] * _with_one(last_NF)[:, None]).flatten(1)[:, 1:]
        if gained[joint] < _CLEAR and explained + gained[joint] < share(mixed_NF):
            break
        chosen.append(joint)
        explained += gained[joint]
    return chosen, explained


def _products(x_NJ: Tensor, split: int) -> Tensor:
    """Products of (1, x, x squared) over numbers, without the constant one, [N, 3^J - 1]; standardised on rows before `split`."""
    made = x_NJ.new_ones(len(x_NJ), 1)
    for scaled in ((x_NJ - x_NJ[:split].mean(0)) / x_NJ[:split].std(0, correction=0)).unbind(1):
        made = (made[:, :, None] * torch.stack([torch.ones_like(scaled), scaled, scaled.square()], 1)[:, None]).flatten(
            1
        )
    return made[:, 1:]


def _with_one(features_NF: Tensor) -> Tensor:
    return torch.cat([features_NF.new_ones(len(features_NF), 1), features_NF], 1)


def _coarse(parts: Sequence[FrameRows]) -> Tensor:
    """Principal components of small pictures, [N, Q] of the rows of all parts, fitted on those of the first."""
    small = [F.adaptive_avg_pool2d(part.frames(slice(None)), (_COARSE, _COARSE)).flatten(1).double() for part in parts]
    mean = small[0].mean(0)
    _, vectors = torch.linalg.eigh((small[0] - mean).T @ (small[0] - mean))
    return (torch.cat(small) - mean) @ vectors[:, -_COMPONENTS:]


def _plain(proprio_NP: Tensor, split: int) -> Tensor:
    """Standardised proprioception and its squares, [N, 2 P]."""
    scaled = (proprio_NP - proprio_NP[:split].mean(0)) / proprio_NP[:split].std(0, correction=0).clamp_min(1e-6)
    return torch.cat([scaled, scaled.square()], 1)


def _explained(features_NF: Tensor, target_NQ: Tensor, split: int) -> float:
    """Share of the variance of targets after row `split` that ridge regression on the rows before explains, at the best ridge."""
    mean, spread = features_NF[:split].mean(0), features_NF[:split].std(0, correction=0).clamp_min(1e-6)
    rows = _with_one((features_NF - mean) / spread)
    gram, moment = rows[:split].T @ rows[:split], rows[:split].T @ target_NQ[:split]
    bare = (target_NQ[split:] - target_NQ[:split].mean(0)).square().sum().clamp_min(1e-12)
    best = 0.0
    for ridge in _RIDGES:
        weights = torch.linalg.solve(gram + ridge * split * torch.eye(len(gram)).to(gram), moment)
        best = max(best, 1 - float((target_NQ[split:] - rows[split:] @ weights).square().sum() / bare))
    return best
