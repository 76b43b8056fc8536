"""What of a picture stays when only some bodies move, so that the rest need not be drawn again.

A renderer keeps the picture of the immovable geoms for as long as they, the camera, the colours and the lights stay
the same, and redraws only the pixels that a movable geom could touch. The result is the same bits as a full drawing.

Legend: G geoms, M movable geoms, H W pixels, N = H * W.
"""

import copy
import dataclasses

import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.render.shading import Lamps

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_MARGIN_PX = 2.0  # one for the pixel's own extent, one so that its neighbours see only what stays


@dataclasses.dataclass(frozen=True, kw_only=True)
class StillParts:
    """What a renderer remembers between frames.

    Attributes:
        signature: Changes whenever anything below would.
        lamps: The lights.
        palette: Colour of each geom, [G + 1, 3].
        moving: Movable geoms [M].
        backdrop: Edge keys int32 [N] and colours float32 [N, 3] without the movable geoms; None until drawn.
    """

    signature: bytes
    lamps: Lamps
    palette: NDArray[np.float32]
    moving: Indices
    backdrop: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None


def moving_geoms(model: mujoco.MjModel) -> Indices:
    """Geoms on bodies that joints can move, int [M]; a mocap body counts as still while nobody moves it."""
    body = model.geom_bodyid
    return np.flatnonzero(model.body_weldid[body] != 0)


def still_signature(model: mujoco.MjModel, data: mujoco.MjData, camera: int, focal_px: tuple[float, ...]) -> bytes:
    """Bytes that differ whenever the camera, a light, a colour, a shape or an immovable geom's pose does."""
    still = (model.body_weldid[model.geom_bodyid] == 0).nonzero()[0]
    head = model.vis.headlight
    parts = (
        np.asarray(focal_px),
        data.cam_xpos[camera],
        data.cam_xmat[camera],
        data.geom_xpos[still],
        data.geom_xmat[still],
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


def moving_window(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: int,
    moving: Indices,
    focal_px: tuple[float, float, float, float],
    size_px: tuple[int, int],
) -> NDArray[np.bool_] | None:
    """Pixels that movable geoms could touch, bool [H, W]; None where they may be anywhere.

    Each geom is replaced by its bounding sphere. For a sphere of radius r around (x, y) at depth d, an image point
    f (x + a) / (d + b) with |a|, |b| <= r lies within f r (1 + |x| / d) / (d - r) of the centre's.
    """
    (height, width), (fx, fy, cx, cy) = size_px, focal_px
    centre_m3 = (data.geom_xpos[moving] - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
    mask = np.zeros((height, width), bool)
    for (x, y, z), radius in zip(centre_m3.tolist(), model.geom_rbound[moving].tolist(), strict=True):
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


def without(
    model: mujoco.MjModel, geoms: Indices, groups: NDArray[np.uint8]
) -> tuple[mujoco.MjModel, NDArray[np.uint8]]:
    """A copy of the scene in which `geoms` are in a group that is not seen, and the groups to look at.

    The groups seen are all put into group 0, those unseen and `geoms` into group 1.
    """
    emptied = copy.copy(model)
    seen = groups[np.clip(model.geom_group, 0, mujoco.mjNGROUP - 1)] > 0
    seen[geoms] = False
    emptied.geom_group[:] = np.where(seen, 0, 1)
    return emptied, np.eye(1, mujoco.mjNGROUP, dtype=np.uint8)[0]
