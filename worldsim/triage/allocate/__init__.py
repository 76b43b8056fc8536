"""Allocators: which (policy, episode) pairs to roll out next.

An allocator is a config and nothing else. Every decision is a function of the config and of the evidence, never of the
order in which rollouts finished, so a run that was killed continues to the same end. Rollouts that are already in the
evidence are never asked for again. Sequential halving for small budgets and few barriers; Thompson sampling for large
ones; KL-LUCB to stop as soon as the answer is certain; uniform allocation as the baseline.
"""

from collections.abc import Callable, Mapping

from worldsim.errors import unknown_name
from worldsim.triage.allocate.allocators import KLLUCB, SequentialHalving, TopTwoThompson, Uniform

__all__ = [
    "ALLOCATORS",
    "KLLUCB",
    "AnyAllocator",
    "SequentialHalving",
    "TopTwoThompson",
    "Uniform",
    "make_allocator",
]

AnyAllocator = Uniform | SequentialHalving | KLLUCB | TopTwoThompson

_MAKERS: Mapping[str, Callable[[int, int, float, float, int], AnyAllocator]] = {
    "uniform": lambda k, budget, alpha, epsilon, seed: Uniform(budget=budget),
    "halving": lambda k, budget, alpha, epsilon, seed: SequentialHalving(k=k, budget=budget),
    "kl-lucb": lambda k, budget, alpha, epsilon, seed: KLLUCB(k=k, budget=budget, alpha=alpha, epsilon=epsilon),
    "thompson": lambda k, budget, alpha, epsilon, seed: TopTwoThompson(k=k, budget=budget, seed=seed),
}
ALLOCATORS: tuple[str, ...] = tuple(_MAKERS)
"""Names that `make_allocator` knows."""


def make_allocator(
    name: str, *, k: int, budget: int, alpha: float = 0.05, epsilon: float = 0.0, seed: int = 0
) -> AnyAllocator:
    """Build an allocator by name; settings that an allocator has no use for are ignored.

    Args:
        name: One of `ALLOCATORS`.
        k: How many best policies are asked for.
        budget: Rollouts in all.
        alpha: Probability of a wrong statement, for allocators that stop by themselves.
        epsilon: Difference in success rate that does not matter, 0..1, for the same.
        seed: For allocators that draw.

    Raises:
        UnknownNameError: There is no such allocator.
    """
    if name not in _MAKERS:
        raise unknown_name("allocator", name, _MAKERS)
    return _MAKERS[name](k, budget, alpha, epsilon, seed)
