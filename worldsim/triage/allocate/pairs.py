"""Pairs of (policy, episode) still to roll out, and the checks every allocator shares."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence

Pairs = list[tuple[int, int]]
"""(policy index, episode index) of each rollout asked for."""


def missing(evidence: Evidence, policies: Sequence[int] | NDArray[np.int64], stop: int, *, start: int = 0) -> Pairs:
    """Return what `policies` have not yet rolled out of episodes start..stop-1.

    Returns:
        Pairs episode by episode, within one in the order of `policies`: cut anywhere, all policies have seen the same
        episodes to within one.
    """
    index = np.asarray(policies, dtype=np.int64)
    columns, rows = np.nonzero(np.isnan(evidence.success[:, start:stop][index]).T)
    return list(zip(index[rows].tolist(), (columns + start).tolist(), strict=True))


def check_counts(what: str, *, k: int, budget: int, policies: int) -> None:
    """Check that k policies can be sought among `policies` with `budget` rollouts.

    Raises:
        InvalidInputError: k is below 1, or the budget does not give every policy one rollout.
    """
    if k < 1:
        raise InvalidInputError(f"{what} needs k of at least 1; got {k}.")
    if budget < policies:
        raise InvalidInputError(
            f"{what} needs at least one rollout for each of {policies} policies; the budget is {budget}. "
            f"Raise the budget to {policies} or more, or give fewer policies."
        )
