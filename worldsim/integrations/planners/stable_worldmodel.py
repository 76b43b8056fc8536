"""stable-worldmodel both ways: worldsim planners as its solvers, its cost models as objectives, its solvers as planners.

Everything here follows the shape of its protocols, so the library itself is not imported and need not be installed.

    solver = CEMSolver(model=model, num_samples=300, n_steps=30, topk=30)            # before
    solver = WorldsimSolver(model=model, num_samples=300, n_steps=30, topk=30)       # after

Shape legend: B environments, S candidates, H steps of a plan, A width of a step: action width x action_block.
"""

import copy
import types
from collections.abc import Mapping
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.planners import Bounds, Objective, Plan, Planner, PlanStats, Search, make_planner
from worldsim.planners.evaluate import Evaluator
from worldsim.planners.noise import Noise, episode_keys
from worldsim.planners.registry import with_horizon
from worldsim.planners.search import Given, PlanOptions

_FAR = 2.0**20
"""Half width of a box that nothing reaches; a power of two, so that scaling by it loses no bit."""
_SPELLINGS: Mapping[str, str] = {
    "topk": "elites",
    "var_scale": "std",
    "noise_beta": "beta",
    "n_elite_keep": "keep",
    "alpha": "momentum",
}
"""Their names for options of the sampling rules; `var_scale` scales a standard deviation, whatever it is called."""
_ELITELESS = ("gradient", "hybrid", "cma", "random", "predictive", "mppi")
"""Planners that `topk` says nothing to."""


