"""What is measured of rollouts beside their outcomes: actions at limits, steps that the world was not trained on, first movement.

Shape legend: B episodes, T actions, S steps of the world, s actions a step, H W image, P proprio, A action, E true state.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.validity.coverage import Coverage
from worldsim.video import Frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmedRow:
    """One filmed rollout.

    Attributes:
        row: Of the batch.
        frames: uint8 [T + 1, H, W, 3], beginning with the start.
        success: As the run judges it; None where its judge is not loaded.
        rate_hz: Frames per second.
        at_limits: Share of the numbers of its actions that lie at a limit or beyond, where they are clipped.
        closest_at: Action after which progress was largest.
        moved_at: Action after which an object first moved; None where that is not known.
    """

    row: int
    frames: Frames
    success: float | None
    rate_hz: float
    at_limits: float = 0.0
    closest_at: int = 0
    moved_at: int | None = None


def share_at_limits(action_B: Tensor, spec: ActionSpec) -> Tensor:
    """Share [B] of the numbers of each row's actions [B, ..., A] that lie at a limit or beyond it; choices, which have no limits, aside."""
    free_A = torch.tensor([not part.is_discrete for part in spec.parts for _ in range(part.size)])
    low_A, high_A = torch.tensor(spec.low), torch.tensor(spec.high)
    at_B = ((action_B <= low_A) | (action_B >= high_A))[..., free_A].flatten(1)
    return at_B.float().mean(1) if at_B.shape[1] else torch.zeros(len(action_B))


_STILL = 0.02
"""Share of its largest departure in an episode from which a true state counts as moved."""


def find_movement(state_TE: Tensor) -> int | None:
    """The action after which the task's objects first move.

    Args:
        state_TE: True state after each action, [T, E].

    Returns:
        From 2 on; None where nothing moves, or where something does from the first action on: that is no touch.
    """
    away_T = (state_TE - state_TE[0]).abs().amax(dim=1)
    moved = (away_T > _STILL * away_T.max()).nonzero().flatten().tolist()
    return moved[0] + 1 if moved and moved[0] > 1 else None


def share_outside(coverage: Coverage, first_BP: Tensor, proprio_BSP: Tensor, action_B: Tensor) -> Tensor:
    """Share [B] of each row's actions that were taken where the training data hardly is, by proprioception and action.

    Args:
        coverage: Of the training data.
        first_BP: Proprioception at the start.
        proprio_BSP: Proprioception after each step.
        action_B: Actions [B, S, A] or [B, S, s, A], physical units.
    """
    before = torch.cat([first_BP[:, None].to(proprio_BSP), proprio_BSP[:, :-1]], dim=1)
    if action_B.ndim == 4:
        before = before.repeat_interleave(action_B.shape[2], dim=1)  # a step shows its last state only
    rows = [part.double().cpu().flatten(0, -2).numpy() for part in (before, action_B)]
    return torch.from_numpy(coverage.outside(*rows)).float().reshape(len(action_B), -1).mean(1)
