"""Videos of a policy at work in a world, learned or simulated; through the protocols only.

Not for many policies at once (`worldsim.triage`).

Shape legend: B episodes, T steps, T + 1 frames.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldsim.noise import fold
from worldsim.protocols import Policy, World, observe
from worldsim.reason.sources import Listed
from worldsim.reason.video import Kind, Provenance, Video
from worldsim.types import IMAGE, SIMULATOR, STATE, TRUE_STATE, Observation, Rollout, WorldState, WorldStep

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
    told = SIMULATOR in getattr(world, "observes", ())
    kind = kind or ("simulator" if told else "dream")
    videos: list[Video] = []
    for first in range(0, len(keys), batch):
        rows = slice(first, first + batch)
        own = {k: v[rows] for k, v in starts.items()}
        start, rollout, frame_bhwc = _roll(world, policy, own, keys[rows], steps or world.spec.horizon)
        frames_bthwc = torch.cat([frame_bhwc[:, None].cpu(), world.decode(rollout.latent).cpu()], dim=1)
        for row in range(len(frame_bhwc)):
            number = first + row
            origin = Provenance(kind=kind, episode=str(number), seed=int(keys[number]), policy=name)
            videos.append(_video(world, origin, frames_bthwc[row], start, rollout, row))
    return Listed(videos)


@torch.no_grad()
def _roll(
    world: World, policy: Policy, starts: Observation, keys: Tensor, steps: int
) -> tuple[Mapping[str, Tensor], Rollout, Tensor]:
    """First observation, rollout [B, T, ...] and first frame [B, H, W, 3]."""
    state = world.reset(starts, keys)
    present: WorldStep | None = _present(world, state)
    frame = starts[IMAGE] if present is None else world.decode(present.latent)
    seen: Observation = {**starts, IMAGE: frame}
    carry, policy_keys = policy.initial(len(keys)), fold(keys, POLICY_STREAM)
    played, actions = [], []
    for t in range(steps):
        needed = {k: seen[k] for k in policy.needs if k in seen}
        action, carry = policy.act(needed, carry, fold(policy_keys, t))
        state, step = world.step(state, action)
        seen = observe(world, step, policy.needs)
        played.append(step)
        actions.append(action)
    begun = {**starts, "progress": torch.full((len(keys),), float("nan")) if present is None else present.progress}
    return begun, Rollout.stack(played, torch.stack(actions, dim=1)), frame


def _present(world: World, state: WorldState) -> WorldStep | None:
    """Where the episodes stand, if the world can say."""
    ask = getattr(world, "present", None)
    return ask(state) if callable(ask) else None


def _video(
    world: World, origin: Provenance, frames: Tensor, start: Mapping[str, Tensor], rollout: Rollout, row: int
) -> Video:
    first_true = start.get(TRUE_STATE)
    true_state = None
    if rollout.true_state is not None and first_true is not None:
        true_state = torch.cat([first_true[row : row + 1].cpu().float(), rollout.true_state[row].cpu()])
    success = rollout.success[row]
    return Video(
        frames=frames,
        provenance=origin,
        action=rollout.action[row].cpu().float(),
        proprio=torch.cat([start[STATE][row : row + 1].cpu().float(), rollout.proprio[row].cpu()]),
        true_state=true_state,
        progress=torch.cat([start["progress"][row : row + 1].cpu(), rollout.progress[row].cpu()]),
        success=float(success.max() if world.spec.success_at == "any" else success[-1]),
    )
