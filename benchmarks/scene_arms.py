"""Robots of other packages on MuJoCo as scenes: gymnasium-robotics' Fetch, Gymnasium's Reacher and Pusher, dm_control's finger.

Shape legend: A action, P proprio.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.scene_base import Floats, MujocoScene


class FetchScene(MujocoScene):
    """What the tasks of the Fetch robot share: an oblique camera over the table, and a cube."""

    steps, order = 50, 4
    look = ((1.33, 0.75, 0.44), 0.85, 145.0, -42.0)
    task: str

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        self._env = gymnasium.make(self.task, max_episode_steps=10_000)
        inner: Any = self._env.unwrapped
        self._data, self._model = inner.data, inner.model
        self._make_camera()

    def _reset(self, seed: int | None) -> None:
        self._seen = self._env.reset(seed=seed)[0]["observation"]

    def _thing(self) -> Floats:
        return np.asarray(self._seen[3:6], np.float64)

    def _tip(self) -> Floats:
        return np.asarray(self._seen[:3], np.float64)

    def _angle(self) -> float:
        return float(self._seen[13])  # Euler angles of the cube begin at 11


class FetchPush(FetchScene):
    """The gripper stays closed; actions are its displacement, [-1, 1] x 3. The cube is to go 10 cm along y."""

    task = "FetchPush-v4"

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = self._space(6)

    def _act(self, action: NDArray[np.float32]) -> None:
        self._seen = self._env.step(np.append(action.clip(-1, 1), np.float32(0)))[0]["observation"]

    def _proprio(self) -> NDArray[np.float32]:
        return np.concatenate([self._seen[:3], self._seen[20:23]]).astype(np.float32)

    def _done(self) -> float:
        return float(self._place()[1] - self._begin[1]) / 0.1


class FetchColors(FetchPush):
    """The same with table, floor and cube of another colour in every episode."""

    def _reset(self, seed: int | None) -> None:
        super()._reset(seed)
        generator = np.random.default_rng(0 if seed is None else seed)
        for name in ("table_mat", "floor_mat", "block_mat"):
            self._model.mat(name).rgba[:3] = generator.uniform(0.15, 0.95, 3)


class FetchPick(FetchScene):
    """Actions are the gripper's displacement and opening, [-1, 1] x 4; proprioception has both. The cube is to be lifted by 10 cm."""

    task = "FetchPickAndPlace-v4"

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.observation_space = self._space(10)

    def _act(self, action: NDArray[np.float32]) -> None:
        self._seen = self._env.step(action.clip(-1, 1))[0]["observation"]

    def _proprio(self) -> NDArray[np.float32]:
        seen = self._seen
        return np.concatenate([seen[:3], seen[9:11], seen[20:25]]).astype(
            np.float32
        )  # place, fingers, their velocities

    def _done(self) -> float:
        return float(self._place()[2] - self._begin[2]) / 0.1


class TorqueScene(MujocoScene):
    """A robot whose actions are torques; proprioception begins with joint angles, rad, and their velocities.

    Attributes:
        joints: How many it has; the first of the model's.
        hand: The body that holds the tip, and where on it the tip is, m.
    """

    joints: int
    hand: tuple[str, tuple[float, float, float]]

    @property
    def model(self) -> Any:
        """The MuJoCo model."""
        return self._model

    def reach(self, data: Any) -> tuple[Floats, Floats]:
        """The tip [3] and its Jacobian [3, joints] in data of the model, m."""
        import mujoco

        body = data.body(self.hand[0])
        tip, jacobian = body.xpos + body.xmat.reshape(3, 3) @ self.hand[1], np.zeros((3, self._model.nv))
        mujoco.mj_jac(self._model, data, jacobian, None, tip, body.id)
        return np.array(tip), jacobian[:, : self.joints]

    def _tip(self) -> Floats:
        return self.reach(self._data)[0]


