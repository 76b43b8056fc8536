"""Graded policies for environments of other packages: a simple controller each, and what share of random actions spoils it.

`SCENE_LEVEL` names a policy of this module, as in ``benchmarks.third_party_policies:reacher_noise_30``; levels are in `LEVELS`.

Shape legend: n episodes, P proprio, A action.
"""

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

LEVELS: Mapping[str, Degradation] = {
    "noise_0": Degradation(),
    "noise_30": Degradation(random=0.3),
    "noise_60": Degradation(random=0.6),
    "noise_85": Degradation(random=0.85),
    "random": Degradation(random=1.0),
    "zero": Degradation(gain=0.0),
}
"""From best to worst, as far as one can say."""
Floats = NDArray[np.float64]


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
    return reach_with_two_links(q, s_nP[:, 6:8], -s_nP[:, 8:10], links_m=(0.1, 0.11), gain=25, damping=0.04)


def dm_reacher(s_nP: Floats) -> Floats:
    """dm_control's reacher: position, to_target, velocity."""
    return reach_with_two_links(s_nP[:, :2], s_nP[:, 4:6], s_nP[:, 2:4], links_m=(0.12, 0.12), gain=90, damping=0.15)


def fetch_reach(s_nP: Floats) -> Floats:
    """gymnasium-robotics' FetchReach: observation, achieved goal, desired goal."""
    towards = np.clip(10 * (s_nP[:, -3:] - s_nP[:, -6:-3]), -1, 1)
    return np.concatenate([towards, np.zeros((len(s_nP), 1))], 1)


def pusht(s_nP: Floats) -> Floats:
    """gym-pusht: where to go, px; get behind the block as seen from the goal, then push; turns are left alone."""
    agent, block = s_nP[:, :2], s_nP[:, 2:4]
    way = np.array([256.0, 256.0]) - block
    way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    side = np.stack([-way[:, 1], way[:, 0]], 1)
    from_block = agent - block
    along, across = (from_block * way).sum(1, keepdims=True), (from_block * side).sum(1, keepdims=True)
    behind = (along < -30) & (np.abs(across) < 25)
    beside = np.where(across < 0, -110.0, 110.0)
    around = block - 90 * way + np.where(along > -60, beside, 0.0) * side
    corner = agent - 60 * way + 0.5 * (beside - across) * side
    reachable = np.abs(across) > 80
    detour = np.where(
        (along > -60) & ~reachable, agent + (beside - across) * side, np.where(along > -60, corner, around)
    )
    return np.clip(np.where(behind, agent + 40 * way, detour), 0, 512)


def pusht_solved(observation: Any, info: Mapping[str, Any], reward: float) -> bool:
    """gym-pusht, for a controller that does not turn the block: its middle is within 40 px of the goal's."""
    return bool(np.linalg.norm(np.asarray(info["block_pose"])[:2] - np.asarray(info["goal_pose"])[:2]) < 40)


def pusher(s_nP: Floats) -> Floats:
    """Gymnasium's Pusher-v5: joints, velocities, tip, object, goal; the tip is pulled behind the object, then through it."""
    model, data, tip = _pusher_scene()
    import mujoco

    torques = np.zeros((len(s_nP), 7))
    jacobian = np.zeros((3, model.nv))
    for row, s in enumerate(s_nP):
        at, thing, goal = s[14:17], s[17:20], s[20:23]
        way = (goal - thing) / max(float(np.linalg.norm(goal - thing)), 1e-6)
        aligned = np.linalg.norm((at - thing) - ((at - thing) @ way) * way) < 0.06 and (at - thing) @ way < 0
        target = goal if aligned else thing - 0.12 * way
        data.qpos[:7] = s[:7]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacBody(model, data, jacobian, None, tip)
        torques[row] = 25 * jacobian[:, :7].T @ (target - at) - 0.6 * s[7:14]
    return np.clip(torques, -2, 2)


def mountain_car(s_nP: Floats) -> Floats:
    """Gymnasium's MountainCar-v0: push the way that it rolls."""
    return np.where(s_nP[:, 1:2] >= 0, 2, 0)


CONTROLLERS: Mapping[str, tuple[Callable[[Floats], Floats], spaces.Space[Any], float]] = {
    "pusht": (pusht, spaces.Box(0, 512, (2,), np.float32), 10),
    "fetch_reach": (fetch_reach, spaces.Box(-1, 1, (4,), np.float32), 25),
    "reacher": (reacher, spaces.Box(-1, 1, (2,), np.float32), 50),
    "pusher": (pusher, spaces.Box(-2, 2, (7,), np.float32), 20),
    "dm_reacher": (dm_reacher, spaces.Box(-1, 1, (2,), np.float32), 50),
    "mountain_car": (mountain_car, spaces.Discrete(3), 30),
}
"""Controller, action space and control rate, Hz, by scene."""


def graded(scene: str, level: str) -> Policy:
    """The controller of a scene with a share of its actions replaced."""
    function, space, rate_hz = CONTROLLERS[scene]

    def act(observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return function(observation[STATE].astype(np.float64)).astype(np.float32)

    policy = FunctionPolicy(act, name=f"{scene}_{level}", needs=(STATE,))
    return DegradedPolicy(policy, action=action_spec(space, rate_hz=rate_hz), how=LEVELS[level])


def __getattr__(name: str) -> Callable[[], Policy]:
    """The factory of ``SCENE_LEVEL``."""
    for scene in CONTROLLERS:
        if name.removeprefix(f"{scene}_") in LEVELS:
            return functools.partial(graded, scene, name.removeprefix(f"{scene}_"))
    raise AttributeError(name)


@functools.cache
def _pusher_scene() -> tuple[Any, Any, int]:
    """Model, data, and the body of the arm's tip."""
    import gymnasium
    import mujoco

    folder = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    model = mujoco.MjModel.from_xml_path(str(folder / "pusher_v5.xml"))
    return model, mujoco.MjData(model), model.body("tips_arm").id
