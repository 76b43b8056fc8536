"""Images of a MuJoCo scene by ray casting: RGB, depth and segmentation, with no OpenGL and no display.

For any MJCF scene and any perspective camera of it. One ray per pixel finds what is seen; pixels on an outline or a
crease are then cast again with a stratified pattern of sub-rays and averaged, so that an edge keeps its position to a
fraction of a pixel at little cost. Shading is Lambert's law without shadows, highlights, textures or transparency.

`worldsim.envs.render.gl.GLRenderer` has the same interface on OpenGL, for scenes with textures.

Legend: N rays, G geoms, L lights, S sub-rays per side of a pixel.
"""

import dataclasses
import math
from typing import Self

import mujoco
import numpy as np

from worldsim.arrays import Bools, Bytes, Float32s, Float64s, Int32s
from worldsim.envs.render.shading import Lights, cast_rays, dot_products, geom_colours, shade
from worldsim.envs.render.static_cache import StaticScene, hide_geoms, movable_geoms, movable_pixels, static_signature
from worldsim.errors import InvalidInputError, unknown_name

VISIBLE_GROUPS = (0, 1, 2)
"""Geom groups that are drawn, MuJoCo's own default."""
_LIGHT_STEPS = 16  # brightness differing by more than a sixteenth marks a crease


def camera_id(model: mujoco.MjModel, camera: int | str) -> int:
    """Find a camera by name or number.

    Raises:
        UnknownNameError: No camera of that name.
        InvalidInputError: The number is out of range, or the camera is not a perspective one.
    """
    if isinstance(camera, str):
        found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if found < 0:
            raise unknown_name("camera", camera, [model.camera(i).name for i in range(model.ncam)])
        return _perspective(model, int(found))
    if not 0 <= camera < model.ncam:
        raise InvalidInputError(f"Camera number {camera} given; the scene has {model.ncam}. Add a <camera> to it.")
    return _perspective(model, camera)


def _perspective(model: mujoco.MjModel, camera: int) -> int:
    """The camera's number, if rays can leave from one point."""
    if int(model.cam_projection[camera]) != int(mujoco.mjtProjection.mjPROJ_PERSPECTIVE):
        raise InvalidInputError(
            f"Camera {camera} is orthographic; rays leave from one point. Use a distant camera with a narrow fovy."
        )
    return camera


