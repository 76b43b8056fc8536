"""What every policy promises about its inputs and outputs, checked once at its door.

Not for limits of actions: clipping belongs to `worldsim.actions.ActionSpec`.
"""

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import PolicyError
from worldsim.types import Observation


def require(observation: Observation, needs: frozenset[str], *, policy: str) -> None:
    """Check that an observation holds what a policy reads.

    Args:
        observation: What the world gave.
        needs: Keys the policy reads.
        policy: The policy's name, for the message.

    Raises:
        PolicyError: A key is missing; the message names it and what is there.
    """
    missing = sorted(needs - observation.keys())
    if missing:
        raise PolicyError(
            f"Policy {policy} needs {', '.join(map(repr, missing))}, which this world does not give; it gives "
            f"{', '.join(map(repr, sorted(observation))) or 'nothing'}. Use a world that has it, or another policy."
        )


def checked_action(value: object, *, policy: str, n: int, dim: int | None = None) -> Tensor:
    """Turn what a policy returned into actions, or say what is wrong with it.

    Args:
        value: A tensor, an array, or nested sequences of numbers; expected shape [n, A].
        policy: The policy's name, for the message.
        n: Episodes asked for.
        dim: Action width A, where it is known.

    Returns:
        float32 [n, A] on the CPU or wherever `value` was.

    Raises:
        PolicyError: Not numbers, another shape, or a value that is NaN or infinite.
    """
    if isinstance(value, Tensor):
        action = value.detach()
    else:
        try:
            action = torch.from_numpy(np.array(value, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise PolicyError(
                f"Policy {policy} returned {type(value).__name__}, which is no array of numbers ({error}); expected "
                f"actions of shape [{n}, {dim or 'A'}]."
            ) from error
    width = dim if dim is not None else (action.shape[-1] if action.ndim else 0)
    if action.is_complex() or tuple(action.shape) != (n, width) or width == 0:
        raise PolicyError(
            f"Policy {policy} returned actions of shape {tuple(action.shape)} ({action.dtype}) for {n} episodes; "
            f"expected [{n}, {dim or 'A'}] real numbers. Return one action per episode."
        )
    bad = (~action.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise PolicyError(
            f"Policy {policy} returned NaN or infinity for {len(bad)} of {n} episodes (first at row {bad[0]}). "
            "Its weights or its input normalisation are broken."
        )
    return action.float()
