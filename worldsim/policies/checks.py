"""Checks of what a policy is given and of what it returns; limits of actions belong to `worldsim.actions`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.core import Observation
from worldsim.errors import PolicyError


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
        array = _array(value)
        if array is None or array.dtype.kind not in "biuf":
            raise PolicyError(
                f"Policy {policy} returned {type(value).__name__}, which is no array of real numbers; expected "
                f"actions of shape [{n}, {dim or 'A'}]."
            )
        with np.errstate(over="ignore"):
            action = torch.from_numpy(array.astype(np.float32))
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


def _array(value: object) -> NDArray[np.generic] | None:
    """`value` as an array, or None where its rows are ragged."""
    try:
        return np.asarray(value)
    except ValueError:
        return None
