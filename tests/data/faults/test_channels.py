"""Leaps of single channels, and what only looks as one."""

import numpy as np
import pytest

from worldsim.data.faults.channels import find_joint_jumps
from worldsim.data.faults.signals import Signals, measure_usual, tail_limit

STEPS, BAD = 200, 3


def joints(burst: list[float]) -> list[Signals]:
    """Two joints that swing slowly, of which the first makes some steps more in one episode."""
    found, t = [], np.arange(STEPS + 1)
    for number in range(8):
        place = np.stack([np.sin(0.05 * t + number), np.cos(0.04 * t + number)], 1)
        if number == BAD:
            place[101 : 101 + len(burst), 0] += np.cumsum(burst)
            place[101 + len(burst) :, 0] += sum(burst)
        found.append(
            Signals(
                episode=number,
                rate_hz=20,
                action=np.random.default_rng(number).normal(size=(STEPS, 1)),
                idle=np.zeros(1),
                proprio=place,
                changes={},
                solved=np.zeros(STEPS, bool),
            )
        )
    return found


@pytest.mark.parametrize(("burst", "leaps"), [([0.9], True), ([0.9, -0.9], True), ([0.3, 0.6, 0.9, 0.6, 0.3], False)])
def test_a_leap_is_alone_and_fast_motion_is_not(burst: list[float], leaps: bool) -> None:
    signals = joints(burst)
    found = [
        f for f in find_joint_jumps(signals, measure_usual(signals), proprio_names=("a", "b")) if f.kind == "joint_jump"
    ]
    assert [(f.episode, f.where) for f in found] == [(BAD, "state a")] * leaps


def test_limits_follow_common_large_steps_and_not_a_rare_fault() -> None:
    r = np.random.default_rng(0)
    plain = np.abs(r.normal(size=4000))
    hits = plain + (r.random(4000) < 0.06) * r.exponential(6, 4000)
    assert tail_limit(plain, 4.0) == pytest.approx(4 * np.quantile(plain, 0.95))
    assert (hits > tail_limit(hits, 1.5)).sum() <= 5 < 50 < (hits > 1.5 * np.quantile(hits, 0.95)).sum()
    assert tail_limit(np.append(hits, 1000.0), 1.5) < 1.05 * tail_limit(hits, 1.5)
