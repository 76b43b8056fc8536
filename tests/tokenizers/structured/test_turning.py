import math

import pytest
import torch
from torch import Tensor

from worldsim.tokenizers.structured.turning import register_looks

SIZE = 24


def shape(kind: str, angle: Tensor) -> Tensor:
    """Soft shapes [N, S, S] of a kind, turned by angles [N] about the middle."""
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    x, y = line[None, None, :], line[None, :, None]
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = c * x + s * y, c * y - s * x
    if kind == "L":
        upright = torch.minimum(0.15 - (u + 0.25).abs(), 0.55 - v.abs())
        foot = torch.minimum(0.4 - (u - 0.05).abs(), 0.15 - (v - 0.4).abs())
        inside = torch.maximum(upright, foot)
    elif kind == "bar":
        inside = torch.minimum(0.14 - u.abs(), 0.7 - v.abs())
    elif kind == "square":
        inside = 0.45 - torch.maximum(u.abs(), v.abs())
    else:
        inside = 0.45 - (u * u + v * v).sqrt()
    return torch.sigmoid(inside * 40)


@pytest.mark.parametrize(("kind", "order"), [("L", 1), ("square", 4), ("disc", 0)])
def test_symmetry_and_angle_are_found(kind: str, order: int) -> None:
    truth = torch.linspace(0, 2 * math.pi, 61)[:60]
    found = register_looks(shape(kind, truth))
    assert found.order == order
    if order:
        miss = torch.remainder(order * (found.angle_N - truth), 2 * math.pi)  # up to a constant, of either sense
        miss = min((miss - miss[0]).cos().acos().median(), torch.tensor(9.0))
        other = torch.remainder(order * (found.angle_N + truth), 2 * math.pi)
        miss = min(float(miss), float((other - other[0]).cos().acos().median()))
        assert miss / order < math.radians(4)


def test_a_shape_beside_the_middle_has_its_centre_there() -> None:
    moved = torch.roll(shape("disc", torch.zeros(8)), 4, dims=2)
    assert torch.allclose(register_looks(moved).center_N2[:, 0], torch.full((8,), 8 / SIZE), atol=0.02)


def test_what_changes_its_shape_does_not_turn() -> None:
    """Scissors, opened by one angle or another: turning explains some of it, and is not what they do."""
    draws = torch.rand(2, 60, generator=torch.Generator().manual_seed(0)) * math.pi
    bars = torch.maximum(*(shape("bar", draw) for draw in draws))
    found = register_looks(bars)
    assert found.fixed < found.overlap < 0.75 and found.order == 0
    assert register_looks(shape("bar", draws[0])).order == 2
