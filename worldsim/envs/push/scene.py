"""The scene of the pushing task: its geometry, what may be varied, and the MJCF text for both.

Frame: x right and y up in the picture, metres, origin at the goal's centre. The block's origin is its centre of mass;
at yaw 0 its bar lies at +y, its stem points to -y.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from worldsim.errors import InvalidInputError, unknown_name

IMAGE_PX = 64
VIEW_M = 0.64  # side of the square the camera sees, so that 1 px is 1 cm
REACH_M = 0.30  # the pusher's centre stays within +- this, on both axes
GOAL_RADIUS_M = 0.04
PUSHER_RADIUS_M = 0.018
BLOCK_RECTANGLES_M = ((0.0, 0.024, 0.06, 0.02), (0.0, -0.036, 0.02, 0.04))
"""The T as rectangles in the block's frame: centre x, centre y, half width, half height (bar, stem)."""
BLOCK_RADIUS_M = math.hypot(0.02, 0.076)  # the farthest corner from the centre of mass
START_DISTANCE_M = (0.08, 0.20)  # of the block from the goal
PROGRESS_RANGE_M = 0.30  # progress is 1 - distance / this
MAX_SPEED_M_S = 0.4
RATE_HZ = 10
SUBSTEPS = 20
TIMESTEP_S = 1 / (RATE_HZ * SUBSTEPS)

_THICKNESS_M = 0.01  # half the block's height; the pusher is as flat
_CAMERA_HEIGHT_M = 8.0  # above the block's top: far, so that its sides are hardly seen
_GRAVITY_M_S2 = 9.81
_SLIP_SPEED_M_S = 0.05  # a block sliding this fast meets the full dry friction
_SPREAD = 0.56  # the friction's mean lever arm over the block's largest radius
_SERVO_N_S_M = 100.0
_PUSHER_KG = 0.5

Number = float | Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushVariation:
    """What may differ from the nominal task, by name.

    Attributes:
        friction: Coefficient of the block on the floor, 0.05..2.
        grip: Coefficient of the pusher on the block, 0..2.
        mass: Of the block, kg, 0.02..2.
        size: Scale of the block's outline, 0.6..1.4.
        block_color: Red, green, blue in 0..1; likewise the three below.
        pusher_color: See `block_color`.
        goal_color: See `block_color`.
        floor_color: See `block_color`.
        light: Brightness, 1 is nominal, 0.2..1.6.
        camera: Shift right (m), shift up (m) and roll (rad) of the camera, each within 0.1.
    """

    friction: float = 0.5
    grip: float = 0.3
    mass: float = 0.3
    size: float = 1.0
    block_color: tuple[float, ...] = (0.80, 0.20, 0.17)
    pusher_color: tuple[float, ...] = (0.13, 0.30, 0.80)
    goal_color: tuple[float, ...] = (0.35, 0.72, 0.38)
    floor_color: tuple[float, ...] = (0.84, 0.84, 0.84)
    light: float = 1.0
    camera: tuple[float, ...] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, given: Mapping[str, Number] | None) -> Self:
        """Read a variation by names.

        Raises:
            UnknownNameError: No such variation; the message names the closest.
            InvalidInputError: A value of the wrong length or out of its range.
        """
        values: dict[str, float | tuple[float, ...]] = {}
        for name, value in (given or {}).items():
            if name not in VARIATION_RANGES:
                raise unknown_name("variation", name, VARIATION_RANGES)
            nominal = getattr(cls, name)
            try:
                numbers = tuple(np.asarray(value, np.float64).ravel().tolist())
            except (TypeError, ValueError) as error:
                raise InvalidInputError(f"Variation {name!r} takes numbers; got {value!r}.") from error
            _check(name, numbers, 1 if isinstance(nominal, float) else len(nominal))
            values[name] = numbers[0] if isinstance(nominal, float) else numbers
        return cls(**values)  # type: ignore[arg-type]

    def numbers(self) -> list[float]:
        """All values in a row, in the order of the fields: the variation's part of a saved state."""
        row: list[float] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            row += [value] if isinstance(value, float) else value
        return row

    @classmethod
    def from_numbers(cls, row: Sequence[float]) -> Self:
        """Rebuild from `numbers`."""
        values: dict[str, Number] = {}
        rest = [float(v) for v in row]
        for field in dataclasses.fields(cls):
            width = 1 if isinstance(field.default, float) else len(field.default)  # type: ignore[arg-type]
            taken, rest = rest[:width], rest[width:]
            values[field.name] = taken[0] if isinstance(field.default, float) else taken
        return cls.of(values)


VARIATION_RANGES: dict[str, tuple[float, float]] = {
    "friction": (0.05, 2.0),
    "grip": (0.0, 2.0),
    "mass": (0.02, 2.0),
    "size": (0.6, 1.4),
    "block_color": (0.0, 1.0),
    "pusher_color": (0.0, 1.0),
    "goal_color": (0.0, 1.0),
    "floor_color": (0.0, 1.0),
    "light": (0.2, 1.6),
    "camera": (-0.1, 0.1),
}
"""Every variation by name, with the range of each of its numbers."""


