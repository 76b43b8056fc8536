"""Graded policies for environments of other packages: a simple controller each, and what share of random actions spoils it.

`SCENE_LEVEL` names a policy of this module, as in ``benchmarks.third_party_policies:reacher_noise_50``; `levels` lists them.
Controllers know the present observation only, so that random actions in between never confuse them.

Shape legend: n episodes, P proprio, A action.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.core import STATE
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.function import FunctionPolicy
from worldsim.protocols import Policy
from worldsim.spaces import action_spec

Floats = NDArray[np.float64]
_CUBE_Z, _CLEAR_Z = 0.425, 0.50
"""Heights of FetchPush's gripper, m: beside the cube, and above it."""
_MIDDLE_PX, _GOAL_PX, _GOAL_RAD = 45.0, 256.0, np.pi / 4
"""How far the middle of PushT's block lies from its origin, and the pose of its goal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controller:
    """What plays a scene well.

    Attributes:
        act: Observations [n, P] to actions [n, A].
        space: Its action space.
        rate_hz: Its control rate.
        noise: Percent of random actions of its four grades, chosen so that their true success spreads.
    """

    act: Callable[[Floats], Floats]
    space: spaces.Space[Any]
    rate_hz: float
    noise: tuple[int, int, int, int]


def reach_with_two_links(
    q_n2: Floats, velocity_n2: Floats, error_n2: Floats, *, links_m: tuple[float, float], gain: float, damping: float
) -> Floats:
    """Joint torques [n, 2] that pull the tip of a planar arm towards a target: the transposed Jacobian."""
    first, both = q_n2[:, 0], q_n2.sum(1)
    far = links_m[1] * np.stack([-np.sin(both), np.cos(both)], 1)
    near = links_m[0] * np.stack([-np.sin(first), np.cos(first)], 1) + far
    pull = np.stack([(near * error_n2).sum(1), (far * error_n2).sum(1)], 1)
    return np.clip(gain * pull - damping * velocity_n2, -1, 1)


def reacher(s_nP: Floats) -> Floats:
    """Gymnasium's Reacher-v5: cosines, sines, target, velocities, tip minus target."""
    q = np.arctan2(s_nP[:, 2:4], s_nP[:, :2])
    return reach_with_two_links(q, s_nP[:, 6:8], -s_nP[:, 8:10], links_m=(0.1, 0.11), gain=100, damping=0.08)


def dm_reacher(s_nP: Floats) -> Floats:
    """dm_control's reacher: position, to_target, velocity."""
    return reach_with_two_links(s_nP[:, :2], s_nP[:, 4:6], s_nP[:, 2:4], links_m=(0.12, 0.12), gain=90, damping=0.15)


def fetch_push(s_nP: Floats) -> Floats:
    """gymnasium-robotics' FetchPush: go behind the cube above it, come down, push it to the goal.

    Args:
        s_nP: Gripper, cube, ... and the goal last, three numbers each, m.
    """
    grip, cube, goal = s_nP[:, :3], s_nP[:, 3:6], s_nP[:, -3:]
    ahead, side, far = _frame(goal[:, :2] - cube[:, :2])
    along, aside = _along(grip[:, :2] - cube[:, :2], ahead), _along(grip[:, :2] - cube[:, :2], side)
    start = cube[:, :2] - 0.09 * ahead - grip[:, :2]
    height, near = grip[:, 2:], np.linalg.norm(start, axis=1, keepdims=True) < 0.03
    pushes = (height < 0.45) & (along < -0.02) & (np.abs(aside) < 0.03)
    push = ahead * np.minimum(1, 0.15 + 5 * far) - 8 * aside * side
    approach = 10 * start * ((height > 0.46) | near)  # first up, then across
    up = 10 * (np.where(pushes | near, _CUBE_Z, _CLEAR_Z) - height)
    action = np.concatenate([np.where(pushes, push, approach), up, np.zeros_like(up)], 1)
    return np.clip(np.where(far < 0.02, 0, action), -1, 1)


def pusht(s_nP: Floats) -> Floats:
    """gym-pusht: go round the block to its far side, then through it, beside its middle where it has to turn.

    Args:
        s_nP: Disc, origin of the block, px, and the block's angle, rad.
    """
    disc, angle = s_nP[:, :2], s_nP[:, 4]
    block = _middle_of_block(s_nP[:, 2:4], angle)
    ahead, side, far = _frame(_middle_of_block(np.full((1, 2), _GOAL_PX), np.full(1, _GOAL_RAD)) - block)
    turn = (_GOAL_RAD - angle + np.pi) % (2 * np.pi) - np.pi
    beside = np.clip(-20 * turn, -20, 20)[:, None] * side
    along, aside = _along(disc - block, ahead), _along(disc - block - beside, side)
    start = block + beside - 105 * ahead
    way_round = block + np.where(aside >= 0, 125, -125) * side - np.where(np.abs(aside) > 80, 110, 0) * ahead
    through = block + beside + np.minimum(far, 45) * ahead
    go = np.where(along < -80, start, np.where(along > -70, way_round, start))
    go = np.where((along < -20) & (np.abs(aside) < 22), through, go)
    away = disc + 80 * _frame(disc - block)[0]
    return np.clip(np.where(far < 10, away, go), 0, 512)


