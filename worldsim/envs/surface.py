"""Surface normals of MuJoCo's primitive shapes at points on them.

For MuJoCo versions whose rays do not return normals, and for checking those that do. Meshes and height fields, whose
shape is not an equation, are given the normal that faces the viewer.

Legend: N points.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GEOM = mujoco.mjtGeom


def surface_normals(
    model: mujoco.MjModel, data: mujoco.MjData, geom_n: NDArray[np.int32], point_n3: Floats, ray_n3: Floats
) -> Floats:
    """Outward unit normals [N, 3] in the world frame.

    Args:
        model: The scene.
        data: Its positions.
        geom_n: The geom each point lies on; -1 gives a zero normal.
        point_n3: Points, world frame, metres.
        ray_n3: Unit rays that arrived there, used where no equation is known.
    """
    normal_n3 = np.zeros_like(point_n3)
    for geom in np.unique(geom_n[geom_n >= 0]):
        at = np.flatnonzero(geom_n == geom)
        turn = data.geom_xmat[geom].reshape(3, 3)
        local = (point_n3[at] - data.geom_xpos[geom]) @ turn
        found = _local_normal(int(model.geom_type[geom]), model.geom_size[geom], local)
        normal_n3[at] = -ray_n3[at] if found is None else found @ turn.T
    return normal_n3


def _local_normal(kind: int, size: Floats, p: Floats) -> Floats | None:
    """Unit normal in the geom's frame, or None for a shape without an equation."""
    if kind == _GEOM.mjGEOM_PLANE:
        return np.broadcast_to([0.0, 0.0, 1.0], p.shape)
    if kind == _GEOM.mjGEOM_BOX:
        normal = np.zeros_like(p)
        axis = np.argmax(np.abs(p) - size, axis=1)
        row = np.arange(len(p))
        normal[row, axis] = np.sign(p[row, axis])
        return normal
    if kind == _GEOM.mjGEOM_CYLINDER:
        on_cap = np.abs(p[:, 2]) - size[1] > np.hypot(p[:, 0], p[:, 1]) - size[0]
        flat = p * [1.0, 1.0, 0.0]
        flat[on_cap] = p[on_cap] * [0.0, 0.0, 1.0]
        return _unit(flat)
    if kind == _GEOM.mjGEOM_CAPSULE:
        nearest = np.zeros_like(p)
        nearest[:, 2] = np.clip(p[:, 2], -size[1], size[1])
        return _unit(p - nearest)
    if kind in (_GEOM.mjGEOM_SPHERE, _GEOM.mjGEOM_ELLIPSOID):
        radii = size if kind == _GEOM.mjGEOM_ELLIPSOID else np.full(3, size[0])
        return _unit(p / radii**2)
    return None


def _unit(vector: Floats) -> Floats:
    """The vectors [N, 3] scaled to length one."""
    length: Floats = np.linalg.norm(vector, axis=1, keepdims=True)
    unit: Floats = vector / np.maximum(length, 1e-12)
    return unit
