"""stable-worldmodel's solvers with worldsim's planner interface.

Shape legend: B episodes, S candidates, H steps, A action width.
"""

import copy
import types
from collections.abc import Mapping
from typing import Any

import gymnasium
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners import Bounds, Limits, Objective, Plan, PlanStats, Search
from worldsim.planners.evaluate import Evaluator
from worldsim.planners.noise import Noise


class SolverPlanner:
    """One of stable-worldmodel's solvers as a worldsim planner, to compare on worldsim's objectives.

    The solver searches around zero in units of its own; those are half ranges of the bounds here, and its candidates are
    clipped before the objective sees them. The better of its plan and the initial one is returned, with its true cost.

    Args:
        solver: Built as usual, with ``model=None``. It is copied for every plan, with all environments in one batch.
        horizon: Steps H of a plan.
    """

    def __init__(self, solver: Any, *, horizon: int) -> None:
        if horizon < 1 or not hasattr(solver, "configure") or not hasattr(solver, "solve"):
            raise InvalidInputError(f"Expected a solver with configure and solve, and horizon >= 1; got {solver!r}.")
        self._solver, self.horizon = solver, horizon

    def plan(
        self,
        objective: Objective,
        *,
        bounds: Any,
        batch: int | None = None,
        initial: Tensor | None = None,
        state: Search | None = None,
        prior: Tensor | None = None,
        keys: Tensor | None = None,
        seed: int = 0,
        limits: Limits | None = None,
        noise: Noise | None = None,
    ) -> Plan:
        """See `worldsim.planners.Planner.plan`; the solver has one stream of noise, so only the first key counts.

        Raises:
            InvalidInputError: Limits or noise, which these solvers cannot be given.
        """
        if limits is not None or noise is not None:
            raise InvalidInputError("A stable-worldmodel solver takes neither limits nor noise from outside.")
        box = Bounds.of(bounds)
        start = initial if initial is not None or state is None else state.mean
        lengths = [len(v) for v in (start, prior, keys) if v is not None]
        b = lengths[0] if lengths else batch or 1
        first = box.low.new_zeros(b, self.horizon, box.dim) if start is None else start.to(box.low)
        first = box.clip(first)
        model = _BoxedModel(objective, box, b)
        seed = seed if keys is None else int(keys[0]) & (2**63 - 1)
        out = self._solve(model, box, (first - box.centre) / box.half, seed)
        found = model.actions(out["actions"].clone().to(first))[:, None]  # a clone: theirs are inference tensors
        others = [] if prior is None else [box.clip(prior.to(first))]
        last = model.evaluate(torch.cat([first[:, None], *others, found], dim=1))
        best = last.pick(last.rank.argmin(1, keepdim=True))
        actions, cost = best.candidates[:, 0], best.cost[:, 0]
        violation = torch.zeros_like(cost) if best.violation is None else best.violation[:, 0]
        std = out["var"][0].clone().to(first) * box.half if "var" in out else box.half.expand_as(first)
        return Plan(
            actions=actions,
            cost=cost,
            violation=violation,
            feasible=cost.isfinite() & (violation <= 0),
            state=Search(mean=actions, std=std, elites=actions[:, None][:, :0]),
            stats=model.stats(),
        )

    def _solve(self, model: "_BoxedModel", box: Bounds, first: Tensor, seed: int) -> dict[str, Any]:
        """Run a copy of the solver on `model`, from a first plan [B, H, A] in its units."""
        b, device = len(first), box.low.device
        solver = copy.copy(self._solver)
        solver.model, solver.batch_size, solver.device = model, b, device
        solver._dtype, solver.torch_gen = box.low.dtype, torch.Generator(device).manual_seed(seed)
        shape = (b, box.dim)
        space = gymnasium.spaces.Box(-1.0, 1.0, shape)
        config = types.SimpleNamespace(
            horizon=self.horizon, receding_horizon=self.horizon, history_len=1, action_block=1, warm_start=True
        )
        solver.configure(action_space=space, n_envs=b, config=config)
        out: dict[str, Any] = solver.solve({"row": torch.arange(b, device=device)[:, None]}, init_action=first)
        return out


class _BoxedModel:
    """A worldsim objective as a cost model over actions in half ranges of the bounds."""

    def __init__(self, objective: Objective, box: Bounds, batch: int) -> None:
        self._objective, self._box = objective, box
        self.evaluate = Evaluator(objective, chunk=0, batch=batch, device=box.low.device)
        self._costs: list[Tensor] = []

    def actions(self, given: Tensor) -> Tensor:
        """Actions inside the bounds."""
        return self._box.clip(self._box.centre + given * self._box.half)

    def get_cost(self, info: Mapping[str, Any], given: Tensor) -> Tensor:
        """Costs [B, S], differentiable where the solver asks for it."""
        if given.requires_grad and torch.is_grad_enabled():
            self.evaluate.evaluations += 3 * given.shape[1]
            scores = self._objective(self.actions(given))
            cost = scores if isinstance(scores, Tensor) else scores[0] + scores[1].clamp_min(0)
            self._costs.append(cost.detach())
            return cost
        scored = self.evaluate(self.actions(given))
        self._costs.append(scored.cost.clone())
        return scored.rank

    def stats(self) -> PlanStats:
        """How the search went."""
        return PlanStats(
            costs=tuple(self._costs),
            non_finite=self.evaluate.non_finite,
            iterations=torch.full_like(self.evaluate.non_finite, len(self._costs)),
            evaluations=self.evaluate.evaluations,
            stopped="iterations",
        )
