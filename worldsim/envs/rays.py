"""Casting rays into a MuJoCo scene from its camera, on every MuJoCo from 3.3 on.

The arithmetic here treats each ray by itself, so a ray's result is the same bits whichever others are cast with it.
Not for colours: that is `worldsim.envs.shading`.

Legend: N rays.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.surface import surface_normals

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

RAYS_GIVE_NORMALS = "normal:" in (mujoco.mj_multiRay.__doc__ or "")
"""Whether this MuJoCo's mj_multiRay takes a `normal` argument: 4.x does, 3.3 does not."""


def cast(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: int,
    rays_n3: Floats,
    groups: NDArray[np.uint8],
    *,
    normals: bool = True,
) -> tuple[Ints, Floats, Floats]:
    """Find what rays from a camera's centre meet first.

    Args:
        model: The scene.
        data: Its positions.
        camera: Number of the camera.
        rays_n3: Unit directions, world frame.
        groups: uint8 [6], 1 for each geom group that is seen.
        normals: Whether normals are wanted.

    Returns:
        Geom [N] (-1 for none), distance [N] in metres, unit normal [N, 3] (zero where nothing was hit or unwanted).
    """
    count = len(rays_n3)
    geom_n, dist_n = np.full(count, -1, np.int32), np.zeros(count)
    normal_n3: Floats = np.zeros((count, 3))
    origin = data.cam_xpos[camera]
    head = (model, data, origin, rays_n3.reshape(-1), groups, True, -1, geom_n, dist_n)
    if RAYS_GIVE_NORMALS:
        mujoco.mj_multiRay(*head, normal_n3.reshape(-1) if normals else None, count, mujoco.mjMAXVAL)
    else:
        mujoco.mj_multiRay(*head, count, mujoco.mjMAXVAL)
        if normals:
            normal_n3 = surface_normals(model, data, geom_n, origin + dist_n[:, None] * rays_n3, rays_n3)
    return geom_n, dist_n, normal_n3


def products(one_n3: Floats, other_m3: Floats) -> Floats:
    """Scalar products of every pair, [N, M].

    A matrix product in plain arithmetic: BLAS rounds differently with the number of rows.
    """
    product_nm = np.empty((len(one_n3), len(other_m3)))
    x, y, z = one_n3[:, 0], one_n3[:, 1], one_n3[:, 2]
    for column, (a, b, c) in enumerate(other_m3.tolist()):
        total_n = x * a
        total_n += y * b
        total_n += z * c
        product_nm[:, column] = total_n
    return product_nm
