"""Policies of arms whose actions are torques: their tip goes from point to point, and through the thing.

Shape legend: n episodes, A action, P proprio.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation
from worldsim.noise import normal, uniform

_DRAW, _NOISE = 0x5CE0, 0x5CE1


@dataclasses.dataclass(frozen=True, kw_only=True)
class WayCarry:
    """Memory of a wanderer, one row per episode."""

    step: int
    target: Tensor  # [n, 2], of the tip, in its plane
    until: Tensor  # int64 [n], step at which another is drawn
    noise: Tensor  # [n, A]


class Wanderer:
    """Moves the tip of an arm from point to point of an area of its plane, and to the thing in a share of the moves.

    Args:
        area: Where it goes.
        arm: What moves.
        gain: Of speeds.
        noise: Standard deviation of correlated noise, in the largest torque.
        random: Share of actions that are uniformly random.
    """

    needs = frozenset({STATE, TRUE_STATE})

    def __init__(self, area: "Area", arm: "Arm", *, gain: float, noise: float, random: float) -> None:
        self.area, self.arm = area, arm
        self.gain, self.noise, self.random = gain, noise, random

    def initial(self, n: int) -> WayCarry:
        """The carry of n fresh episodes."""
        zeros = torch.zeros(n, 2)
        return WayCarry(step=0, target=zeros, until=zeros[:, 0].long(), noise=torch.zeros(n, self.arm.joints))

    def act(self, observation: Observation, carry: WayCarry, keys: Tensor) -> tuple[Tensor, WayCarry]:
        """Torques [n, A]; see `worldsim.protocols.Policy.act`."""
        proprio, thing = observation[STATE].float(), observation[TRUE_STATE][:, 6:9].float()
        tip, axes, joints = self.arm.tip(proprio), list(self.area.axes), self.arm.joints
        draw = uniform(keys, 0, (5 + joints,), stream=_DRAW)
        distance = self.area.radius * (self.area.inner + (1 - self.area.inner) * draw[:, 0]).sqrt()
        low, high = self.area.turn
        angle = low + (high - low) * draw[:, 1]
        point = torch.tensor(self.area.middle) + distance[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        gap = thing[:, axes] - tip[:, axes]
        through = thing[:, axes] + self.area.through * gap / gap.norm(dim=1, keepdim=True).clamp_min(1e-6)
        point = torch.where((draw[:, 2] < self.area.to_thing)[:, None], through, point)
        over = carry.step >= carry.until
        target = torch.where(over[:, None], point, carry.target)
        until = torch.where(over, carry.step + 4 + (self.area.most_steps * draw[:, 3]).long(), carry.until)
        velocity = (self.area.height - tip) * self.area.gain
        velocity[:, axes] = (target - tip[:, axes]) * self.area.gain
        velocity = velocity.clamp(-1, 1) * self.gain
        noise = 0.8 * carry.noise + 0.6 * normal(keys, 0, (joints,), stream=_NOISE)
        torque = self.arm.torque(proprio, velocity) + self.noise * noise * self.arm.most
        random = (draw[:, 5:] * 2 - 1) * self.arm.most
        torque = torch.where(draw[:, 4:5] < self.random, random, torque).clamp(-self.arm.most, self.arm.most)
        return torque, WayCarry(step=carry.step + 1, target=target, until=until, noise=noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Area:
    """Where a wanderer goes.

    Attributes:
        axes: Those of space that its plane has.
        middle: Of the area, [2].
        radius: Of the area.
        gain: Speed per distance from the target.
        to_thing: Share of moves that go to the thing.
        through: How far beyond it these go, m.
        height: The tip's third coordinate.
        most_steps: Longest move, less four steps.
        inner: Share of the area, around its middle, that is left out.
        turn: Angles that the area has, rad.
    """

    axes: tuple[int, int]
    middle: tuple[float, float]
    radius: float
    gain: float
    to_thing: float = 0.0
    through: float = 0.0
    height: float = 0.0
    most_steps: int = 14
    inner: float = 0.0
    turn: tuple[float, float] = (0.0, 2 * math.pi)


class Arm:
    """Control of a scene's robot by its own MuJoCo model.

    Args:
        scene: One of `benchmarks.scene_arms.TorqueScene`.
        speed: Of the tip at full action, m/s.
        settle_s: Time in which joint speeds approach those that are wanted.
    """

    def __init__(self, scene: Any, *, speed: float, settle_s: float) -> None:
        import mujoco

        self._mujoco, self._scene, self.joints = mujoco, scene, int(scene.joints)
        self._own, self._speed, self._settle_s = mujoco.MjData(scene.model), speed, settle_s
        self.most = float(scene.action_space.high[0])
        self._damping = scene.model.dof_damping[: self.joints]
        self._gear = scene.model.actuator_gear[: self.joints, 0]

    def tip(self, proprio: Tensor) -> Tensor:
        """Where the tip is, [n, 3] in m."""
        places = [self._at(row[: self.joints].numpy())[0] for row in proprio]
        return torch.tensor(np.stack(places)).float()

    def torque(self, proprio: Tensor, action: Tensor) -> Tensor:
        """Actions [n, joints] that move the tip with a velocity [n, 3] in [-1, 1], light joints more than heavy ones."""
        n, made = self.joints, []
        for row, wanted in zip(proprio.double().numpy(), action.double().numpy(), strict=True):
            _, jacobian, inertia = self._at(row[:n])
            lever = np.linalg.solve(inertia, jacobian.T)
            square = jacobian @ lever
            wish = lever @ np.linalg.solve(square + 0.02 * np.trace(square) * np.eye(3), wanted * self._speed)
            speeds = row[n : 2 * n]
            made.append((self._damping * speeds + inertia @ (wish - speeds) / self._settle_s) / self._gear)
        return torch.tensor(np.stack(made)).float().clamp(-self.most, self.most)

    def _at(self, angles: Any) -> tuple[Any, Any, Any]:
        """Tip [3], its Jacobian [3, joints] and the inertia [joints, joints] at joint angles."""
        model, data, n = self._scene.model, self._own, self.joints
        data.qpos[:n] = angles
        for update in (self._mujoco.mj_kinematics, self._mujoco.mj_comPos, self._mujoco.mj_makeM):
            update(model, data)
        inertia = np.zeros((model.nv, model.nv))
        self._mujoco.mj_fullM(model, inertia, data.qM)
        return *self._scene.reach(data), inertia[:n, :n]
