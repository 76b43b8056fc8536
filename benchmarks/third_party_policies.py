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
    """gym-pusht: where to go, px: to the block."""
    return np.clip(s_nP[:, 2:4], 0, 512)


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
