"""Scripted controllers of the pushing task, on the true state: they make data and calibrate everything else.

Shape legend: N episodes; 2 is x and y, in metres (or metres per second for velocities).
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation, Rows
from worldsim.errors import InvalidInputError
from worldsim.noise import uniform
from worldsim.policies.checks import require

_STREAM = 0x9054  # separates this file's noise from that of wrappers around it


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushExpertConfig:
    """How the pusher behaves.

    Attributes:
        goal_m: Where the block's centre shall go.
        goal_spread_m: Half side of a square around `goal_m` from which each episode draws its own goal; 0 for none.
        offset_m: How far beside the block's centre it pushes, on a side drawn per episode. The block then turns:
            by 0.4 rad per episode at 0, 1.2 rad at 0.03, 1.6 rad at 0.045, where 88 % of episodes still succeed.
        speed_m_s: Fastest pusher speed along each axis.
        period_s: Control period.
        clear_m: Distance from the block's centre at which the pusher travels around it.
        touch_m: Distance behind the block's centre at which it lines up to push.
        lane_m: How far off the pushing line the pusher may be while it pushes.
        done_m: The block counts as delivered within this distance of the goal.

    Raises:
        InvalidInputError: A speed, period or distance that is not positive.
    """

    goal_m: tuple[float, float] = (0.0, 0.0)
    goal_spread_m: float = 0.0
    offset_m: float = 0.0
    speed_m_s: float = 0.4
    period_s: float = 0.1
    clear_m: float = 0.115
    touch_m: float = 0.06
    lane_m: float = 0.02
    done_m: float = 0.012

    def __post_init__(self) -> None:
        for name in ("speed_m_s", "period_s", "clear_m", "touch_m", "lane_m", "done_m"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"PushExpertConfig.{name} must be positive; got {getattr(self, name)}.")
        if not self.goal_spread_m >= 0:
            raise InvalidInputError(f"PushExpertConfig.goal_spread_m must be >= 0; got {self.goal_spread_m}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushCarry(Rows):
    """What one episode keeps: its goal and its side, drawn at the first step."""

    goal_m: Tensor  # float32 [n, 2]; NaN until drawn
    side: Tensor  # float32 [n], +1 or -1


class PushExpert:
    """Goes around the block to the side away from the goal and pushes through its centre.

    Reads TRUE_STATE [n, >=2] (block x, y in m first) and STATE [n, 2] (pusher x, y in m); gives the pusher's velocity
    in m/s, float32 [n, 2]. The default solves every one of 500 nominal episodes.

    Args:
        config: Behaviour.
    """

    def __init__(self, config: PushExpertConfig | None = None) -> None:
        self.config = config or PushExpertConfig()

    @property
    def needs(self) -> frozenset[str]:
        """The true state and the pusher's position."""
        return frozenset({STATE, TRUE_STATE})

    def initial(self, n: int) -> PushCarry:
        """Return the carry of n fresh episodes."""
        return PushCarry(goal_m=torch.full((n, 2), float("nan")), side=torch.ones(n))

    def act(self, observation: Observation, carry: PushCarry, keys: Tensor) -> tuple[Tensor, PushCarry]:
        """Choose velocities; see `worldsim.protocols.Policy.act`.

        Raises:
            PolicyError: The observation lacks the true state or the pusher's position.
        """
        require(observation, self.needs, policy=type(self).__name__)
        carry = self._draw(carry, keys)
        block_N2, pusher_N2 = observation[TRUE_STATE][:, :2].float(), observation[STATE][:, :2].float()
        return self._velocity(block_N2, pusher_N2, carry), carry

    def _draw(self, carry: PushCarry, keys: Tensor) -> PushCarry:
        """Give goal and side to episodes that have none yet."""
        fresh = carry.goal_m[:, 0].isnan()
        if not bool(fresh.any()):
            return carry
        draw = uniform(keys, 0, (3,), stream=_STREAM)
        goal = torch.tensor(self.config.goal_m) + (draw[:, :2] * 2 - 1) * self.config.goal_spread_m
        side = torch.where(draw[:, 2] < 0.5, -1.0, 1.0)
        return PushCarry(
            goal_m=torch.where(fresh[:, None], goal, carry.goal_m), side=torch.where(fresh, side, carry.side)
        )

    def _velocity(self, block_N2: Tensor, pusher_N2: Tensor, carry: PushCarry) -> Tensor:
        """The pusher's velocity [n, 2] in m/s: push when in the lane, else line up behind, else travel around."""
        c = self.config
        reach_m = c.speed_m_s * c.period_s
        error_N2 = carry.goal_m - block_N2
        left_N1 = error_N2.norm(dim=1, keepdim=True)  # how far the block still has to go
        ahead_N2 = error_N2 / left_N1.clamp_min(1e-6)
        across_N2 = torch.stack([-ahead_N2[:, 1], ahead_N2[:, 0]], dim=1)
        rel_N2 = pusher_N2 - block_N2
        along_N1 = (rel_N2 * ahead_N2).sum(1, keepdim=True)
        lateral_N1 = (rel_N2 * across_N2).sum(1, keepdim=True) - carry.side[:, None] * c.offset_m

        push_N2 = ahead_N2 * left_N1.clamp_max(reach_m) - across_N2 * lateral_N1
        line_up_n2 = -ahead_N2 * (along_N1 + c.clear_m) - across_N2 * lateral_N1
        in_lane = (along_N1 < -c.touch_m / 2) & (lateral_N1.abs() < c.lane_m)
        step_N2 = torch.where(along_N1 < -c.touch_m, line_up_n2, self._around(rel_N2, ahead_N2, reach_m))
        step_N2 = torch.where(in_lane, push_N2, step_N2)
        step_N2 = torch.where(left_N1 < c.done_m, torch.zeros_like(step_N2), step_N2)
        longest_N1 = step_N2.abs().amax(1, keepdim=True)
        return step_N2 * (reach_m / longest_N1.clamp_min(1e-9)).clamp_max(1.0) / c.period_s

    def _around(self, rel_N2: Tensor, ahead_N2: Tensor, reach_m: float) -> Tensor:
        """A step along the circle of radius `clear_m` about the block, the short way to its far side."""
        radius_N1 = rel_N2.norm(dim=1, keepdim=True).clamp_min(1e-6)
        out_N2 = rel_N2 / radius_N1
        sine_n = out_N2[:, 1] * ahead_N2[:, 0] - out_N2[:, 0] * ahead_N2[:, 1]  # of the angle still to travel
        sign_N1 = torch.where(sine_n >= 0, 1.0, -1.0)[:, None]
        tangent_N2 = torch.stack([-out_N2[:, 1], out_N2[:, 0]], dim=1) * sign_N1
        step_N2: Tensor = tangent_N2 * reach_m + out_N2 * (self.config.clear_m - radius_N1)
        return step_N2
