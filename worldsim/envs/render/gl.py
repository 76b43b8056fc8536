"""An OpenGL (EGL) renderer with the interface of `RayRenderer`, for scenes with textures or many pixels.

Optional: `worldsim.envs.render.renderer.RayRenderer` needs no OpenGL and has finer edges. Shadows and multisampling are
off, which on software OpenGL are most of the cost. A broken OpenGL can end the process, so it is tried in another one
first.
"""

import copy
import functools
import os
import subprocess
import sys
from typing import Any, Self

import mujoco
import numpy as np

from worldsim.arrays import Bytes, Float32s, Int32s
from worldsim.envs.render.renderer import VISIBLE_GROUPS, camera_id
from worldsim.errors import InvalidInputError

_PROBE_TIMEOUT_S = 60
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    raise SystemExit(0 if renderer.render().any() else 3)
"""


@functools.cache
def find_gl_error() -> str:
    """Why EGL cannot be used here, in one line; empty where it works. Tried once, in another process."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed text, run by this interpreter
            [sys.executable, "-c", _PROBE],
            env=os.environ | {"MUJOCO_GL": "egl"},
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the trial did not finish: {error}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the trial ended with status {done.returncode}"


class GLRenderer:
    """Draws one camera of one scene with OpenGL; arguments and methods as `worldsim.envs.render.renderer.RayRenderer`.

    The process must have been started with MUJOCO_GL=egl. Float32s are read at construction: make a new one after
    changing them. Lights add highlights as the materials say, so brightness may differ from ray casting.

    Raises:
        InvalidInputError: EGL does not work here, or MUJOCO_GL is not egl; the message says what to do.
        UnknownNameError: No such camera.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: int | str = 0,
        height: int = 64,
        width: int = 64,
        *,
        groups: tuple[int, ...] = VISIBLE_GROUPS,
    ) -> None:
        if os.environ.get("MUJOCO_GL", "").lower() != "egl":
            raise InvalidInputError("Start Python with MUJOCO_GL=egl in its environment, or use RayRenderer.")
        problem = find_gl_error()
        if problem:
            raise InvalidInputError(f"EGL does not work on this machine: {problem} Use RayRenderer.")
        self.camera = camera_id(model, camera)
        self.height, self.width = height, width
        plain = copy.copy(model)
        plain.vis.quality.shadowsize = plain.vis.quality.offsamples = 0
        plain.vis.global_.offheight = max(height, int(plain.vis.global_.offheight))
        plain.vis.global_.offwidth = max(width, int(plain.vis.global_.offwidth))
        self._far_m = float(plain.vis.map.zfar * plain.stat.extent)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = np.isin(np.arange(len(self._option.geomgroup)), groups)
        self._option.sitegroup[:] = 0
        self._renderer: Any = mujoco.Renderer(plain, height, width)

    def render(self, data: mujoco.MjData) -> Bytes:
        """Draw the colours, uint8 [H, W, 3]."""
        self._update_scene(data)
        frame: Bytes = self._renderer.render()
        return frame

    def depth(self, data: mujoco.MjData) -> Float32s:
        """Distance along the camera's axis, float32 [H, W] in metres; infinity where there is nothing."""
        self._renderer.enable_depth_rendering()
        self._update_scene(data)
        depth_m: Float32s = self._renderer.render().astype(np.float32)
        self._renderer.disable_depth_rendering()
        depth_m[depth_m > 0.99 * self._far_m] = np.inf
        return depth_m

    def segmentation(self, data: mujoco.MjData) -> Int32s:
        """Number of the geom seen, int32 [H, W]; -1 where there is nothing."""
        self._renderer.enable_segmentation_rendering()
        self._update_scene(data)
        number, kind = np.moveaxis(self._renderer.render(), -1, 0)
        self._renderer.disable_segmentation_rendering()
        return np.where(kind == int(mujoco.mjtObj.mjOBJ_GEOM), number, -1).astype(np.int32)

    def close(self) -> None:
        """Release the OpenGL context."""
        self._renderer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _update_scene(self, data: mujoco.MjData) -> None:
        """Bring the scene up to date, without shadows, reflections, haze or sky."""
        self._renderer.update_scene(data, camera=self.camera, scene_option=self._option)
        for flag in ("SHADOW", "REFLECTION", "HAZE", "SKYBOX"):
            self._renderer.scene.flags[int(getattr(mujoco.mjtRndFlag, f"mjRND_{flag}"))] = 0
