"""Policies at work in a world, learned or simulated, with everything kept: frames, actions, what the world says.

Rows of one batch may belong to different policies; one world steps them all. The first policy that fails ends it. Not
for files (`worldsim.data.collect.rollouts`), and not for judging policies, where frames are drawn only for those who look and a
crash must not stop the others (`worldsim.triage`).

Shape legend: B episodes, T steps, n rows of one policy, H W image, P proprio, A action, E true state.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Observation, Rows, WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.protocols import Filterable, Policy, World, observe, require_drawable

POLICY_STREAM = 0xAC7
"""Separates the policies' noise from the world's, which both grow from the episode's key."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Actor:
    """A policy and the episodes it plays.

    Attributes:
        name: For messages.
        policy: What acts.
        rows: int64 [n], its rows in the batch.
    """

    name: str
    policy: Policy
    rows: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played(Rows):
    """B episodes of T actions and the T + 1 observations around them, on the CPU.

    What the world says of the first observation is nan where it cannot tell (it has no `present`).
    """

    frames: Tensor  # uint8 [B, T + 1, H, W, 3]
    proprio: Tensor  # float32 [B, T + 1, P], physical units
    action: Tensor  # float32 [B, T, A], physical units, within the limits
    success: Tensor  # float32 [B, T + 1], probability in 0..1 that the task stands solved
    progress: Tensor  # float32 [B, T + 1], 0..1
    true_state: Tensor | None = None  # float32 [B, T, E], after each action; only simulators and state worlds


@torch.no_grad()
def play(
    world: World,
    actors: Sequence[Actor],
    starts: Observation,
    keys: Tensor,
    *,
    steps: int,
    stream: int = POLICY_STREAM,
) -> Played:
    """Play episodes to their end.

    Args:
        world: Any world that draws. Every frame is its own drawing: a dream's first frame is decoded too, where the
            world can say where it stands (`present`); policies see what is kept.
        actors: Who plays; every row belongs to one of them.
        starts: First observations of B episodes, with what the world and the policies read.
        keys: int64 [B], the episodes' noise keys.
        steps: Actions per episode.
        stream: Separates the policies' noise from the world's.

    Raises:
        InvalidInputError: As the world's `reset` and `decode`; a policy needs what the world does not give, or its
            actions are misshapen or not finite. It is named.
        PolicyError: As the policies' `act`.
    """
    state = world.reset(starts, keys)
    frame, progress, success = _beginning(world, state, starts)
    seen: Observation = {**starts, IMAGE: frame}
    needs = frozenset({IMAGE}).union(*(a.policy.needs for a in actors))
    parts = [_Part(a, world.spec.action) for a in actors]
    policy_keys = fold(keys, stream)
    frames, played, actions = [frame.cpu()], list[WorldStep](), list[Tensor]()
    for t in range(steps):
        keys_B = fold(policy_keys, t)
        action_BA = torch.empty(len(keys), world.spec.action.dim)
        for part in parts:
            action_BA[part.rows] = part.act(seen, keys_B)
        state, step = world.step(state, action_BA)
        seen = observe(world, step, needs)
        frames.append(seen[IMAGE].cpu())
        played.append(step)
        actions.append(action_BA)
    first = (starts[STATE].float(), success, progress)
    proprio, success, progress = (
        torch.stack([begun.cpu(), *(getattr(s, name).cpu() for s in played)], dim=1)
        for begun, name in zip(first, ("proprio", "success", "progress"), strict=True)
    )
    told = [s.true_state.cpu() for s in played if s.true_state is not None]
    return Played(
        frames=torch.stack(frames, dim=1),
        proprio=proprio,
        action=torch.stack(actions, dim=1),
        success=success,
        progress=progress,
        true_state=torch.stack(told, dim=1) if len(told) == steps else None,
    )


class _Part:
    """One policy's rows and carry."""

    def __init__(self, actor: Actor, action: ActionSpec) -> None:
        self.rows, self._actor, self._action = actor.rows, actor, action
        self._carry: Any = actor.policy.initial(len(actor.rows))

    def act(self, seen: Observation, keys: Tensor) -> Tensor:
        """Actions [n, A]; the rows given are copies, so that no policy can write into the world's own state."""
        name, policy = self._actor.name, self._actor.policy
        missing = sorted(policy.needs - seen.keys())
        if missing:
            raise InvalidInputError(f"{name!r} needs {', '.join(missing)}, which is not given here. Leave it out.")
        own = {k: seen[k][self.rows] for k in policy.needs}
        given, self._carry = policy.act(own, self._carry, keys[self.rows])
        return checked(given, self._action, name=name, n=len(self.rows)).cpu().float()


def checked(given: Tensor, action: ActionSpec, *, name: str, n: int) -> Tensor:
    """Finite actions [n, A], brought within the limits.

    Args:
        given: What a policy returned.
        action: Meaning of the actions.
        name: The policy's, for messages.
        n: How many actions are due.

    Raises:
        InvalidInputError: Another shape, or NaN or infinity.
    """
    try:
        if given.shape != (n, action.dim):
            raise InvalidInputError(f"actions of shape {tuple(given.shape)}, expected ({n}, {action.dim}).")
        return action.check(given)
    except InvalidInputError as error:
        raise InvalidInputError(f"Behaviour {name!r}: {error}") from error


def _beginning(world: World, state: WorldState, starts: Observation) -> tuple[Tensor, Tensor, Tensor]:
    """First frame [B, H, W, 3], progress [B] and success [B], as far as the world can say."""
    if not isinstance(world, Filterable):
        unknown = torch.full((state.batch,), float("nan"))
        return starts[IMAGE], unknown, unknown
    present = world.present(state)
    return require_drawable(world).decode(present.latent), present.progress, present.success
