"""A cache of the static part of a scene, so that only pixels that a movable geom could touch are drawn again.

A renderer keeps the drawing of the static geoms for as long as they, the camera, the colours and the lights stay the
same. The result is bit for bit that of a full drawing.

Legend: G geoms, M movable geoms, H W pixels, N = H * W.
"""

import copy
import dataclasses

import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.arrays import Bools, Bytes, Float32s, Int32s
from worldsim.envs.render.shading import Lights

Indices = NDArray[np.intp]

_MARGIN_PX = 2.0  # one for the pixel's own extent, one for the neighbours that edges are found with


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticScene:
    """What a renderer keeps between frames.

    Attributes:
        signature: Changes whenever anything below would.
        lights: The lights.
        palette: Colour of each geom, [G + 1, 3].
        moving: Movable geoms [M].
        drawing: Edge keys int32 [N] and colours float32 [N, 3] without the movable geoms; None until drawn.
    """

    signature: bytes
    lights: Lights
    palette: Float32s
    moving: Indices
    drawing: tuple[Int32s, Float32s] | None = None


def movable_geoms(model: mujoco.MjModel) -> Indices:
    """Geoms on bodies that joints can move, int [M]; a mocap body counts as static while its pose stays the same."""
    body = model.geom_bodyid
    return np.flatnonzero(model.body_weldid[body] != 0)


def static_signature(model: mujoco.MjModel, data: mujoco.MjData, camera: int, focal_px: tuple[float, ...]) -> bytes:
    """Bytes that differ whenever the camera, a light, a colour, a shape or a static geom's pose does."""
    static = (model.body_weldid[model.geom_bodyid] == 0).nonzero()[0]
    head = model.vis.headlight
    parts = (
        np.asarray(focal_px),
        data.cam_xpos[camera],
        data.cam_xmat[camera],
        data.geom_xpos[static],
        data.geom_xmat[static],
        model.geom_size,
        model.geom_rgba,
        model.geom_matid,
        model.mat_rgba,
        model.geom_group,
        model.light_active,
        model.light_ambient,
        model.light_diffuse,
        data.light_xpos,
        data.light_xdir,
        head.ambient,
        head.diffuse,
        np.asarray(head.active),
    )
    return b"".join(part.tobytes() for part in parts)


def movable_pixels(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: int,
    moving: Indices,
    focal_px: tuple[float, float, float, float],
    size_px: tuple[int, int],
) -> Bools | None:
    """Pixels that movable geoms could touch, bool [H, W]; None where they may be anywhere.

    Each geom is replaced by its bounding sphere. For a sphere of radius r around (x, y) at depth d, an image point
    f (x + a) / (d + b) with |a|, |b| <= r lies within f r (1 + |x| / d) / (d - r) of the centre's.
    """
    (height, width), (fx, fy, cx, cy) = size_px, focal_px
    centre_M3 = (data.geom_xpos[moving] - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
    mask = np.zeros((height, width), bool)
    for (x, y, z), radius in zip(centre_M3.tolist(), model.geom_rbound[moving].tolist(), strict=True):
        depth = -z
        if radius == 0:  # a plane
            return None
        if depth + radius <= 0:  # behind the camera
            continue
        if depth <= 1.001 * radius:
            return None
        reach = radius / (depth - radius)
        right, down = cx + fx * x / depth, cy - fy * y / depth
        wide, high = fx * reach * (1 + abs(x) / depth) + _MARGIN_PX, fy * reach * (1 + abs(y) / depth) + _MARGIN_PX
        rows = slice(max(0, int(down - high)), max(0, int(down + high) + 1))
        columns = slice(max(0, int(right - wide)), max(0, int(right + wide) + 1))
        mask[rows, columns] = True
    return mask


def hide_geoms(model: mujoco.MjModel, geoms: Indices, groups: Bytes) -> tuple[mujoco.MjModel, Bytes]:
    """A copy of the scene without `geoms`, and the groups to draw: visible geoms are in group 0, all others in group 1."""
    visible = copy.copy(model)
    seen = groups[np.clip(model.geom_group, 0, mujoco.mjNGROUP - 1)] > 0
    seen[geoms] = False
    visible.geom_group[:] = np.where(seen, 0, 1)
    return visible, np.eye(1, mujoco.mjNGROUP, dtype=np.uint8)[0]