def _check(name: str, numbers: tuple[float, ...], width: int) -> None:
    """Refuse a variation of the wrong length or range."""
    low, high = VARIATION_RANGES[name]
    if len(numbers) != width:
        raise InvalidInputError(f"Variation {name!r} takes {width} number(s); got {len(numbers)}: {numbers}.")
    if not all(low <= v <= high for v in numbers):
        raise InvalidInputError(f"Variation {name!r} must lie within {low}..{high}; got {numbers}.")


def push_xml(variation: PushVariation) -> str:
    """The scene as MJCF text.

    The block glides on the floor in x, y and yaw. Floor friction is the ellipsoidal limit surface of quasi-static
    pushing (Lynch and Mason, "Stable pushing", IJRR 1996) in its linear form: resistance to the velocity, equal in all
    directions, so heavy that the block stops within a few millimetres once it is not pushed. It is `friction * mass * g`
    at a slip of 5 cm/s. The pusher is a velocity servo of limited stiffness, so a heavier block slows it.
    """
    v = variation
    shift_x, shift_y, roll = v.camera
    fovy_deg = math.degrees(2 * math.atan(VIEW_M / 2 / _CAMERA_HEIGHT_M))
    bright = f"{0.35 * v.light} " * 3, f"{0.65 * v.light} " * 3
    return f"""
<mujoco model="push">
  <option timestep="{TIMESTEP_S}" gravity="0 0 0" integrator="implicitfast" cone="elliptic" iterations="20">
    <flag energy="disable"/>
  </option>
  <visual>
    <global offwidth="1024" offheight="1024"/><quality shadowsize="0" offsamples="0"/>
    <headlight active="0"/><map znear="0.5" zfar="20"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <worldbody>
    <light name="sun" directional="true" pos="0 0 3" dir="0 0 -1" castshadow="false"
      ambient="{bright[0]}" diffuse="{bright[1]}" specular="0 0 0"/>
    <camera name="top" pos="{shift_x} {shift_y} {_CAMERA_HEIGHT_M + 2 * _THICKNESS_M}"
      euler="0 0 {math.degrees(roll)}" fovy="{fovy_deg}"/>
    <geom name="floor" type="plane" size="2 2 0.1" rgba="{_rgb(v.floor_color)}" contype="0" conaffinity="0"/>
    <geom name="goal" type="cylinder" pos="0 0 0.0005" size="{GOAL_RADIUS_M} 0.0005" rgba="{_rgb(v.goal_color)}"
      contype="0" conaffinity="0"/>
{_block_xml(v)}
{_pusher_xml(v)}
  </worldbody>
  <actuator>
    <velocity joint="pusher_x" kv="{_SERVO_N_S_M}"/>
    <velocity joint="pusher_y" kv="{_SERVO_N_S_M}"/>
  </actuator>
</mujoco>"""


def _block_xml(v: PushVariation) -> str:
    """The T on its three joints, whose damping is the floor's friction."""
    drag = v.friction * v.mass * _GRAVITY_M_S2 / _SLIP_SPEED_M_S
    spin_drag = drag * (_SPREAD * BLOCK_RADIUS_M * v.size) ** 2
    return f"""
    <body name="block" pos="0 0 {0.002 + _THICKNESS_M}">
      <joint name="block_x" type="slide" axis="1 0 0" damping="{drag}"/>
      <joint name="block_y" type="slide" axis="0 1 0" damping="{drag}"/>
      <joint name="block_yaw" type="hinge" axis="0 0 1" damping="{spin_drag}"/>
{_block_geoms(v)}
    </body>"""


def _pusher_xml(v: PushVariation) -> str:
    """The pusher: a cylinder to look at, and a hidden ball for contact, which is exact and cheap against boxes."""
    return f"""
    <body name="pusher" pos="0 0 {0.002 + _THICKNESS_M}">
      <joint name="pusher_x" type="slide" axis="1 0 0"/>
      <joint name="pusher_y" type="slide" axis="0 1 0"/>
      <geom name="pusher" type="cylinder" size="{PUSHER_RADIUS_M} {_THICKNESS_M}" mass="{_PUSHER_KG}"
        rgba="{_rgb(v.pusher_color)}" contype="0" conaffinity="0"/>
      <geom name="pusher_contact" type="sphere" size="{PUSHER_RADIUS_M}" mass="0" group="4" contype="2" conaffinity="1"
        friction="{v.grip} 0 0" solref="0.012 1" priority="1"/>
    </body>"""


def _rgb(colour: tuple[float, ...]) -> str:
    return " ".join(str(v) for v in colour) + " 1"


def _block_geoms(v: PushVariation) -> str:
    """The T's boxes; mass is shared out by area."""
    area = sum(half_w * half_h for _, _, half_w, half_h in BLOCK_RECTANGLES_M)
    lines = []
    for name, (x, y, half_w, half_h) in zip(("bar", "stem"), BLOCK_RECTANGLES_M, strict=True):
        size = f"{half_w * v.size} {half_h * v.size} {_THICKNESS_M}"
        lines.append(
            f'      <geom name="{name}" type="box" pos="{x * v.size} {y * v.size} 0" size="{size}" contype="1" '
            f'conaffinity="2" mass="{v.mass * half_w * half_h / area}" rgba="{_rgb(v.block_color)}"/>'
        )
    return "\n".join(lines)
