"""The contract of policies, see `worldsim.protocols.Policy`.

Shape legend: n episodes, A action.
"""

import copy

import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation, WorldSpec
from worldsim.errors import InvalidInputError
from worldsim.protocols import Policy
from worldsim.testing.clauses import STEPS, TOLERANCE, Clauses, random_state


def check_policy(policy: Policy, spec: WorldSpec, *, observation: Observation | None = None) -> None:
    """Check a policy against `worldsim.protocols.Policy`.

    Args:
        policy: The policy.
        spec: What the world promises.
        observation: At least 2 rows of the keys it needs; by default noise and zeros in the sizes of `spec`.

    Raises:
        ContractError: Clauses are broken; the message lists them.
    """
    clauses = Clauses()
    if not clauses.hold("it has needs, initial and act", lambda: isinstance(policy, Policy)):
        clauses.settle(policy)
    clauses.hold(
        "needs is a frozenset of strings",
        lambda: isinstance(policy.needs, frozenset) and all(isinstance(k, str) for k in policy.needs),
    )
    clauses.settle(policy)
    seen = _plausible(spec) if observation is None else {k: v[:3] for k, v in observation.items()}
    clauses.hold(
        f"the observation holds what it needs ({', '.join(sorted(policy.needs))})", lambda: policy.needs <= seen.keys()
    )
    clauses.settle(policy)
    seen = {k: seen[k] for k in policy.needs}
    _check_acting(clauses, policy, spec.action.dim, seen)
    clauses.settle(policy)


def _check_acting(clauses: Clauses, policy: Policy, dim: int, seen: Observation) -> None:
    """Run a few steps, again, and with one episode alone."""
    n = len(next(iter(seen.values()))) if seen else 3
    keys = torch.tensor([11, 2**40 + 5, 13])[:n]

    def run(rows: slice) -> list[Tensor]:
        return _run(policy, {k: v[rows] for k, v in seen.items()}, keys[rows])

    drawn, everyone = random_state(), slice(None)
    if not clauses.hold("initial and act run, and leave the observation as it is", lambda: bool(run(everyone))):
        return
    first = run(everyone)
    clauses.hold(
        f"an action is a float tensor [{n}, {dim}]",
        lambda: all(a.is_floating_point() and tuple(a.shape) == (n, dim) for a in first),
    )
    clauses.hold("actions are finite", lambda: all(bool(a.isfinite().all()) for a in first))
    clauses.hold("no global random generator is drawn from", lambda: drawn == random_state())
    clauses.hold(
        "all memory is in the carry and all noise in the keys: a second run acts the same",
        lambda: all(torch.equal(a, b) for a, b in zip(first, run(everyone), strict=True)),
    )
    clauses.hold(
        "an episode alone and in a group acts the same",
        lambda: all(
            torch.allclose(a[1:2], b, atol=TOLERANCE, rtol=TOLERANCE)
            for a, b in zip(first, run(slice(1, 2)), strict=True)
        ),
    )


def _run(policy: Policy, seen: Observation, keys: Tensor) -> list[Tensor]:
    """The actions of a few steps on an observation that stays."""
    own, carry = {k: v.clone() for k, v in seen.items()}, policy.initial(len(keys))
    actions = []
    for t in range(STEPS):
        action, carry = policy.act(own, copy.deepcopy(carry), keys + t)
        actions.append(action)
    if any(not torch.equal(own[k], seen[k]) for k in own):
        raise InvalidInputError("act changed the observation it was given")
    return actions


def _plausible(spec: WorldSpec) -> dict[str, Tensor]:
    """Three rows of every observation a world of this spec may give."""
    noise = torch.Generator().manual_seed(0)
    return {
        **{
            camera.key: torch.randint(0, 256, (3, *camera.size, 3), dtype=torch.uint8, generator=noise)
            for camera in spec.cameras
        },
        STATE: torch.rand((3, spec.proprio_dim), generator=noise) * 0.1,
        TRUE_STATE: torch.tensor([[0.1, 0.0, 1.0, 0.0], [0.0, 0.1, 0.0, 1.0], [-0.1, 0.1, 1.0, 0.0]]),
    }