class WorldsimSolver:
    """A worldsim planner that stable-worldmodel's policies can use as their solver.

    Unlike the solvers it replaces, candidates stay inside the bounds, all environments are planned in one batch, and an
    environment's plan does not depend on its neighbours. `costs` are those of the plans, not the elites' average.

    Args:
        model: Anything with `get_cost(info, actions)`; with `get_action` too, it completes a warm start.
        planner: A name that `worldsim.planners.make_planner` knows, or a planner; its horizon is set by `configure`.
        batch_size: Environments planned at once where memory is short; None for all. It does not change the plans.
        num_samples: Candidates per iteration.
        n_steps: Iterations.
        topk: Elites, where the planner has them.
        device: Where to plan.
        seed: Each call of `solve` draws new noise, in an order that depends on this seed alone.
        bounds: In the units that the model reads; by default those of the action space that `configure` is given.
        scaler: The scaler (`mean_`, `scale_`) between the action space and the model, the policy's
            ``process["action"]``: without it a box in environment units would be laid over standardised actions.
        reproduce: Give the plans of their CEMSolver bit for bit, weaknesses included: nothing is clipped or kept, the
            mean of the last elites is returned unseen, and one stream of noise serves all environments, so that here
            `batch_size` matters as it does there (there it is 1 by default).
        **options: Further options of `make_planner`; `var_scale`, `noise_beta`, `n_elite_keep` and `alpha` are
            understood as well.

    Raises:
        InvalidInputError: Options that do not fit together or that the planner does not have.
    """

    def __init__(
        self,
        model: Any,
        *,
        planner: str | Planner = "weighted",
        batch_size: int | None = None,
        num_samples: int = 300,
        n_steps: int = 30,
        topk: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 1234,
        bounds: Any = None,
        scaler: Any = None,
        reproduce: bool = False,
        **options: Any,
    ) -> None:
        if topk is not None and planner not in _ELITELESS:
            options["topk"] = topk
        if options and isinstance(planner, Planner):
            raise InvalidInputError(f"A finished planner takes no options; got {sorted(options)}. Give them to it.")
        options = {_SPELLINGS.get(key, key): value for key, value in options.items()}
        self.model, self.batch_size, self.device, self.seed = model, batch_size, torch.device(device), seed
        self._dtype = dtype_of(model)
        self._given, self._scaler, self._solves = bounds, scaler, 0
        self._stream: torch.Generator | None = None
        if reproduce:
            planner, options = _their_cem(planner, options)
            self._given, self._scaler = (-_FAR, _FAR), None
            self._stream = torch.Generator(self.device).manual_seed(seed)
        if isinstance(planner, Planner):
            self._planner = planner
        else:
            self._planner = make_planner(planner, horizon=1, samples=num_samples, iterations=n_steps, **options)
        self.plan: Plan | None = None  # the last batch's, with its statistics

    def configure(self, *, action_space: Any, n_envs: int, config: Any) -> None:
        """Learn the sizes, once, before the first `solve`.

        Args:
            action_space: Box [n_envs, ...] of the vector environment.
            n_envs: Environments.
            config: Has `horizon` and `action_block`.

        Raises:
            InvalidInputError: An unbounded space, and no `bounds` given.
        """
        self._n_envs, self._config = n_envs, config
        self._width = int(np.prod(action_space.shape[1:]))
        self._planner = with_horizon(self._planner, config.horizon)
        given = self._given
        if given is None:
            given = (np.ravel(action_space.low[0]), np.ravel(action_space.high[0]))
        elif self._stream is not None:
            given = tuple(torch.full((self._width,), value) for value in given)
        box = Bounds.of(given)
        if self._scaler is not None:
            box = box.scaled(self._scaler.mean_, self._scaler.scale_)
        box = box if box.dim == self.action_dim else box.block(config.action_block)
        self._bounds = box.to(device=self.device, dtype=self._dtype)

    @property
    def action_dim(self) -> int:
        """Width A of a step, all actions of a block side by side."""
        return self._width * int(self._config.action_block)

    @property
    def n_envs(self) -> int:
        """Environments that were configured; `solve` takes any number of them."""
        return self._n_envs

    @property
    def horizon(self) -> int:
        """Steps H of a plan."""
        return self._planner.horizon

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See `solve`."""
        return self.solve(*args, **kwargs)

    def solve(self, info_dict: Mapping[str, Any], init_action: Tensor | None = None) -> dict[str, Any]:
        """Plan.

        Args:
            info_dict: What the model needs to know, B entries per value.
            init_action: The plan so far, [B, up to H, A].

        Returns:
            `actions` [B, H, A] on the CPU, `costs` as B floats, and `mean` and `var`: the plan and the search's last
            standard deviation, each in a list of one.
        """
        total = len(next(iter(info_dict.values())))
        first = self._complete(info_dict, init_action, total).to(device=self.device, dtype=self._dtype)
        keys = fold(episode_keys(total, self.seed), self._solves)
        self._solves += 1
        plans = []
        for begin in range(0, total, self.batch_size or total):
            rows = slice(begin, begin + (self.batch_size or total))
            info = {key: _rows(value, rows) for key, value in info_dict.items()}
            self.plan = self._planner.plan(
                CostObjective(self.model, info, device=self.device, dtype=self._dtype),
                bounds=self._bounds,
                initial=first[rows],
                keys=keys[rows],
                noise=self._noise(len(first[rows])),
            )
            plans.append(self.plan)
        actions = torch.cat([p.actions for p in plans]).cpu()
        spread = torch.cat([p.state.std for p in plans]).cpu()
        costs = [cost for p in plans for cost in p.cost.tolist()]
        return {"costs": costs, "actions": actions, "mean": [actions], "var": [spread]}

    def _noise(self, batch: int) -> Noise | None:
        """Their single stream, where it is asked for."""
        stream = self._stream
        if stream is None:
            return None
        return lambda n, h, a: torch.randn(batch, n, h, a, generator=stream, device=self.device, dtype=self._dtype)

    def _complete(self, info: Mapping[str, Any], known: Tensor | None, total: int) -> Tensor:
        """A first plan over the horizon: what is known, then the model's own actions, else zeros."""
        have = 0 if known is None else known.shape[1]
        if known is not None and (known.shape[0], known.shape[2]) != (total, self.action_dim):
            raise InvalidInputError(
                f"init_action must be [{total}, up to {self.horizon}, {self.action_dim}]; got {tuple(known.shape)}."
            )
        if known is not None and have >= self.horizon:
            return known[:, : self.horizon]
        rest = self.horizon - have
        if hasattr(self.model, "get_action"):
            with torch.no_grad():
                tail = self.model.get_action(info, horizon=rest, prefix_actions=known)
        else:
            tail = torch.zeros(total, rest, self.action_dim)
        return tail if known is None else torch.cat([known.to(tail.device), tail], dim=1)


