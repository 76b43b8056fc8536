"""Lambert shading of ray hits with a MuJoCo scene's own colours and lights.

Diffuse and ambient terms only, as MuJoCo's fixed-function renderer adds them; no shadow, highlight, texture or
attenuation. Not for casting rays: that is `worldsim.envs.render.renderer`.

Legend: N rays, G geoms.
"""

import dataclasses
from typing import Self

import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.render.rays import products

Floats = NDArray[np.float64]
Colours = NDArray[np.float32]

_PLAIN = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # the compiler's default: "no colour of its own"


def geom_colours(model: mujoco.MjModel, background: Colours) -> Colours:
    """Colour of every geom, float32 [G + 1, 3] in 0..255; the last row, number -1, is the background.

    A geom's own rgba wins unless it is the compiler's default, then its material's; alpha is ignored.
    """
    rgba_g4 = np.array(model.geom_rgba)
    material = model.geom_matid
    takes = (material >= 0) & (rgba_g4 == _PLAIN).all(axis=1)
    if takes.any():
        rgba_g4[takes] = model.mat_rgba[material[takes]]
    palette: Colours = np.concatenate([rgba_g4[:, :3] * 255, background[None]]).astype(np.float32)
    return palette


def shade(palette: Colours, geom_n: NDArray[np.int32], light_n3: Colours) -> Colours:
    """Colour of N hits, float32 [N, 3] in 0..255; rays that hit nothing show the background unlit."""
    lit_n3 = palette.take(geom_n, axis=0, mode="wrap")
    missed = geom_n < 0
    light_n3[missed] = 1.0
    np.multiply(lit_n3, light_n3, out=lit_n3)
    return np.minimum(lit_n3, 255.0, out=lit_n3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lamps:
    """The active lights of a scene as one camera meets them.

    Attributes:
        ambient: [3], the sum of every light's ambient part.
        diffuse: [L, 3].
        towards: [L, 3], unit vector towards a directional light; unused for a positional one.
        position: [L, 3], world frame, metres.
        placed: bool [L], whether the light shines from a place rather than a direction.
        camera: [3], where rays start, metres.
    """

    ambient: Floats
    diffuse: Floats
    towards: Floats
    position: Floats
    placed: NDArray[np.bool_]
    camera: Floats

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

    def at(self, normal_n3: Floats, rays_n3: Floats, dist_n: Floats) -> Colours:
        """Light that N hits receive, float32 [N, 3], 1 being full.

        Args:
            normal_n3: Unit normals.
            rays_n3: Unit rays from the camera.
            dist_n: Distance travelled, metres.
        """
        cosine_nl = products((normal_n3[:, 0], normal_n3[:, 1], normal_n3[:, 2]), self.towards)
        for number in np.flatnonzero(self.placed):
            to_light = self.position[number] - self.camera - dist_n[:, None] * rays_n3
            length = np.maximum(np.sqrt((to_light**2).sum(axis=1)), 1e-9)
            cosine_nl[:, number] = (normal_n3 * to_light).sum(axis=1) / length
        np.maximum(cosine_nl, 0.0, out=cosine_nl)
        light_n3 = np.empty(normal_n3.shape, np.float32)
        for channel in range(3):
            total_n = self.ambient[channel] + cosine_nl[:, 0] * self.diffuse[0, channel]
            for number in range(1, len(self.diffuse)):
                total_n += cosine_nl[:, number] * self.diffuse[number, channel]
            light_n3[:, channel] = total_n
        return light_n3