def pusher(s_nP: Floats) -> Floats:
    """Gymnasium's Pusher-v5: joints, velocities, tip, object, goal; the tip is pulled to the object."""
    import mujoco

    model, data, tip = _pusher_scene()
    torques, jacobian = np.zeros((len(s_nP), 7)), np.zeros((3, model.nv))
    for row, s in enumerate(s_nP):
        data.qpos[:7] = s[:7]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacBody(model, data, jacobian, None, tip)
        torques[row] = 12 * jacobian[:, :7].T @ (s[17:20] - s[14:17]) - 0.4 * s[7:14]
    return np.clip(torques, -2, 2)


def mountain_car(s_nP: Floats) -> Floats:
    """Gymnasium's MountainCar-v0: push the way that it rolls."""
    return np.where(s_nP[:, 1:2] >= 0, 2, 0)


CONTROLLERS: Mapping[str, Controller] = {
    "pusht": Controller(act=pusht, space=spaces.Box(0, 512, (2,), np.float32), rate_hz=10, noise=(0, 20, 35, 50)),
    "fetch_push": Controller(
        act=fetch_push, space=spaces.Box(-1, 1, (4,), np.float32), rate_hz=25, noise=(0, 30, 40, 50)
    ),
    "reacher": Controller(act=reacher, space=spaces.Box(-1, 1, (2,), np.float32), rate_hz=50, noise=(0, 15, 30, 50)),
    "pusher": Controller(act=pusher, space=spaces.Box(-2, 2, (7,), np.float32), rate_hz=20, noise=(0, 50, 75, 90)),
    "dm_reacher": Controller(
        act=dm_reacher, space=spaces.Box(-1, 1, (2,), np.float32), rate_hz=50, noise=(0, 50, 75, 90)
    ),
    "mountain_car": Controller(act=mountain_car, space=spaces.Discrete(3), rate_hz=30, noise=(0, 20, 30, 40)),
}
"""By scene."""


def levels(scene: str) -> dict[str, Degradation]:
    """The six grades of a scene, from best to worst as far as one can say."""
    noisy = {f"noise_{percent}": Degradation(random=percent / 100) for percent in CONTROLLERS[scene].noise}
    return {**noisy, "random": Degradation(random=1.0), "zero": Degradation(gain=0.0)}


def graded(scene: str, level: str) -> Policy:
    """The controller of a scene with a share of its actions replaced."""
    controller = CONTROLLERS[scene]

    def act(observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return controller.act(observation[STATE].astype(np.float64)).astype(np.float32)

    policy = FunctionPolicy(act, name=f"{scene}_{level}", needs=(STATE,))
    action = action_spec(controller.space, rate_hz=controller.rate_hz)
    return DegradedPolicy(policy, action=action, how=levels(scene)[level])


def __getattr__(name: str) -> Callable[[], Policy]:
    """The factory of ``SCENE_LEVEL``."""
    for scene in CONTROLLERS:
        if name.removeprefix(f"{scene}_") in levels(scene):
            return functools.partial(graded, scene, name.removeprefix(f"{scene}_"))
    raise AttributeError(name)


def _frame(to_n2: Floats) -> tuple[Floats, Floats, Floats]:
    """Unit vectors [n, 2] along a way and to its left, and its length [n, 1]."""
    far = np.linalg.norm(to_n2, axis=1, keepdims=True)
    ahead = to_n2 / np.maximum(far, 1e-6)
    return ahead, np.stack([-ahead[:, 1], ahead[:, 0]], 1), far


def _along(vector_n2: Floats, axis_n2: Floats) -> Floats:
    """The part of a vector along an axis, [n, 1]."""
    return (vector_n2 * axis_n2).sum(1, keepdims=True)


def _middle_of_block(origin_n2: Floats, angle_n: Floats) -> Floats:
    """Middle of PushT's block, [n, 2] px."""
    return origin_n2 + _MIDDLE_PX * np.stack([-np.sin(angle_n), np.cos(angle_n)], 1)


@functools.cache
def _pusher_scene() -> tuple[Any, Any, int]:
    """Model, data, and the body of the arm's tip."""
    import gymnasium
    import mujoco

    folder = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    model = mujoco.MjModel.from_xml_path(str(folder / "pusher_v5.xml"))
    return model, mujoco.MjData(model), model.body("tips_arm").id