def _their_cem(planner: str | Planner, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The settings under which worldsim's CEM is theirs."""
    extra = set(options) - {"elites", "std"}
    if planner != "cem" or extra:
        raise InvalidInputError(
            f"reproduce=True is for planner='cem' with topk and var_scale alone; got {planner!r} and {sorted(extra)}."
        )
    spread = options.get("std", 1.0) / _FAR
    fixed = {"clip": False, "beta": 0.0, "keep": 0, "std_min": 0.0, "returns": "mean"}
    return "cem", {"elites": options.get("elites", 30), "std": spread, **fixed}


def _rows(value: Any, rows: slice) -> Any:
    """Some environments of one entry of `info`."""
    return value[rows] if isinstance(value, Tensor | np.ndarray | list) else value


class CostObjective:
    """A cost model `get_cost(info, actions [B, S, H, A]) -> [B, S]` as a worldsim objective.

    Models keep what they have encoded inside the `info` that they are given, so each number of candidates has one of its
    own for the life of the objective: an observation is encoded once per search, not once per iteration.

    Args:
        model: Anything with `get_cost`.
        info: Tensors, arrays and lists with B entries each; what is none of these is passed on as it is.
        device: Where tensors go; by default they stay.
        dtype: What float tensors become; by default what the model's parameters are, or float32.
    """

    def __init__(
        self,
        model: Any,
        info: Mapping[str, Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model, self._info = model, info
        self._device, self._dtype = device, dtype or dtype_of(model)
        self._expanded: dict[int, dict[str, Any]] = {}

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs [B, S] of actions [B, S, H, A]."""
        count = actions.shape[1]
        if count not in self._expanded:
            self._expanded[count] = {key: self._expand(value, count) for key, value in self._info.items()}
        cost: Tensor = self._model.get_cost(self._expanded[count], actions)
        return cost

    def _expand(self, value: Any, count: int) -> Any:
        if isinstance(value, Tensor):
            dtype = self._dtype if value.is_floating_point() else value.dtype
            value = value.to(device=self._device or value.device, dtype=dtype)
            return value[:, None].expand(-1, count, *value.shape[1:])
        return np.repeat(value[:, None], count, axis=1) if isinstance(value, np.ndarray) else value


def dtype_of(model: Any) -> torch.dtype:
    """Float type of the model's parameters; float32 where it has none."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return torch.float32 if first is None else first.dtype


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

    def plan(self, objective: Objective, *, bounds: Any, **options: Unpack[PlanOptions]) -> Plan:
        """See `worldsim.planners.Planner.plan`; the solver has one stream of noise, so only the first key counts.

        Raises:
            InvalidInputError: Limits or noise, which these solvers cannot be given.
        """
        if options.get("limits") is not None or options.get("noise") is not None:
            raise InvalidInputError("A stable-worldmodel solver takes neither limits nor noise from outside.")
        box = Bounds.of(bounds)
        given, keys = Given.read(options, box=box, horizon=self.horizon), options.get("keys")
        first, seed = given.initial, options.get("seed", 0) if keys is None else int(keys[0]) & (2**63 - 1)
        model = _BoxedModel(objective, box, given.batch)
        out = self._solve(model, box, (first - box.centre) / box.half, seed)
        found = model.actions(out["actions"].clone().to(first))[:, None]  # a clone: theirs are inference tensors
        last = model.evaluate(torch.cat([first[:, None], given.prior, found], dim=1))
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
