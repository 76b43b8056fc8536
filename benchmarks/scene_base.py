"""What all scenes of other packages share: the observation's layout, the task, and cameras of MuJoCo that are projected.

The true state holds what benchmarks measure: thing x and y in pixels, cosine and sine of its angle (times its rotational
symmetry), robot tip x and y in pixels, and the thing's place in physical units.

Shape legend: H W image, E true state, N points.
"""

import math
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

THING, ANGLE, TIP, PLACE = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 9)
"""Where the true state holds what."""
SEEN_PX = 3
"""A thing that fewer pixels of the frame show is not in view."""
Floats = NDArray[np.float64]
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when MuJoCo is imported; its default needs a display


class Scene(gymnasium.Env[dict[str, Any], Any]):
    """An environment of another package, seen by one camera.

    Attributes:
        steps: Actions in an episode.
        order: Rotational symmetry of the thing.
        moves: Whether the robot can move the thing.
        turns: Whether its angle can be read from a frame.
        pivot: Where the thing turns, in shares of the frame's sides, where it looks the same after half a turn about there: what
            is found may then be its other end. None where it is distinguished by its point.
    """

    metadata = {"success_at": "end"}  # noqa: RUF012  # as Gymnasium declares it
    steps: int
    order = 1
    moves = True
    turns = False
    pivot: tuple[float, float] | None = None

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self._begin: Floats = np.zeros(3)
        self._count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """See `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._reset(seed)
        self._begin, self._count = self._place().copy(), 0
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        self._act(np.asarray(action, np.float32))
        self._count += 1
        info = self._info()
        return self._observation(), info["progress"], False, self._count >= self.steps, info

    def _info(self) -> dict[str, Any]:
        done = self._done()
        return {"progress": min(max(done, 0.0), 1.0), "is_success": done >= 1.0}

    def _observation(self) -> dict[str, Any]:
        frame, state = self._draw(), self._state()
        return {"pixels": frame, "agent_pos": self._proprio(), "environment_state": state.astype(np.float32)}

    def _space(self, proprio: int) -> spaces.Dict:
        box = {
            n: spaces.Box(-np.inf, np.inf, (k,), np.float32)
            for n, k in (("agent_pos", proprio), ("environment_state", 9))
        }
        return spaces.Dict({"pixels": spaces.Box(0, 255, (self.size_px, self.size_px, 3), np.uint8), **box})

    def _state(self) -> Floats:
        angle = self.order * self._angle()
        thing, tip = self._pixels(self._thing()), self._pixels(self._tip())
        return np.concatenate([thing, [math.cos(angle), math.sin(angle)], tip, self._place()])

    def thing_in_view(self) -> bool:
        """Whether the thing is to be seen now, neither outside of the frame nor covered."""
        return bool(((self._state()[THING] >= 0) & (self._state()[THING] < self.size_px)).all())

    def _place(self) -> Floats:
        """Where the thing is, [3] in physical units."""
        return self._thing()

    def _done(self) -> float:
        """How much of the task is done: 0 at the beginning, 1 where it is solved."""
        raise NotImplementedError

    def _reset(self, seed: int | None) -> None:
        raise NotImplementedError

    def _act(self, action: NDArray[np.float32]) -> None:
        raise NotImplementedError

    def _draw(self) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _proprio(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def _thing(self) -> Floats:
        """The thing's point that is looked for in frames, [3] in physical units."""
        raise NotImplementedError

    def _tip(self) -> Floats:
        """The robot's."""
        raise NotImplementedError

    def _angle(self) -> float:
        """The thing's angle, rad."""
        raise NotImplementedError

    def _pixels(self, point: Floats) -> Floats:
        """Where a point [3] is in the frame, [2] in pixels."""
        raise NotImplementedError


class MujocoScene(Scene):
    """A scene of MuJoCo under a camera of its own.

    Attributes:
        look: Where the camera looks, m; how far from there it is, m; its azimuth and elevation, degrees.
        body: The thing's name in the model.
    """

    look: tuple[tuple[float, float, float], float, float, float]
    body = "object0"
    _model: Any
    _data: Any

    def _make_camera(self) -> None:
        """Make camera and renderer of the loaded model."""
        import mujoco

        self._model.vis.quality.shadowsize = 0
        self._model.vis.quality.offsamples = 0
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.lookat = np.array(self.look[0])
        self._camera.distance, self._camera.azimuth, self._camera.elevation = self.look[1:]
        self._renderer = mujoco.Renderer(self._model, 2 * self.size_px, 2 * self.size_px)

    def _draw(self) -> NDArray[np.uint8]:
        self._renderer.update_scene(self._data, self._camera, self._options)
        fine = self._renderer.render().astype(np.uint16)
        side = self.size_px
        return ((fine.reshape(side, 2, side, 2, 3).sum((1, 3)) + 2) // 4).astype(np.uint8)

    def thing_in_view(self) -> bool:
        """Whether more than `SEEN_PX` of the frame's pixels show the thing."""
        self._renderer.enable_segmentation_rendering()
        self._renderer.update_scene(self._data, self._camera, self._options)
        shown = self._renderer.render()
        self._renderer.disable_segmentation_rendering()
        import mujoco

        geoms = shown[..., 0][shown[..., 1] == mujoco.mjtObj.mjOBJ_GEOM]
        own = np.flatnonzero(self._model.geom_bodyid == self._model.body(self.body).id)
        return int(np.isin(geoms, own).sum()) / 4 > SEEN_PX

    def _pixels(self, point: Floats) -> Floats:
        left, right = self._renderer.scene.camera[0], self._renderer.scene.camera[1]
        offset = np.asarray(point) - (np.asarray(left.pos) + np.asarray(right.pos)) / 2
        forward, up = np.asarray(left.forward, np.float64), np.asarray(left.up, np.float64)
        scale = 1 / (offset @ forward * math.tan(math.radians(float(self._model.vis.global_.fovy)) / 2))
        x, y = offset @ np.cross(forward, up) * scale, offset @ up * scale
        return np.array([(1 + x) * self.size_px / 2 - 0.5, (1 - y) * self.size_px / 2 - 0.5])
