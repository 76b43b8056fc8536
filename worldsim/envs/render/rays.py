"""Casting rays into a MuJoCo scene from its camera.

MuJoCo 3.5 is the first whose mj_multiRay gives normals, and the first that never overlooks a geom (before, its culling
lost some when looking straight down).

The arithmetic here treats each ray by itself, so a ray's result is the same bits whichever others are cast with it.
Not for colours: that is `worldsim.envs.render.shading`.

Legend: N rays.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


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
    geom_n, dist_n, normal_n3 = np.full(count, -1, np.int32), np.zeros(count), np.zeros((count, 3))
    mujoco.mj_multiRay(
        model,
        data,
        data.cam_xpos[camera],
        rays_n3.reshape(-1),
        groups,
        True,
        -1,
        geom_n,
        dist_n,
        normal_n3.reshape(-1) if normals else None,
        count,
        mujoco.mjMAXVAL,
    )
    return geom_n, dist_n, normal_n3


def products(xyz_n: tuple[Floats, Floats, Floats], other_m3: Floats) -> Floats:
    """Scalar products of N vectors, given as three columns, with M others: [N, M].

    A matrix product in plain arithmetic: BLAS rounds differently with the number of rows.
    """
    x, y, z = xyz_n
    product_nm = np.empty((len(x), len(other_m3)))
    for column, (a, b, c) in enumerate(other_m3.tolist()):
        total_n = x * a
        total_n += y * b
        total_n += z * c
        product_nm[:, column] = total_n
    return product_nm
