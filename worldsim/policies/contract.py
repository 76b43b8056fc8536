"""What a policy declares of the world it was trained for, and the check of it against a world, before anything runs."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

from worldsim.core import TASK, Camera, WorldSpec
from worldsim.errors import PolicyError

_RATE_TOLERANCE = 0.01  # of the rate: 29.97 Hz is 30 Hz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a policy was trained for; empty or None where it does not say.

    Attributes:
        cameras: Its cameras by the observation keys that it reads, with the sizes that it takes.
        proprio_dim: P.
        action_dim: A.
        rate_hz: Actions a second.
        reads_task: It is conditioned on an instruction.
    """

    cameras: tuple[Camera, ...] = ()
    proprio_dim: int | None = None
    action_dim: int | None = None
    rate_hz: float | None = None
    reads_task: bool = False


@runtime_checkable
class Declared(Protocol):
    """A policy that says what it was trained for."""

    @property
    def contract(self) -> Contract:
        """What it was trained for."""


def check_contract(policy: object, spec: WorldSpec, *, name: str) -> None:
    """Check that a world gives what a policy was trained on, and takes what it returns; a policy that says nothing passes.

    Args:
        policy: Any policy.
        spec: Of the world.
        name: The policy's, for the message.

    Raises:
        PolicyError: It does not; every difference is named.
    """
    if not isinstance(policy, Declared):
        return
    contract = policy.contract
    wrong = _cameras(contract, spec)
    if contract.proprio_dim is not None and contract.proprio_dim != spec.proprio_dim:
        wrong.append(f"it reads {contract.proprio_dim} proprioceptive values, the world has {spec.proprio_dim}")
    if contract.action_dim is not None and contract.action_dim != spec.action.dim:
        wrong.append(
            f"it gives {contract.action_dim} actions, the world takes {spec.action.dim} ({', '.join(spec.action.names)})"
        )
    rate = contract.rate_hz
    if rate is not None and not math.isclose(rate, spec.action.rate_hz, rel_tol=_RATE_TOLERANCE):
        wrong.append(f"it acts at {rate:g} Hz, the world at {spec.action.rate_hz:g} Hz")
    if contract.reads_task and not spec.task and TASK not in spec.observes:
        wrong.append("it reads an instruction, and the world has no task")
    if wrong:
        raise PolicyError(
            f"Policy {name} was not trained for this world: {'; '.join(wrong)}. Use a world with the same cameras and "
            "robot, or train the policy for this one."
        )


def _cameras(contract: Contract, spec: WorldSpec) -> list[str]:
    """What is wrong with the cameras."""
    there = {camera.key: camera for camera in spec.cameras}
    wrong = []
    for camera in contract.cameras:
        found = there.get(camera.key)
        if found is None:
            wrong.append(f"it looks through {camera.key}, the world draws {', '.join(there) or 'nothing'}")
        elif found.size != camera.size:
            height, width = found.size
            wrong.append(
                f"it reads {camera.key} of {camera.height}x{camera.width} pixels, the world draws {height}x{width}"
            )
    return wrong
