"""Pictures of a MuJoCo scene by ray casting: RGB, depth and segmentation, with no OpenGL and no display.

For any MJCF scene and any perspective camera of it. One ray per pixel finds what is seen; pixels on an outline or a
crease are then cast again with a stratified pattern of sub-rays and averaged, so that an edge keeps its position to a
fraction of a pixel at little cost. Shading is Lambert's law without shadows, highlights, textures or transparency.

Not for photographs: `worldsim.envs.render.gl.GLRenderer` keeps the same contract on OpenGL.

Legend: N rays, G geoms, L lights, S sub-rays per side of a pixel.
"""

import dataclasses
import math
from typing import Self

import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.render.rays import cast, products
from worldsim.envs.render.shading import Lamps, geom_colours, shade
from worldsim.envs.render.static_cache import StillParts, moving_geoms, moving_window, still_signature, without
from worldsim.errors import InvalidInputError, unknown_name

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Colours = NDArray[np.float32]
Frame = NDArray[np.uint8]

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
    `mj_camlight`); it is only read. Colours, sizes, poses and lights of the model may change between calls; after an
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
        self._pixel_n2: Floats = np.stack([column.ravel(), row.ravel()], axis=-1)
        self._offset_s2 = _stratified(samples)
        self._rays_of: tuple[bytes, Floats, Floats] | None = None
        self._still: StillParts | None = None

    def render(self, data: mujoco.MjData) -> Frame:
        """Draw the colours, uint8 [H, W, 3]."""
        still = self._still_parts(data)
        count = len(self._pixel_n2)
        key_n: Ints = np.empty(count, np.int32)
        rgb_n3: Colours = np.empty((count, 3), np.float32)
        mask_n = np.ones(count, bool)
        if still.backdrop is not None:
            window = moving_window(
                self.model, data, self.camera, still.moving, self._focal_px(), (self.height, self.width)
            )
            if window is not None:
                mask_n = window.ravel()
                key_n, rgb_n3 = still.backdrop[0].copy(), still.backdrop[1].copy()
        self._draw(self.model, data, still, mask_n, key_n, rgb_n3)
        return np.rint(rgb_n3).astype(np.uint8).reshape(self.height, self.width, 3)

    def depth(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Distance along the camera's axis at pixel centres, float32 [H, W] in metres; infinity where nothing is."""
        rays_n3, cosine_n = self._centre_rays(data)
        geom_n, dist_n, _ = cast(self.model, data, self.camera, rays_n3, self._groups, normals=False)
        depth = np.where(geom_n >= 0, dist_n * cosine_n, np.inf)
        return depth.astype(np.float32).reshape(self.height, self.width)

    def segmentation(self, data: mujoco.MjData) -> Ints:
        """Number of the geom seen at each pixel centre, int32 [H, W]; -1 where nothing is."""
        rays_n3, _ = self._centre_rays(data)
        geom_n, _, _ = cast(self.model, data, self.camera, rays_n3, self._groups, normals=False)
        return geom_n.reshape(self.height, self.width)

    def close(self) -> None:
        """Nothing to release; present because every renderer has it."""

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

    def _directions(self, data: mujoco.MjData, pixel_n2: Floats) -> tuple[Floats, Floats]:
        """Unit rays [N, 3] in the world frame through image points (column, row), and their cosines to the axis."""
        fx, fy, cx, cy = self._focal_px()
        x_n, y_n = (pixel_n2[:, 0] - cx) / fx, (cy - pixel_n2[:, 1]) / fy
        cosine_n = 1.0 / np.sqrt(x_n**2 + y_n**2 + 1.0)
        columns = x_n * cosine_n, y_n * cosine_n, -cosine_n
        return products(columns, data.cam_xmat[self.camera].reshape(3, 3)), cosine_n

    def _centre_rays(self, data: mujoco.MjData) -> tuple[Floats, Floats]:
        """Rays through pixel centres, kept while the camera neither turns nor zooms."""
        pose = data.cam_xmat[self.camera].tobytes() + np.asarray(self._focal_px()).tobytes()
        if self._rays_of is None or self._rays_of[0] != pose:
            self._rays_of = (pose, *self._directions(data, self._pixel_n2))
        return self._rays_of[1], self._rays_of[2]

    def _still_parts(self, data: mujoco.MjData) -> StillParts:
        """Lights and colours, and the picture of what cannot move once these were the same in two frames."""
        signature = still_signature(self.model, data, self.camera, self._focal_px())
        if self._still is None or self._still.signature != signature:
            self._still = StillParts(
                signature=signature,
                lamps=Lamps.of(self.model, data, self.camera),
                palette=geom_colours(self.model, self._background),
                moving=moving_geoms(self.model),
            )
        elif self._still.backdrop is None and len(self._still.moving) < self.model.ngeom:
            count = len(self._pixel_n2)
            key_n, rgb_n3 = np.empty(count, np.int32), np.empty((count, 3), np.float32)
            emptied, groups = without(self.model, self._still.moving, self._groups)
            self._draw(emptied, data, self._still, np.ones(count, bool), key_n, rgb_n3, groups)
            self._still = dataclasses.replace(self._still, backdrop=(key_n, rgb_n3))
        return self._still

    def _draw(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        still: StillParts,
        mask_n: NDArray[np.bool_],
        key_n: Ints,
        rgb_n3: Colours,
        groups: NDArray[np.uint8] | None = None,
    ) -> None:
        """Draw the pixels of `mask_n` into `key_n` and `rgb_n3`, outlines and creases with sub-rays."""
        groups = self._groups if groups is None else groups
        todo = np.flatnonzero(mask_n)
        whole = len(todo) == len(mask_n)
        rays_n3 = self._centre_rays(data)[0]
        rgb_n3[todo], key_n[todo] = self._colours(model, data, rays_n3 if whole else rays_n3[todo], still, groups)
        if len(self._offset_s2) == 1:
            return
        edge = np.flatnonzero(_edges(key_n.reshape(self.height, self.width)).ravel() & mask_n)
        if len(edge):
            points = (self._pixel_n2[edge][:, None] + self._offset_s2).reshape(-1, 2)
            fine_n3, _ = self._colours(model, data, self._directions(data, points)[0], still, groups)
            rgb_n3[edge] = _mean(fine_n3.reshape(len(edge), -1, 3))

    def _colours(
        self, model: mujoco.MjModel, data: mujoco.MjData, rays_n3: Floats, still: StillParts, groups: NDArray[np.uint8]
    ) -> tuple[Colours, Ints]:
        """Colour of each ray [N, 3] in 0..255, and a number [N] that differs across outlines and creases."""
        geom_n, dist_n, normal_n3 = cast(model, data, self.camera, rays_n3, groups)
        light_n3 = still.lamps.at(normal_n3, rays_n3, dist_n)
        rgb_n3 = shade(still.palette, geom_n, light_n3)
        return rgb_n3, geom_n * 64 + (light_n3[:, 1] * _LIGHT_STEPS).astype(np.int32)


def _stratified(side: int) -> Floats:
    """Sub-ray offsets [side * side, 2] from a pixel's centre, px, each in a row and a column of its own.

    Correlated multi-jittered sampling without the jitter (Kensler, Pixar TM 13-01, 2013): an upright edge is resolved
    to 1 / side**2 of a pixel, where a plain grid would give 1 / side.
    """
    major, minor = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    x = (major + (minor + 0.5) / side) / side - 0.5
    y = (minor + (major + 0.5) / side) / side - 0.5
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _mean(samples_ns3: Colours) -> Colours:
    """Mean over S sub-rays: [N, S, 3] -> [N, 3]; NumPy's own is slow along a short axis in the middle."""
    total_n3 = samples_ns3[:, 0].copy()
    for number in range(1, samples_ns3.shape[1]):
        total_n3 += samples_ns3[:, number]
    total_n3 /= samples_ns3.shape[1]
    return total_n3


def _edges(key_hw: Ints) -> NDArray[np.bool_]:
    """Pixels that differ from any of their eight neighbours, bool [H, W]."""
    edge = np.zeros(key_hw.shape, bool)
    pairs = (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1))),
        ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))),
    )
    for one, other in pairs:
        differ = key_hw[one] != key_hw[other]
        edge[one] |= differ
        edge[other] |= differ
    return edge
