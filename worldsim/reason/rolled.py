"""Videos of a policy at work in a world, learned or simulated; through the protocols only.

Not for many policies at once (`worldsim.triage`).

Shape legend: B episodes, T steps, T + 1 frames.
"""

import torch
from torch import Tensor

from worldsim.core import SIMULATOR, TRUE_STATE, Observation
from worldsim.protocols import Policy, World
from worldsim.reason.sources import Listed
from worldsim.reason.video import Kind, Provenance, Video
from worldsim.rollout import Actor, Played, play

POLICY_STREAM = 0x9EA5
"""Separates the policy's noise from the world's, which both grow from the episode's key."""


def rolled(
    world: World,
    policy: Policy,
    starts: Observation,
    keys: Tensor,
    *,
    name: str = "policy",
    kind: Kind | None = None,
    steps: int | None = None,
    batch: int = 16,
) -> Listed:
    """Film a policy in a world.

    Args:
        world: Any world. Every frame is its own drawing: a dream's first frame is decoded too, where the world can
            say where it stands (`present`).
        policy: Any policy.
        starts: First observations of B episodes, with what the world and the policy read.
        keys: int64 [B], the episodes' noise keys; also their seeds in the provenance.
        name: The policy's name.
        kind: What to call the videos; by default "simulator" for a world that starts from SIMULATOR, else "dream".
        steps: Actions per episode; by default the world's horizon.
        batch: Episodes rolled out together; the videos do not depend on it.

    Returns:
        B videos of T + 1 frames.

    Raises:
        InvalidInputError: As the world's `reset`.
        PolicyError: As the policy's `act`.
    """
    kind = kind or ("simulator" if SIMULATOR in world.spec.observes else "dream")
    videos: list[Video] = []
    for first in range(0, len(keys), batch):
        own = {k: v[first : first + batch] for k, v in starts.items()}
        here = keys[first : first + batch]
        actor = Actor(name=name, policy=policy, rows=torch.arange(len(here)))
        played = play(world, [actor], own, here, steps=steps, stream=POLICY_STREAM).played()
        for row, seed in enumerate(here.tolist()):
            rate_hz = world.spec.action.rate_hz
            origin = Provenance(kind=kind, episode=str(first + row), seed=seed, policy=name, rate_hz=rate_hz)
            videos.append(_video(world, origin, played, row, own.get(TRUE_STATE)))
    return Listed(videos)


def _video(world: World, origin: Provenance, played: Played, row: int, first_true: Tensor | None) -> Video:
    true_state = None
    if played.true_state is not None and first_true is not None:
        true_state = torch.cat([first_true[row : row + 1].cpu().float(), played.true_state[row]])
    success = played.success[row, 1:]
    return Video(
        frames=played.frames[world.spec.camera().key][row],
        provenance=origin,
        action=played.action[row],
        proprio=played.proprio[row],
        true_state=true_state,
        progress=played.progress[row],
        success=float(success.max() if world.spec.success_at == "any" else success[-1]),
    )
