"""The one loop: propose, evaluate, learn, in stages; and what it guarantees about the plan it returns.

Whatever the rule: the plan lies inside the bounds; its cost is its own, evaluated once more, and never above that of the
initial plan; an episode's plan does not depend on its neighbours in the batch; a cost that is not finite counts as the
worst and never reaches an action. `worldsim.testing.check_planner` holds all of it.

Shape legend: B episodes, N candidates, H steps, A action width, P suggested candidates.
"""

import dataclasses
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.bounds import Bounds
from worldsim.planners.evaluate import Evaluator, Scored, best_of, better
from worldsim.planners.limits import Halt, Limits
from worldsim.planners.noise import Noise, Streams, episode_keys
from worldsim.planners.objective import Objective
from worldsim.planners.rules.base import Rule, Setting
from worldsim.planners.search import Given, Plan, PlanOptions, PlanStats, Search
from worldsim.planners.splines import Spline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A rule at work for some iterations of N candidates each."""

    rule: Rule
    samples: int
    iterations: int

    def __post_init__(self) -> None:
        if self.samples < 1 or self.iterations < 1:
            raise InvalidInputError(
                f"A stage needs at least one sample and one iteration; got {self.samples} and {self.iterations}."
            )
        self.rule.check(self.samples)

    @property
    def price(self) -> int:
        """Evaluations per episode and iteration."""
        return self.samples * (3 if self.rule.gradient else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planner:
    """Searches action sequences of low cost.

    Attributes:
        horizon: Steps H of a plan.
        stages: Rules in the order they work; see `worldsim.planners.make_planner` for the usual ones by name.
        spline: Write plans by a few knots instead of H actions.
        chunk: Most candidates per episode and call of the objective, 0 for all at once. Where memory is short, and where
            a CPU stores all trajectories: a thousand or so in one call are faster (`benchmarks/plan_speed.py`).
        returns: ``"best"`` of all that was evaluated, or ``"mean"``, the last mean as it is, which gives up the
            guarantee about the initial plan (to reproduce planners that do so).
    """

    horizon: int
    stages: tuple[Stage, ...]
    spline: Spline | None = None
    chunk: int = 0
    returns: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        if self.horizon < 1 or not self.stages or self.chunk < 0:
            raise InvalidInputError(
                f"A planner looks at least one step ahead, in at least one stage, with chunk >= 0; got "
                f"horizon={self.horizon}, {len(self.stages)} stages, chunk={self.chunk}."
            )
        if self.spline is not None:
            self.spline.basis(self.horizon)

    @property
    def evaluations(self) -> int:
        """Candidates evaluated per episode if nothing stops the search early, the last look included."""
        return sum(s.price * s.iterations for s in self.stages) + self.deciding(self.stages[-1])

    def deciding(self, stage: Stage) -> int:
        """Evaluations of the last look after `stage`: what it puts forward, the best so far and the initial plan."""
        finalists = stage.samples if stage.rule.gradient else 1
        return finalists + (2 if self.returns == "best" else 0)

    @torch.no_grad()
    def plan(self, objective: Objective, *, bounds: Any, **options: Unpack[PlanOptions]) -> Plan:
        """Search the best action sequence of each of B episodes.

        Args:
            objective: actions [B, N, H, A] -> costs [B, N], or costs and violations; see `worldsim.planners.objective`.
            bounds: Whatever `Bounds.of` reads. Its device and float type are the plan's.
            options: See `PlanOptions`: batch, initial, state, prior, keys, seed, limits, noise.

        Raises:
            InvalidInputError: Shapes that do not fit together, crossed or infinite bounds, or an objective that gives
                the wrong shape. What the objective itself raises passes through.
        """
        box = Bounds.of(bounds)
        given, keys = Given.read(options, box=box, horizon=self.horizon), options.get("keys")
        keys = episode_keys(given.batch, options.get("seed", 0)) if keys is None else keys
        draw = options.get("noise") or Streams(keys, device=box.low.device, dtype=box.low.dtype)
        return _Run(self, objective, box, given, options.get("limits") or Limits(), draw).plan()


class _Run:
    """One search from beginning to end."""

    def __init__(
        self, planner: Planner, objective: Objective, box: Bounds, given: Given, limits: Limits, noise: Noise
    ) -> None:
        device = box.low.device
        self._planner, self._box, self._given, self._noise = planner, box, given, noise
        self._basis = None if planner.spline is None else planner.spline.basis(planner.horizon)
        self._evaluate = Evaluator(objective, chunk=planner.chunk, batch=given.batch, device=device)
        self._halt = Halt(limits, batch=given.batch, device=device)
        self._limits = limits
        self._best: list[Scored] = []  # leaders, the first of which is the best of its iteration
        self._costs: list[Tensor] = []

    def plan(self) -> Plan:
        """All stages, then a last look at what is worth it."""
        if self._limits.deadline_s is not None:
            first = self._evaluate(self._given.initial[:, None])  # an answer exists before anything costly begins
            self._learn(first, iterations=0)
        search, finalists = self._to_knots(self._given.search), self._given.initial[:, None]
        for stage in self._planner.stages:
            if self._over(stage):
                break
            search, finalists = self._stage(stage, search)
        return self._decide(self._to_actions(search), finalists)

    def _stage(self, stage: Stage, search: Search) -> tuple[Search, Tensor]:
        """One rule's iterations."""
        prior = self._given.prior if not self._costs else self._given.prior[:, :0]
        setting = Setting(
            bounds=self._box,
            noise=self._noise,
            samples=stage.samples,
            iterations=stage.iterations,
            prior=prior if self._basis is None else self._basis.fit(prior),
        )
        memory = stage.rule.begin(search, setting)
        for _ in range(stage.iterations):
            if self._over(stage):
                break
            knots = stage.rule.propose(memory, setting)
            scored = self._evaluate(self._expand(knots), gradient=stage.rule.gradient, active=self._halt.active)
            self._costs.append(scored.cost)
            memory = stage.rule.update(memory, self._in_knots(scored, knots), setting)
            self._learn(scored)
        search, finalists = stage.rule.finish(memory)
        return search, self._box.clip(self._expand(finalists))  # a mean of points on the edge may round beyond it

    def _over(self, stage: Stage) -> bool:
        """Whether another iteration of a stage would be too much; the last look is kept room for."""
        spent = self._evaluate.evaluations + self._planner.deciding(stage)
        return self._halt.reason != "iterations" or self._halt.stop(spent, stage.price)

    def _learn(self, scored: Scored, *, iterations: int = 1) -> None:
        """Remember the best so far, and tell the clock."""
        top, cost = scored.leaders(), None
        if top.violation is not None or self._limits.tolerance is not None:
            top = scored.best(1)
            if self._best:
                top = better(self._best.pop(), top)  # in order, or because the tolerance is judged at once
            cost = top.cost[:, 0]
        self._best.append(top)
        self._halt.note(cost, iterations=iterations)

    def _decide(self, search: Search, finalists: Tensor) -> Plan:
        """Evaluate the last few side by side; the first of equals wins, and the initial plan is the first."""
        initial = self._given.initial[:, None]
        if self._planner.returns == "best":
            found = [best_of(self._best).candidates] if self._best else []
            finalists = torch.cat([initial, *found, finalists], dim=1)
        last = self._evaluate(finalists)
        best = last.pick(last.rank.argmin(1, keepdim=True))
        actions, cost = best.candidates[:, 0], best.cost[:, 0]
        feasible = cost < torch.inf  # a cost that is not finite has become +inf
        if self._planner.returns == "mean":  # else the initial plan is among them, and first where all cost infinity
            actions = torch.where(feasible[:, None, None], actions, initial[:, 0])
        if best.violation is not None:
            feasible = feasible & (best.violation[:, 0] <= 0)
        return Plan(
            actions=actions,
            cost=cost,
            violation=torch.zeros_like(cost) if best.violation is None else best.violation[:, 0],
            feasible=feasible,
            state=dataclasses.replace(search, mean=actions),
            stats=PlanStats(
                costs=tuple(self._costs),
                non_finite=self._evaluate.non_finite,
                iterations=self._halt.iterations,
                evaluations=self._evaluate.evaluations,
                stopped=self._halt.reason,
            ),
        )

    def _expand(self, knots: Tensor) -> Tensor:
        return knots if self._basis is None else self._box.clip(self._basis.expand(knots))

    def _in_knots(self, scored: Scored, knots: Tensor) -> Scored:
        """What was scored, as the rule wrote it."""
        if self._basis is None:
            return scored
        slope = None if scored.gradient is None else self._basis.pull(scored.gradient)
        return dataclasses.replace(scored, candidates=knots, gradient=slope)

    def _to_knots(self, search: Search) -> Search:
        basis = self._basis
        if basis is None:
            return search
        return Search(mean=basis.fit(search.mean), std=basis.fit(search.std), elites=basis.fit(search.elites))

    def _to_actions(self, search: Search) -> Search:
        if self._basis is None:
            return search
        return Search(
            mean=self._expand(search.mean), std=self._basis.spread(search.std), elites=self._expand(search.elites)
        )
