"""Candidates from a policy: a checkpoint proposes, the planner tries its proposals among its own, or only ranks them.

Shape legend: n episodes, P proposals, H steps, A action width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.core import WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.protocols import Filterable, Policy, World, observe

_STREAM = 0x9A0


def policy_prior(
    policy: Policy, *, horizon: int, proposals: int = 1, repeat: int = 1
) -> Callable[[World, WorldState], Tensor]:
    """What a policy would do from here, imagined in the world, as candidates for a search.

    Each proposal has its own noise keys, so a policy that samples proposes different things. With a planner that only
    samples the prior (`make_planner("random", samples=P + 1, iterations=1)`), this is best-of-P over the policy's own
    actions, ranked in the world.

    Args:
        policy: Who proposes. Its own carry begins again at every plan.
        horizon: Steps H of the planner.
        proposals: P.
        repeat: Steps of the world for which the planner holds each action; every `repeat`-th of the policy's is taken.

    Returns:
        (world, state) -> candidates [n, P, H, A] in physical units.
    """

    def propose(world: World, state: WorldState) -> Tensor:
        """The policy's actions [n, P, H, A] from where `state` stands."""
        if world.spec.actions_per_step > 1:
            raise InvalidInputError(
                f"This world takes {world.spec.actions_per_step} actions a step and predicts nothing in between, so a policy "
                "cannot propose single actions in it. Plan without a prior."
            )
        n = state.batch
        many = state.repeat(proposals)
        keys = fold(many.key, torch.arange(proposals).repeat(n) + _STREAM)
        carry, actions = policy.initial(n * proposals), []
        step = _present(world, many)
        with torch.no_grad():
            for t in range(horizon * repeat):
                action, carry = policy.act(observe(world, step, policy.needs), carry, fold(keys, t))
                many, step = world.step(many, action)
                actions.append(action)
        return torch.stack(actions[::repeat], dim=1).unflatten(0, (n, proposals))

    return propose


def _present(world: World, state: WorldState) -> WorldStep:
    """What a policy would see now."""
    if not isinstance(world, Filterable):
        raise InvalidInputError(
            f"{type(world).__name__} has no `present(state)`, so a policy cannot be asked what it would do from here."
        )
    return world.present(state)
