"""`check_planner` finds each fault that it is there to find."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from worldsim.noise import fold
from worldsim.planners import Bounds, Plan, make_planner
from worldsim.testing import ContractError, check_planner

GOOD = make_planner("cem", horizon=3, samples=48, iterations=8)


class Good:
    """One of our planners; every fault below changes one thing of it."""

    horizon = 3

    def plan(self, objective: Any, **options: Any) -> Plan:
        return self.changed(GOOD.plan(objective, **options), objective, options)

    def changed(self, plan: Plan, objective: Any, options: dict) -> Plan:
        return plan


def after(change: Callable[[Plan, Any, dict], Plan]) -> Good:
    """Something happens to the plan."""
    return type(
        "Faulty", (Good,), {"changed": lambda self, plan, objective, options: change(plan, objective, options)}
    )()


def before(change: Callable[[Any, dict], tuple[Any, dict]]) -> Good:
    """Something happens to what is asked."""

    def plan(self: Good, objective: Any, **options: Any) -> Plan:
        objective, options = change(objective, options)
        return GOOD.plan(objective, **options)

    return type("Faulty", (Good,), {"plan": plan})()


def with_stats(plan: Plan, **fields: Any) -> Plan:
    return dataclasses.replace(plan, stats=dataclasses.replace(plan.stats, **fields))


def at_cost(plan: Plan, objective: Any, actions: torch.Tensor) -> Plan:
    scores = objective(actions[:, None])
    cost = scores[0] if isinstance(scores, tuple) else scores
    return dataclasses.replace(plan, actions=actions, cost=cost[:, 0])


def drawing(objective: Any, options: dict) -> tuple[Any, dict]:
    torch.rand(1)
    return objective, options


def all_or_none(plan: Plan, objective: Any, options: dict) -> Plan:
    """One episode without a finite cost spoils the plans of all."""
    return plan if bool(plan.cost.isfinite().all()) else dataclasses.replace(plan, actions=options["initial"])


def one_stream(objective: Any, options: dict) -> tuple[Any, dict]:
    keys = options.get("keys")
    return objective, options if keys is None else options | {"keys": fold(torch.arange(len(keys)), int(keys.sum()))}


def nan_is_zero(objective: Any, options: dict) -> tuple[Any, dict]:
    def lenient(actions: torch.Tensor) -> Any:
        scores = objective(actions)
        return scores if isinstance(scores, tuple) else torch.nan_to_num(scores, nan=-1e-10)

    return lenient, options


def unconstrained(objective: Any, options: dict) -> tuple[Any, dict]:
    def alone(actions: torch.Tensor) -> Any:
        scores = objective(actions)
        return scores[0] if isinstance(scores, tuple) else scores

    return alone, options


def scribbling(plan: Plan, objective: Any, options: dict) -> Plan:
    if options.get("prior") is not None and options["prior"].shape[2:] == plan.actions.shape[1:]:
        options["prior"].zero_()
    return plan


def forgiving(objective: Any, options: dict) -> tuple[Any, dict]:
    start = options.get("initial")
    return objective, options if start is None or start.ndim < 3 else options | {"initial": start[:, :3]}


def without(name: str) -> Good:
    return before(lambda objective, options: (objective, {k: v for k, v in options.items() if k != name}))


def refusing(wrong: Callable[[dict], bool]) -> Good:
    def change(objective: Any, options: dict) -> tuple[Any, dict]:
        if wrong(options):
            raise RuntimeError("cannot")
        return objective, options

    return before(change)


COUNT = itertools.count()
FAULTS: dict[str, Any] = {
    "it has plan": object(),
    "8 episodes with asymmetric bounds": refusing(lambda options: Bounds.of(options["bounds"]).dim == 2),
    "no global random generator": before(drawing),
    r"plan.actions is \[B, H, A\]": after(lambda p, f, options: dataclasses.replace(p, actions=p.actions.double())),
    "the plan lies inside": after(lambda p, f, options: at_cost(p, f, p.actions * 10)),
    "every candidate the objective sees": make_planner("cem", horizon=3, samples=48, iterations=8, clip=False),
    "plan.cost is the cost": after(lambda p, f, options: dataclasses.replace(p, cost=p.cost * 1.01)),
    "counts at least what was asked": after(lambda p, f, options: with_stats(p, evaluations=0)),
    "an easy quadratic costs": after(lambda p, f, options: at_cost(p, f, options["initial"])),
    "constant cost keeps the initial plan": dataclasses.replace(GOOD, returns="mean"),
    "a cost to be kept high": after(lambda p, f, options: at_cost(p, f, p.actions.flip(2))),
    "same seed gives": before(lambda f, options: (f, options | {"seed": next(COUNT)})),
    "another seed tries": without("seed"),
    "alone and in a batch": before(one_stream),
    "neighbours' costs": after(all_or_none),
    "NaN costs in a region never reach": before(nan_is_zero),
    r"\+inf costs in a region .* counted": after(
        lambda p, f, options: with_stats(p, non_finite=torch.zeros_like(p.stats.non_finite))
    ),
    "nothing but -inf gives the clipped initial plan": after(
        lambda p, f, options: dataclasses.replace(p, feasible=torch.ones_like(p.feasible))
    ),
    "breaks a constraint is never preferred": before(unconstrained),
    "every plan breaks a constraint": after(
        lambda p, f, options: dataclasses.replace(p, violation=torch.zeros_like(p.violation))
    ),
    r"state=plan.state.shift\(3\) is taken": refusing(lambda options: options.get("state") is not None),
    "what prior= suggests": without("prior"),
    "not written into": after(scribbling),
    "as a budget are kept": without("limits"),
    "deadline of 0": without("limits"),
    "actions of width 1 work": refusing(lambda options: Bounds.of(options["bounds"]).dim == 1),
    "one episode works": refusing(lambda options: len(options.get("initial", ())) == 1),
    "one step too long raises InvalidInputError": before(forgiving),
    "fewer keys than episodes raises": without("keys"),
    "crossed bounds raises": before(
        lambda f, options: (f, options | {"bounds": Bounds(torch.tensor([-0.5, 2.0]), torch.tensor([3.0, 2.4]))})
    ),
}


@dataclasses.dataclass(frozen=True)
class Short(Good):
    """A planner that cannot look one step ahead."""

    horizon: int = 3

    def plan(self, objective: Any, **options: Any) -> Plan:
        if self.horizon == 1:
            raise IndexError("too short")
        return super().plan(objective, **options)


def test_a_good_planner_passes() -> None:
    check_planner(Good())
    check_planner(Good(), at_horizon=lambda h: dataclasses.replace(GOOD, horizon=h))


@pytest.mark.parametrize("clause", FAULTS)
def test_each_fault_is_named(clause: str) -> None:
    with pytest.raises(ContractError, match=clause):
        check_planner(FAULTS[clause])


def test_a_horizon_of_one_is_tried_where_it_can_be() -> None:
    with pytest.raises(ContractError, match=r"horizon of 1 works \(IndexError"):
        check_planner(Short())
    with pytest.raises(ContractError, match="horizon of 1 works"):
        check_planner(Good(), at_horizon=Short)


def test_quality_is_what_the_caller_asks_for() -> None:
    with pytest.raises(ContractError, match="at most 1e-09 of what") as caught:
        check_planner(GOOD, quality=1e-9)
    assert len(caught.value.broken) == 1


def test_a_planner_without_randomness_need_not_follow_the_seed() -> None:
    still = make_planner("gradient", horizon=3, samples=40, iterations=3, starts=1)
    with pytest.raises(ContractError, match="another seed tries other candidates"):
        check_planner(still)
    check_planner(still, seeded=False)


def test_all_broken_clauses_are_listed_together() -> None:
    with pytest.raises(ContractError) as caught:
        check_planner(without("limits"))
    assert len(caught.value.broken) == 2
