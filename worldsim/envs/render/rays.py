"""Casting rays into a MuJoCo scene from its camera.

MuJoCo 3.5 is the first whose mj_multiRay gives normals, and the first that never misses a geom (before, its culling
lost some when looking straight down).

The arithmetic treats each ray by itself, so a ray's result is the same bits whichever others are cast with it.

Legend: N rays.
"""

import mujoco
import numpy as np

from worldsim.arrays import Bytes, Float64s, Int32s


def cast_rays(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: int,
    rays_N3: Float64s,
    groups: Bytes,
    *,
    normals: bool = True,
) -> tuple[Int32s, Float64s, Float64s]:
    """Find what rays from a camera's centre hit first.

    Args:
        model: The scene.
        data: Its positions.
        camera: Number of the camera.
        rays_N3: Unit directions, world frame.
        groups: uint8 [6], 1 for each geom group that is seen.
        normals: Whether normals are wanted.

    Returns:
        Geom [N] (-1 for none), distance [N] in metres, unit normal [N, 3] (zero where nothing was hit, or normals are not wanted).
    """
    count = len(rays_N3)
    geom_N, dist_N, normal_N3 = np.full(count, -1, np.int32), np.zeros(count), np.zeros((count, 3))
    mujoco.mj_multiRay(
        model,
        data,
        data.cam_xpos[camera],
        rays_N3.reshape(-1),
        groups,
        True,
        -1,
        geom_N,
        dist_N,
        normal_N3.reshape(-1) if normals else None,
        count,
        mujoco.mjMAXVAL,
    )
    return geom_N, dist_N, normal_N3


def dot_products(xyz_N: tuple[Float64s, Float64s, Float64s], other_M3: Float64s) -> Float64s:
    """Dot products of N vectors, given as three columns, with M others: [N, M].

    A matrix product in plain arithmetic: BLAS rounds differently with the number of rows.
    """
    x, y, z = xyz_N
    product_NM = np.empty((len(x), len(other_M3)))
    for column, (a, b, c) in enumerate(other_M3.tolist()):
        total_N = x * a
        total_N += y * b
        total_N += z * c
        product_NM[:, column] = total_N
    return product_NM
