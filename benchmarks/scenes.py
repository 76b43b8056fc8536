"""Pushing scenes of other packages as environments: frames of a fixed camera, proprioception, and true places to measure by.

    python -m benchmarks.scenes fetch_push --episodes 360 --out data/fetch_push      # in an environment with extra `scenes`

Their task is the same: move the thing a given way along one direction from where it began, so that progress can be seen.
The true state begins with what benchmarks measure: thing x and y in pixels, cosine and sine of its angle, robot tip x and y in
pixels; the thing's place in physical units follows.

Shape legend: H W image, E true state.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import typer
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.scene_policies import explorers
from worldsim.data.collect.record import RecordingOptions, collect

THING, ANGLE, TIP, PLACE = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 9)
"""Where the true state holds what."""
Floats = NDArray[np.float64]
_ALIAS = "worldsim_scenes"


class PushScene(gymnasium.Env[dict[str, Any], Any]):
    """What both scenes share: the observation's layout, the task, and the limit on steps.

    Attributes:
        steps: Actions in an episode.
        way: Unit vector [2] along which the thing is to be moved, in its own plane.
        far: How far, in the plane's units.
    """

    metadata = {"success_at": "end"}  # noqa: RUF012  # as Gymnasium declares it
    steps: int
    way: tuple[float, float]
    far: float

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self._begin: Floats = np.zeros(2)
        self._count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """See `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._reset(seed)
        self._begin, self._count = self._place()[:2].copy(), 0
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        self._act(np.asarray(action, np.float32))
        self._count += 1
        info = self._info()
        return self._observation(), info["progress"], False, self._count >= self.steps, info

    def _info(self) -> dict[str, Any]:
        moved = float((self._place()[:2] - self._begin) @ np.array(self.way)) / self.far
        return {"progress": min(max(moved, 0.0), 1.0), "is_success": moved >= 1.0}

    def _observation(self) -> dict[str, Any]:
        frame, state = self._draw(), self._state()
        return {"pixels": frame, "agent_pos": self._proprio(), "environment_state": state.astype(np.float32)}

    def _space(self, proprio: int) -> spaces.Dict:
        box = {
            n: spaces.Box(-np.inf, np.inf, (k,), np.float32)
            for n, k in (("agent_pos", proprio), ("environment_state", 9))
        }
        return spaces.Dict({"pixels": spaces.Box(0, 255, (self.size_px, self.size_px, 3), np.uint8), **box})

    def _reset(self, seed: int | None) -> None:
        raise NotImplementedError

    def _act(self, action: NDArray[np.float32]) -> None:
        raise NotImplementedError

    def _place(self) -> Floats:
        """Where the thing is, [3] in physical units; the task is in the plane of the first two."""
        raise NotImplementedError

    def _draw(self) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _proprio(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def _state(self) -> Floats:
        raise NotImplementedError


class FetchPush(PushScene):
    """gymnasium-robotics' FetchPush seen by an oblique camera; actions are the gripper's displacement, [-1, 1] x 3."""

    steps, way, far = 50, (0.0, 1.0), 0.1

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        import gymnasium_robotics
        import mujoco

        gymnasium.register_envs(gymnasium_robotics)
        self._env = gymnasium.make("FetchPush-v4", max_episode_steps=10_000)
        inner: Any = self._env.unwrapped
        self._data, self._model = inner.data, inner.model
        self._model.vis.quality.shadowsize = 0
        self._model.vis.quality.offsamples = 0
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.lookat = np.array([1.33, 0.75, 0.44])
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.85, 145.0, -42.0
        self._renderer = mujoco.Renderer(self._model, 2 * size_px, 2 * size_px)
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = self._space(6)

    def _reset(self, seed: int | None) -> None:
        self._seen = self._env.reset(seed=seed)[0]["observation"]

    def _act(self, action: NDArray[np.float32]) -> None:
        self._seen = self._env.step(np.append(action.clip(-1, 1), np.float32(0)))[0]["observation"]

    def _place(self) -> Floats:
        return np.asarray(self._seen[3:6], np.float64)

    def _proprio(self) -> NDArray[np.float32]:
        return np.concatenate([self._seen[:3], self._seen[20:23]]).astype(np.float32)

    def _draw(self) -> NDArray[np.uint8]:
        self._renderer.update_scene(self._data, self._camera, self._options)
        fine = self._renderer.render().astype(np.uint16)
        side = self.size_px
        return ((fine.reshape(side, 2, side, 2, 3).sum((1, 3)) + 2) // 4).astype(np.uint8)

    def _state(self) -> Floats:
        yaw = float(self._seen[13])  # Euler angles of the cube begin at 11
        thing, tip = self._project(self._seen[3:6]), self._project(self._seen[:3])
        return np.concatenate([thing, [math.cos(4 * yaw), math.sin(4 * yaw)], tip, self._place()])

    def _project(self, point: Floats) -> Floats:
        """Where a point [3] in metres is in the frame, [2] in pixels."""
        left, right = self._renderer.scene.camera[0], self._renderer.scene.camera[1]
        offset = np.asarray(point) - (np.asarray(left.pos) + np.asarray(right.pos)) / 2
        forward, up = np.asarray(left.forward, np.float64), np.asarray(left.up, np.float64)
        scale = 1 / (offset @ forward * math.tan(math.radians(float(self._model.vis.global_.fovy)) / 2))
        x, y = offset @ np.cross(forward, up) * scale, offset @ up * scale
        return np.array([(1 + x) * self.size_px / 2 - 0.5, (1 - y) * self.size_px / 2 - 0.5])


class PushT(PushScene):
    """gym-pusht seen from above; actions are where the disc is to go, 0 to 512."""

    steps, way, far = 50, (1.0, 0.0), 60.0

    def __init__(self, size_px: int = 64) -> None:
        super().__init__(size_px)
        import gym_pusht  # noqa: F401  # registers its environment

        made = gymnasium.make(
            "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", observation_width=size_px, observation_height=size_px
        )
        self._env: Any = made.unwrapped
        self.action_space = spaces.Box(0, 512, (2,), np.float32)
        self.observation_space = self._space(4)

    def _reset(self, seed: int | None) -> None:
        self._seen = self._env.reset(seed=seed)[0]

    def _act(self, action: NDArray[np.float32]) -> None:
        self._seen = self._env.step(action.clip(0, 512))[0]

    def _place(self) -> Floats:
        return np.array([*self._env.block.position, 0.0])

    def _proprio(self) -> NDArray[np.float32]:
        return np.array([*self._env.agent.position, *self._env.agent.velocity], np.float32)

    def _draw(self) -> NDArray[np.uint8]:
        return np.asarray(self._seen["pixels"], np.uint8)

    def _state(self) -> Floats:
        scale, angle = self.size_px / 512, float(self._env.block.angle)
        thing, tip = np.array(self._env.block.position) * scale, np.array(self._env.agent.position) * scale
        return np.concatenate([thing - 0.5, [math.cos(angle), math.sin(angle)], tip - 0.5, self._place()])


SCENES = {"fetch_push": FetchPush, "pusht": PushT}


def fetch_push() -> FetchPush:
    """As ``--env benchmarks.scenes:fetch_push``."""
    return FetchPush()


def pusht() -> PushT:
    """As ``--env benchmarks.scenes:pusht``."""
    return PushT()


def main(
    scene: Annotated[str, typer.Argument(help="fetch_push or pusht.")],
    episodes: Annotated[int, typer.Option(help="Episodes the dataset shall hold in the end.")] = 360,
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    out: Annotated[Path, typer.Option(help="Dataset folder; continued.")] = Path("data/scene"),
) -> None:
    """Record contact-seeking exploration of a scene."""
    make = {"fetch_push": fetch_push, "pusht": pusht}[scene]
    made = collect(make, explorers(scene), episodes=episodes, out=out, seed=seed, options=RecordingOptions())
    print(f"{made.episodes} episodes, {made.frames} frames, {made.solved:.0%} solved, in {out}")


if __name__ == "__main__":
    typer.run(main)
