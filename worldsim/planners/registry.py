"""The usual planners by name, each a few settings of the one loop.

Shape legend: none; this file only puts rules together.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.planners.planner import Planner, Stage
from worldsim.planners.rules.base import Rule
from worldsim.planners.rules.gradient import Gradient
from worldsim.planners.rules.sampling import CEM, MPPI, CategoricalCEM, Predictive, Random, Weighted

RULES: Mapping[str, Callable[..., Rule]] = {
    "cem": lambda **o: CEM(**{"beta": 0.0, "keep": 0} | o),
    "icem": lambda **o: CEM(**{"beta": 2.0, "keep": 5, "momentum": 0.1} | o),
    "weighted": Weighted,
    "mppi": MPPI,
    "predictive": Predictive,
    "random": Random,
    "categorical": CategoricalCEM,
    "gradient": Gradient,
}
"""Rules that work alone. ``"hybrid"`` is made of two, and ``"cma"`` loads its library on demand."""


def planner_names() -> list[str]:
    """Names `make_planner` knows."""
    return sorted([*RULES, "cma", "hybrid"])


def make_planner(
    name: str = "weighted", *, horizon: int, samples: int = 512, iterations: int = 5, **options: Any
) -> Planner:
    """Build a planner by name.

    Args:
        name: ``"weighted"`` is the gradient-free default, ``"hybrid"`` the best where the cost has gradients.
        horizon: Steps H of a plan.
        samples: Candidates N per iteration. `samples x iterations` is the budget for every name alike: planners that
            follow gradients make as many steps as it pays for, at 3 evaluations a step and start.
        iterations: Iterations.
        **options: Fields of the rule, and `spline`, `chunk`, `returns` of the planner; for ``"hybrid"`` also those of
            `hybrid`.

    Raises:
        UnknownNameError: No planner of that name.
        InvalidInputError: An option that the rule does not have, or values that do not fit together.
    """
    if name not in planner_names():
        raise unknown_name("planner", name, planner_names())
    own = {k: options.pop(k) for k in ("spline", "chunk", "returns") if k in options}
    try:
        stages = _stages(name, samples, iterations, options)
    except TypeError as error:
        raise InvalidInputError(f"Planner {name!r} does not take these options: {error}") from error
    return Planner(horizon=horizon, stages=stages, **own)


def _stages(name: str, samples: int, iterations: int, options: dict[str, Any]) -> tuple[Stage, ...]:
    if samples < 1 or iterations < 1:
        raise InvalidInputError(f"samples and iterations are at least 1; got {samples} and {iterations}.")
    if name == "hybrid":
        return hybrid(samples * iterations, **options)
    if name == "gradient":
        starts = options.pop("starts", 8)
        return (descent(samples * iterations, starts, Gradient(**options)),)
    if name == "cma":
        from worldsim.planners.rules.cma import CMA

        return (Stage(rule=CMA(**options), samples=samples, iterations=iterations),)
    return (Stage(rule=RULES[name](**options), samples=samples, iterations=iterations),)


def hybrid(
    budget: int, *, explore: float = 0.4, starts: int = 4, lr: float = 0.07, std: float = 2.0, beta: float = 3.0
) -> tuple[Stage, ...]:
    """One wide smooth sample, gradient descent from many candidates, then from the best few of those.

    Refining begins before the distribution collapses: after several sampling iterations all elites sit in one basin.

    Args:
        budget: Evaluations per episode.
        explore: Share of the budget that is sampled.
        starts: Candidates refined to the end; six times as many are tried for a while. Fewer where the budget is small.
        lr: Step of the descent, in half ranges.
        std: Spread of the sample in half ranges; 2 puts much of it at the bounds.
        beta: Exponent of its spectrum.

    Raises:
        InvalidInputError: A share or a number of starts that leaves nothing to do.
    """
    if not 0 < explore < 1 or starts < 1:
        raise InvalidInputError(f"explore is in (0, 1) and starts at least 1; got {explore} and {starts}.")
    wide = max(2, round(budget * explore))
    keep = min(starts, wide // 2)
    sampler = Weighted(elites=max(1, min(6 * starts, wide // 4)), keep=keep, std=std, beta=beta)
    stages = [Stage(rule=sampler, samples=wide, iterations=1)]
    left = budget - wide
    if left // (3 * starts) > 2 * _STEPS:
        stages.append(descent(round(0.4 * left), 6 * starts, Gradient(lr=lr, final=1.0, beta=beta)))
        left -= stages[-1].price * stages[-1].iterations
    return (*stages, descent(left, starts, Gradient(lr=lr, beta=beta)))


def descent(budget: int, starts: int, rule: Gradient) -> Stage:
    """A stage of gradient descent that costs at most `budget` evaluations; gives up starts before steps."""
    steps = max(1, budget // (3 * starts))
    if steps < _STEPS:
        starts = max(1, min(starts, budget // (3 * _STEPS)))
        steps = max(1, budget // (3 * starts))
    return Stage(rule=rule, samples=starts, iterations=steps)


_STEPS = 6
"""Fewer steps than this move a plan nowhere; fewer starts are then better."""


def with_horizon(planner: Planner, horizon: int) -> Planner:
    """The same planner looking `horizon` steps ahead."""
    return dataclasses.replace(planner, horizon=horizon)
