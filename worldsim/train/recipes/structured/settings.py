"""How the stages of a structured world are trained."""

import dataclasses
from typing import Literal

from worldsim.optimize import Schedule

FAMILY = "structured"
STAGES = ("actor", "things", "painter", "body", "contact")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredRecipe:
    """Settings of the stages; a schedule whose steps are 0 takes as many as the data is worth, as the others of a world.

    Attributes:
        joints: Which numbers of proprioception are joint angles, of which the first four count; "auto" looks for those that
            explain the picture.
        degrees: Whether joints that are given are in degrees, not in radians.
        most_things: Most things to look for; how many there are is found, and none are kept that explain nothing.
        frames: Most frames that pictures are learned from.
        actor: Schedule of the robot's picture.
        things: Schedule of places and looks of things.
        painter: Schedule of robot and sprites together.
        body: Schedule of the body's dynamics.
        contact: Schedule of the contact model.
        unrolls: Rollout lengths of body and contact, and the share of training at which each ends.
    """

    joints: tuple[int, ...] | Literal["auto"] = "auto"
    degrees: bool = False
    most_things: int = 4
    frames: int = 12_000
    actor: Schedule = dataclasses.field(
        default_factory=lambda: Schedule(steps=0, batch=32, lr=3e-3, clip=5.0, weight_decay=0.0)
    )
    things: Schedule = dataclasses.field(
        default_factory=lambda: Schedule(steps=0, batch=32, lr=2e-3, clip=5.0, weight_decay=0.0)
    )
    painter: Schedule = dataclasses.field(
        default_factory=lambda: Schedule(steps=0, batch=32, lr=1e-3, clip=5.0, weight_decay=0.0)
    )
    body: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=0, batch=64, lr=3e-3))
    contact: Schedule = dataclasses.field(
        default_factory=lambda: Schedule(steps=0, batch=64, lr=2e-3, weight_decay=0.3)
    )
    unrolls: tuple[tuple[int, float], ...] = ((1, 0.25), (4, 0.45), (8, 0.6), (16, 0.8), (32, 1.0))