class ArmScene(TorqueScene):
    """Such a robot of Gymnasium.

    Attributes:
        task: Its id.
    """

    task: str

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        env: Any = gymnasium.make(self.task).unwrapped
        self._env, self._data, self._model = env, env.data, env.model
        self._make_camera()
        self.action_space: spaces.Box = env.action_space
        self.observation_space = self._space(2 * self.joints)

    def _reset(self, seed: int | None) -> None:
        self._env.reset(seed=seed)

    def _act(self, action: NDArray[np.float32]) -> None:
        self._env.step(action.clip(self.action_space.low, self.action_space.high))

    def _proprio(self) -> NDArray[np.float32]:
        n = self.joints
        return np.concatenate([self._data.qpos[:n], self._data.qvel[:n]]).astype(np.float32)

    def _angle(self) -> float:
        return 0.0


class ReacherScene(ArmScene):
    """Two links seen from above; the mark that the tip is to reach stays where it is in an episode."""

    task, joints, steps, moves = "Reacher-v5", 2, 50, False
    hand = ("fingertip", (0.0, 0.0, 0.0))
    look = ((0.0, 0.0, 0.0), 0.6, 90.0, -90.0)

    def _thing(self) -> Floats:
        return np.array(self._data.body("target").xpos)

    def _reset(self, seed: int | None) -> None:
        super()._reset(seed)
        self._far = float(np.linalg.norm(self._thing() - self._tip()))

    def _done(self) -> float:
        gap = float(np.linalg.norm(self._thing() - self._tip()))
        return 1.0 if gap < 0.02 else min(1 - gap / self._far, 0.99)


class PusherScene(ArmScene):
    """Seven joints, a white cylinder on a grey table; it is to go 15 cm towards the red mark.

    Proprioception is what Gymnasium's observation has of the robot: joint angles, their velocities, and the hand's place.
    The cylinder weighs 8 mg beside joints of 40 g armature, which MuJoCo 3.5 leaves out where it sets how soft contact is: the hand
    would pass through it. What it takes for the cylinder's weight is set to that armature.
    """

    task, joints, steps = "Pusher-v5", 7, 80
    hand = ("tips_arm", (0.05, 0.0, 0.0))
    look = ((0.42, -0.2, -0.28), 1.25, 150.0, -50.0)

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        self.observation_space = self._space(2 * self.joints + 3)
        body = self._model.body("object")
        self._model.body_invweight0[body.id, 0] = 1 / self._model.dof_armature[body.dofadr[0]]

    def _proprio(self) -> NDArray[np.float32]:
        return np.concatenate([super()._proprio(), self._data.body("tips_arm").xpos]).astype(np.float32)

    def _thing(self) -> Floats:
        return np.array(self._data.body("object").xpos)

    def _done(self) -> float:
        mark = self._data.body("goal").xpos[:2]
        gone = np.linalg.norm(self._begin[:2] - mark) - np.linalg.norm(self._thing()[:2] - mark)
        return float(gone) / 0.15


class FingerScene(TorqueScene):
    """dm_control's finger (spin) from the side, three of its steps an action; the thing is looked for at the spinner's ends.

    Proprioception is the finger's two joint angles, rad, their velocities and two touch sensors. It is to turn the spinner
    by half a turn, either way.
    """

    steps, joints, order = 50, 2, 2
    look = ((0.02, 0.0, 0.4), 1.02, 90.0, 0.0)
    hand = ("distal", (0.0, 0.0, -0.17))
    pivot = (0.7134, 0.5)  # .18 m of .845 m to the right of the middle
    _REPEAT = 3

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        from dm_control import suite

        self._suite: Any = suite
        self._load(0)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = self._space(6)

    def _load(self, seed: int) -> None:
        self._env: Any = self._suite.load("finger", "spin", task_kwargs={"random": seed})
        physics = self._env.physics
        self._data, self._model = physics.data.ptr, physics.model.ptr
        self._make_camera()

    def _reset(self, seed: int | None) -> None:
        self._env.task.random.seed(seed)
        self._env.reset()
        self._turn = self._angle()

    def _act(self, action: NDArray[np.float32]) -> None:
        for _ in range(self._REPEAT):
            self._env.step(action.clip(-1, 1))

    def _proprio(self) -> NDArray[np.float32]:
        physics = self._env.physics
        return np.concatenate([self._data.qpos[:2], self._data.qvel[:2], physics.touch()]).astype(np.float32)

    def _thing(self) -> Floats:
        return np.array(self._data.site("tip").xpos)

    def _angle(self) -> float:
        return float(self._data.qpos[2])

    def _done(self) -> float:
        return abs(self._angle() - self._turn) / math.pi
