"""Rays cast into a MuJoCo scene from its camera, and Lambert shading of their hits with its colours and lights.

MuJoCo 3.5 is the first whose mj_multiRay gives normals, and the first that never misses a geom (before, its culling lost
some when looking straight down). The arithmetic treats each ray by itself, so a ray's result is the same bits whichever
others are cast with it. Shading has diffuse and ambient terms only, as MuJoCo's fixed-function renderer adds them; no
shadow, highlight, texture or attenuation.

Legend: N rays, G geoms.
"""

import dataclasses
from typing import Self

import mujoco
import numpy as np

from worldsim.arrays import Bools, Bytes, Float32s, Float64s, Int32s


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


_PLAIN = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # the compiler's default: "no colour of its own"


def geom_colours(model: mujoco.MjModel, background: Float32s) -> Float32s:
    """Colour of every geom, float32 [G + 1, 3] in 0..255; the last row, number -1, is the background.

    A geom's own rgba wins unless it is the compiler's default, then its material's; alpha is ignored.
    """
    rgba_G4 = np.array(model.geom_rgba)
    material = model.geom_matid
    from_material = (material >= 0) & (rgba_G4 == _PLAIN).all(axis=1)
    if from_material.any():
        rgba_G4[from_material] = model.mat_rgba[material[from_material]]
    palette: Float32s = np.concatenate([rgba_G4[:, :3] * 255, background[None]]).astype(np.float32)
    return palette


def shade(palette: Float32s, geom_N: Int32s, light_N3: Float32s) -> Float32s:
    """Colour of N hits, float32 [N, 3] in 0..255; rays that hit nothing show the background unlit."""
    lit_N3 = palette.take(geom_N, axis=0, mode="wrap")
    missed = geom_N < 0
    light_N3[missed] = 1.0
    np.multiply(lit_N3, light_N3, out=lit_N3)
    return np.minimum(lit_N3, 255.0, out=lit_N3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lights:
    """The active lights of a scene, seen from one camera.

    Attributes:
        ambient: [3], the sum of every light's ambient part.
        diffuse: [L, 3].
        towards: [L, 3], unit vector towards a directional light; unused for a positional one.
        position: [L, 3], world frame, metres.
        placed: bool [L], whether the light is positional rather than directional.
        camera: [3], where rays start, metres.
    """

    ambient: Float64s
    diffuse: Float64s
    towards: Float64s
    position: Float64s
    placed: Bools
    camera: Float64s

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, camera: int) -> Self:
        """Collect the scene's lights and the headlight, which shines along the camera's axis."""
        on = np.flatnonzero(model.light_active)
        head = model.vis.headlight
        axis = data.cam_xmat[camera].reshape(3, 3)[:, 2]
        placed = np.asarray(model.light_type)[on] != int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        lit = bool(head.active)
        return cls(
            ambient=model.light_ambient[on].sum(axis=0) + lit * head.ambient,
            diffuse=np.concatenate([model.light_diffuse[on], [head.diffuse] if lit else np.empty((0, 3))]),
            towards=np.concatenate([-data.light_xdir[on], [axis] if lit else np.empty((0, 3))]),
            position=np.concatenate([data.light_xpos[on], [data.cam_xpos[camera]] if lit else np.empty((0, 3))]),
            placed=np.append(placed, [False] * lit).astype(bool),
            camera=np.array(data.cam_xpos[camera]),
        )

    def illuminate(self, normal_N3: Float64s, rays_N3: Float64s, dist_N: Float64s) -> Float32s:
        """Light that N hits receive, float32 [N, 3], 1 being full.

        Args:
            normal_N3: Unit normals.
            rays_N3: Unit rays from the camera.
            dist_N: Distance travelled, metres.
        """
        cosine_NL = dot_products((normal_N3[:, 0], normal_N3[:, 1], normal_N3[:, 2]), self.towards)
        for number in np.flatnonzero(self.placed):
            to_light = self.position[number] - self.camera - dist_N[:, None] * rays_N3
            length = np.maximum(np.sqrt((to_light**2).sum(axis=1)), 1e-9)
            cosine_NL[:, number] = (normal_N3 * to_light).sum(axis=1) / length
        np.maximum(cosine_NL, 0.0, out=cosine_NL)
        light_N3 = np.empty(normal_N3.shape, np.float32)
        for channel in range(3):
            total_N = self.ambient[channel] + cosine_NL[:, 0] * self.diffuse[0, channel]
            for number in range(1, len(self.diffuse)):
                total_N += cosine_NL[:, number] * self.diffuse[number, channel]
            light_N3[:, channel] = total_N
        return light_N3