class RayRenderer:
    """Draws one camera of one scene.

    Args:
        model: The scene.
        camera: Name or number of a perspective camera.
        height: Rows of the frame, px.
        width: Columns of the frame, px.
        samples: S; outlines are cast with S x S sub-rays per pixel, 1 turns antialiasing off.
        groups: Geom groups that are drawn.
        background: Colour where no geom is hit, 0..255.

    Raises:
        UnknownNameError: No such camera.
        InvalidInputError: A size below 1 px, or a camera that is not a perspective one.

    The data passed to the drawing methods must have its positions computed (`mj_forward`, or `mj_kinematics` and
    `mj_camlight`); it is only read. Float32s, sizes, poses and lights of the model may change between calls; after an
    edit of mesh or height-field data make a new renderer.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: int | str = 0,
        height: int = 64,
        width: int = 64,
        *,
        samples: int = 3,
        groups: tuple[int, ...] = VISIBLE_GROUPS,
        background: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        if min(height, width, samples) < 1:
            raise InvalidInputError(f"height, width and samples must be at least 1; got {height}, {width}, {samples}.")
        self.model = model
        self.camera = camera_id(model, camera)
        self.height, self.width = height, width
        self._background = np.asarray(background, np.float32)
        self._groups = np.isin(np.arange(mujoco.mjNGROUP), groups).astype(np.uint8)
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        self._pixel_N2: Float64s = np.stack([column.ravel(), row.ravel()], axis=-1)
        self._offset_S2 = _stratified(samples)
        self._ray_cache: tuple[bytes, Float64s, Float64s] | None = None
        self._static: StaticScene | None = None

    def render(self, data: mujoco.MjData) -> Bytes:
        """Draw the colours, uint8 [H, W, 3]."""
        static = self._static_scene(data)
        count = len(self._pixel_N2)
        key_N: Int32s = np.empty(count, np.int32)
        rgb_N3: Float32s = np.empty((count, 3), np.float32)
        mask_N = np.ones(count, bool)
        if static.drawing is not None:
            window = movable_pixels(
                self.model, data, self.camera, static.moving, self._focal_px(), (self.height, self.width)
            )
            if window is not None:
                mask_N = window.ravel()
                key_N, rgb_N3 = static.drawing[0].copy(), static.drawing[1].copy()
        self._draw(self.model, data, static, mask_N, key_N, rgb_N3)
        return np.rint(rgb_N3).astype(np.uint8).reshape(self.height, self.width, 3)

    def depth(self, data: mujoco.MjData) -> Float32s:
        """Distance along the camera's axis at pixel centres, float32 [H, W] in metres; infinity where there is nothing."""
        rays_N3, cosine_N = self._centre_rays(data)
        geom_N, dist_N, _ = cast_rays(self.model, data, self.camera, rays_N3, self._groups, normals=False)
        depth = np.where(geom_N >= 0, dist_N * cosine_N, np.inf)
        return depth.astype(np.float32).reshape(self.height, self.width)

    def segmentation(self, data: mujoco.MjData) -> Int32s:
        """Number of the geom seen at each pixel centre, int32 [H, W]; -1 where there is nothing."""
        rays_N3, _ = self._centre_rays(data)
        geom_N, _, _ = cast_rays(self.model, data, self.camera, rays_N3, self._groups, normals=False)
        return geom_N.reshape(self.height, self.width)

    def close(self) -> None:
        """Release nothing; every renderer has this method."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _focal_px(self) -> tuple[float, float, float, float]:
        """Focal lengths and principal point, px, from fovy or, where the camera states them, its intrinsics."""
        centre_x, centre_y = self.width / 2, self.height / 2
        sensor = self.model.cam_sensorsize[self.camera]
        if sensor[1] > 0:
            fx, fy, px, py = (float(v) for v in self.model.cam_intrinsic[self.camera])
            per_m = self.width / float(sensor[0]), self.height / float(sensor[1])
            return fx * per_m[0], fy * per_m[1], centre_x - px * per_m[0], centre_y + py * per_m[1]
        focal = centre_y / math.tan(math.radians(float(self.model.cam_fovy[self.camera])) / 2)
        return focal, focal, centre_x, centre_y

    def _directions(self, data: mujoco.MjData, pixel_N2: Float64s) -> tuple[Float64s, Float64s]:
        """Unit rays [N, 3] in the world frame through image points (column, row), and their cosines to the axis."""
        fx, fy, cx, cy = self._focal_px()
        x_N, y_N = (pixel_N2[:, 0] - cx) / fx, (cy - pixel_N2[:, 1]) / fy
        cosine_N = 1.0 / np.sqrt(x_N**2 + y_N**2 + 1.0)
        columns = x_N * cosine_N, y_N * cosine_N, -cosine_N
        return dot_products(columns, data.cam_xmat[self.camera].reshape(3, 3)), cosine_N

    def _centre_rays(self, data: mujoco.MjData) -> tuple[Float64s, Float64s]:
        """Rays through pixel centres, cached while the camera neither turns nor zooms."""
        pose = data.cam_xmat[self.camera].tobytes() + np.asarray(self._focal_px()).tobytes()
        if self._ray_cache is None or self._ray_cache[0] != pose:
            self._ray_cache = (pose, *self._directions(data, self._pixel_N2))
        return self._ray_cache[1], self._ray_cache[2]

    def _static_scene(self, data: mujoco.MjData) -> StaticScene:
        """Lights and colours, and the drawing of what cannot move once these were the same in two frames."""
        signature = static_signature(self.model, data, self.camera, self._focal_px())
        if self._static is None or self._static.signature != signature:
            self._static = StaticScene(
                signature=signature,
                lights=Lights.of(self.model, data, self.camera),
                palette=geom_colours(self.model, self._background),
                moving=movable_geoms(self.model),
            )
        elif self._static.drawing is None and len(self._static.moving) < self.model.ngeom:
            count = len(self._pixel_N2)
            key_N, rgb_N3 = np.empty(count, np.int32), np.empty((count, 3), np.float32)
            visible, groups = hide_geoms(self.model, self._static.moving, self._groups)
            self._draw(visible, data, self._static, np.ones(count, bool), key_N, rgb_N3, groups)
            self._static = dataclasses.replace(self._static, drawing=(key_N, rgb_N3))
        return self._static

    def _draw(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        static: StaticScene,
        mask_N: Bools,
        key_N: Int32s,
        rgb_N3: Float32s,
        groups: Bytes | None = None,
    ) -> None:
        """Draw the pixels of `mask_N` into `key_N` and `rgb_N3`, outlines and creases with sub-rays."""
        groups = self._groups if groups is None else groups
        pixels = np.flatnonzero(mask_N)
        every = len(pixels) == len(mask_N)
        rays_N3 = self._centre_rays(data)[0]
        rgb_N3[pixels], key_N[pixels] = self._shade_rays(
            model, data, rays_N3 if every else rays_N3[pixels], static, groups
        )
        if len(self._offset_S2) == 1:
            return
        edge = np.flatnonzero(_edges(key_N.reshape(self.height, self.width)).ravel() & mask_N)
        if len(edge):
            points = (self._pixel_N2[edge][:, None] + self._offset_S2).reshape(-1, 2)
            fine_N3, _ = self._shade_rays(model, data, self._directions(data, points)[0], static, groups)
            rgb_N3[edge] = _mean(fine_N3.reshape(len(edge), -1, 3))

    def _shade_rays(
        self, model: mujoco.MjModel, data: mujoco.MjData, rays_N3: Float64s, static: StaticScene, groups: Bytes
    ) -> tuple[Float32s, Int32s]:
        """Colour of each ray [N, 3] in 0..255, and a number [N] that differs across outlines and creases."""
        geom_N, dist_N, normal_N3 = cast_rays(model, data, self.camera, rays_N3, groups)
        light_N3 = static.lights.illuminate(normal_N3, rays_N3, dist_N)
        rgb_N3 = shade(static.palette, geom_N, light_N3)
        return rgb_N3, geom_N * 64 + (light_N3[:, 1] * _LIGHT_STEPS).astype(np.int32)


def _stratified(side: int) -> Float64s:
    """Sub-ray offsets [side * side, 2] from a pixel's centre, px, each in a row and a column of its own.

    Correlated multi-jittered sampling without the jitter (Kensler, Pixar TM 13-01, 2013): an upright edge is resolved
    to 1 / side**2 of a pixel, where a plain grid would give 1 / side.
    """
    major, minor = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    x = (major + (minor + 0.5) / side) / side - 0.5
    y = (minor + (major + 0.5) / side) / side - 0.5
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _mean(samples_NS3: Float32s) -> Float32s:
    """Mean over S sub-rays: [N, S, 3] -> [N, 3]; NumPy's own is slow along a short middle axis."""
    total_N3 = samples_NS3[:, 0].copy()
    for number in range(1, samples_NS3.shape[1]):
        total_N3 += samples_NS3[:, number]
    total_N3 /= samples_NS3.shape[1]
    return total_N3


def _edges(key_HW: Int32s) -> Bools:
    """Pixels that differ from any of their eight neighbours, bool [H, W]."""
    edge = np.zeros(key_HW.shape, bool)
    pairs = (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1))),
        ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))),
    )
    for one, other in pairs:
        differ = key_HW[one] != key_HW[other]
        edge[one] |= differ
        edge[other] |= differ
    return edge
