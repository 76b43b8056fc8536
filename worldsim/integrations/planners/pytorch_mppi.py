"""pytorch_mppi's controller object on top of worldsim's planners, and its dynamics and costs as an objective.

Everything here follows the shape of its interface, so the library itself is not imported and need not be installed.

    from pytorch_mppi import MPPI                                           # before
    from worldsim.integrations.planners.pytorch_mppi import MPPI            # after

What differs on purpose: candidates share a guarded loop (a cost that is not finite harms no other candidate, a plan is never worse
than the one before), the first plan is `u_init` instead of noise, and nothing but `running_cost` prices an action.

Shape legend: B robots, N candidates, T steps, X state width, A action width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.planners import Bounds, Plan, Planner, RolloutObjective, Search, make_planner, rollout_of
from worldsim.planners.noise import Noise, Streams, episode_keys
from worldsim.planners.registry import with_horizon

_FAR = 1024.0
"""Half width of the box where no limits are given, in standard deviations of the noise."""
_FREE = ("mppi", "cem", "icem", "weighted", "predictive")
"""Planners that search around a mean and so can do without limits."""


def objective_of(
    dynamics: Callable[..., Tensor],
    running_cost: Callable[..., Tensor],
    state: Tensor,
    *,
    terminal_state_cost: Callable[..., Tensor] | None = None,
    step_dependent_dynamics: bool = False,
    u_scale: float = 1.0,
) -> RolloutObjective:
    """Their dynamics and costs as a worldsim objective.

    Args:
        dynamics: (state [M, X], action [M, A]) -> next state; with the step t as a third argument where
            `step_dependent_dynamics` says so.
        running_cost: (state after the step [M, X], action [M, A]) -> [M], likewise.
        state: Where B robots stand, [B, X].
        terminal_state_cost: (states [1, M, T, X], actions [1, M, T, A]) -> [1, M] or [M].
        step_dependent_dynamics: Whether dynamics and cost want to know the step.
        u_scale: What actions are multiplied by before the dynamics see them.
    """

    def roll(start: Tensor, actions: Tensor) -> Tensor:
        """States [M, T, X] that the dynamics lead through."""
        if not step_dependent_dynamics:
            return rollout_of(dynamics)(start, u_scale * actions)
        seen = []
        for t in range(actions.shape[1]):
            start = dynamics(start, u_scale * actions[:, t], t)
            seen.append(start)
        return torch.stack(seen, dim=1)

    def cost(path: Tensor, actions: Tensor) -> Tensor:
        actions = u_scale * actions
        if not step_dependent_dynamics:
            return running_cost(path.flatten(0, 2), actions.flatten(0, 2)).reshape(path.shape[:3])
        columns = [running_cost(path[:, :, t].flatten(0, 1), actions[:, :, t].flatten(0, 1), t) for t in _steps(path)]
        return torch.stack([c.reshape(path.shape[:2]) for c in columns], dim=2)

    def terminal(path: Tensor, actions: Tensor) -> Tensor:
        assert terminal_state_cost is not None
        return terminal_state_cost(path.flatten(0, 1)[None], u_scale * actions.flatten(0, 1)[None]).reshape(
            path.shape[:2]
        )

    return RolloutObjective(
        roll=roll, start=state, cost=cost, terminal=None if terminal_state_cost is None else terminal
    )


class MPPI:
    """Their controller's interface: the state goes in, the action comes out, the plan is kept inside.

    Args:
        dynamics: See `objective_of`.
        running_cost: See `objective_of`.
        nx: State width X.
        noise_sigma: Covariance of the actions' noise [A, A], or a variance [] where A is 1: the first spread of every
            search.
        num_samples: Candidates per iteration.
        horizon: Steps T.
        device: Where to plan.
        terminal_state_cost: See `objective_of`.
        lambda_: Temperature of the ``"mppi"`` planner in units of cost; other planners do not read it.
        noise_mu: Not supported: None or zeros.
        u_min: Lowest actions [A]; if only one limit is given the other mirrors it.
        u_max: Highest actions [A].
        u_init: What a plan begins with and is extended by, [A]; zeros by default.
        U_init: The first plan, [T, A].
        u_scale: What actions are multiplied by before the dynamics see them.
        u_per_command: Actions returned by a command.
        step_dependent_dynamics: Whether dynamics and cost take the step as a third argument.
        rollout_samples: Not supported: 1. For models that give a distribution see `worldsim.planners.risk`.
        sample_null_action: Try doing nothing as well.
        specific_action_sampler: Has `sample_trajectories(state, info)`; what it gives is tried as well.
        planner: A name that `worldsim.planners.make_planner` knows; ``"mppi"`` is theirs: one fixed spread, white noise.
        iterations: Iterations per command.
        seed: Same seed, same commands.
        **options: Further options of `make_planner`.

    Raises:
        InvalidInputError: An argument that is not supported, or a planner that needs limits and got none.
    """

    def __init__(
        self,
        dynamics: Callable[..., Tensor],
        running_cost: Callable[..., Tensor],
        nx: int,
        noise_sigma: Tensor,
        num_samples: int = 100,
        horizon: int = 15,
        device: torch.device | str = "cpu",
        terminal_state_cost: Callable[..., Tensor] | None = None,
        lambda_: float = 1.0,
        noise_mu: Tensor | None = None,
        u_min: Tensor | None = None,
        u_max: Tensor | None = None,
        u_init: Tensor | None = None,
        U_init: Tensor | None = None,
        u_scale: float = 1.0,
        u_per_command: int = 1,
        step_dependent_dynamics: bool = False,
        rollout_samples: int = 1,
        sample_null_action: bool = False,
        specific_action_sampler: Any = None,
        *,
        planner: str = "mppi",
        iterations: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if rollout_samples != 1 or (noise_mu is not None and bool((noise_mu != 0).any())):
            raise InvalidInputError(
                "rollout_samples must be 1, and noise_mu None or zeros. See worldsim.planners.risk."
            )
        sigma = torch.atleast_2d(noise_sigma).to(device)
        self.nx, self.nu, self.d, self.dtype = nx, sigma.shape[0], torch.device(device), sigma.dtype
        self.u_per_command, self.u_scale = u_per_command, u_scale
        self._spread = sigma.diagonal().sqrt()
        self._root = torch.linalg.cholesky(sigma / self._spread.outer(self._spread))
        self.bounds = self._box(planner, u_min, u_max)
        self.u_init = torch.zeros(self.nu, dtype=self.dtype, device=self.d) if u_init is None else self._vector(u_init)
        self._problem: dict[str, Any] = {
            "dynamics": dynamics,
            "running_cost": running_cost,
            "terminal_state_cost": terminal_state_cost,
            "step_dependent_dynamics": step_dependent_dynamics,
            "u_scale": u_scale,
        }
        self._null, self._sampler, self._seed, self._calls = sample_null_action, specific_action_sampler, seed, 0
        self._planner = self._make(planner, horizon, num_samples, iterations, lambda_, options)
        self._first = None if U_init is None else U_init.to(self.bounds.low)
        self.plan: Plan | None = None  # the last one, with its statistics
        self._search: Search | None = None
        self.reset(self._first)

    @property
    def T(self) -> int:  # noqa: N802  # their name
        """Steps of a plan."""
        return self._planner.horizon

    @property
    def U(self) -> Tensor:  # noqa: N802  # their name
        """The plan, [T, A]; [B, T, A] where several robots are planned for."""
        return self._U[0] if self._U.shape[0] == 1 else self._U

    def get_action_sequence(self) -> Tensor:
        """The plan, see `U`."""
        return self.U

    def reset(self, plan: Tensor | None = None) -> None:
        """Forget the plan.

        Args:
            plan: What to begin with instead of `u_init`, [T, A].
        """
        self._U = (self.u_init.expand(self.T, self.nu) if plan is None else plan)[None]
        self._search = None

    def change_horizon(self, horizon: int) -> None:
        """Plan `horizon` steps ahead from now on; the plan is cut, or extended by `u_init`."""
        more = self.u_init.expand(self._U.shape[0], max(0, horizon - self.T), self.nu)
        self._U = torch.cat([self._U[:, :horizon], more], dim=1)
        self._planner, self._search = with_horizon(self._planner, horizon), None

    def shift_nominal_trajectory(self) -> None:
        """Move the plan one step on; `u_init` comes in at its end."""
        self._U = torch.cat([self._U[:, 1:], self.u_init.expand(self._U.shape[0], 1, self.nu)], dim=1)
        self._search = None if self._search is None else self._search.shift(1)

    def command(self, state: Any, shift_nominal_trajectory: bool = True, info: Any = None) -> Tensor:
        """Plan from where the robot stands.

        Args:
            state: [X], or [B, X] for B robots side by side.
            shift_nominal_trajectory: Whether the last command was executed.
            info: For the specific action sampler.

        Returns:
            The action to take now, [A]; with `u_per_command` k > 1 [k, A]; both with B in front for several robots.

        Raises:
            InvalidInputError: A state of another width.
        """
        state = torch.as_tensor(state, dtype=self.dtype, device=self.d)
        if state.ndim not in (1, 2) or state.shape[-1] != self.nx:
            raise InvalidInputError(f"A state is [{self.nx}] or [B, {self.nx}]; got {tuple(state.shape)}.")
        if shift_nominal_trajectory:
            self.shift_nominal_trajectory()
        start = torch.atleast_2d(state)
        if self._U.shape[0] != len(start):
            self._U, self._search = self._U[:1].expand(len(start), -1, -1), None
        keys = fold(episode_keys(len(start), self._seed), self._calls)
        self._calls += 1
        self.plan = self._planner.plan(
            objective_of(state=start, **self._problem),
            bounds=self.bounds,
            initial=self._U,
            state=self._search,
            prior=self._prior(state, len(start), info),
            keys=keys,
            noise=self._noise(keys),
        )
        self._U, self._search = self.plan.actions, self.plan.state
        actions = self._U[:, 0] if self.u_per_command == 1 else self._U[:, : self.u_per_command]
        return actions if state.ndim == 2 else actions[0]

    def get_rollouts(self, state: Tensor, num_rollouts: int = 1, U: Tensor | None = None) -> Tensor:
        """The states that a plan leads through, [num_rollouts, T, X].

        Args:
            state: [X], or [num_rollouts, X].
            num_rollouts: Rows where one state is given.
            U: A plan [T, A]; by default the present one of the first robot.
        """
        start = torch.atleast_2d(state)
        start = start.expand(num_rollouts, -1) if len(start) == 1 else start
        plan = self._U[0] if U is None else U
        return objective_of(state=start, **self._problem).roll(start, plan.expand(len(start), *plan.shape))

    def _make(
        self, planner: str, horizon: int, samples: int, iterations: int, temperature: float, options: dict[str, Any]
    ) -> Planner:
        """The planner; those that sample begin with the noise's own spread."""
        if planner == "mppi":
            options = {"temperature": temperature, "adapt": False, "beta": 0.0, "keep": 0, "std_min": 0.0} | options
        if planner in _FREE:
            spread = tuple((self._spread / self.bounds.half).tolist())
            options = {"std": spread, "std_min": 0.0} | options
        return make_planner(planner, horizon=horizon, samples=samples, iterations=iterations, **options)

    def _box(self, planner: str, low: Tensor | None, high: Tensor | None) -> Bounds:
        if low is None and high is None:
            if planner not in _FREE:
                raise InvalidInputError(f"Planner {planner!r} searches a box: give u_min and u_max.")
            return Bounds(-_FAR * self._spread, _FAR * self._spread)
        low, high = (None if v is None else self._vector(v) for v in (low, high))
        low, high = (
            (-high if low is None and high is not None else low),
            (-low if high is None and low is not None else high),
        )
        return Bounds.of((low, high))

    def _vector(self, value: Any) -> Tensor:
        """One number per action dimension, [A]."""
        return torch.as_tensor(value, dtype=self.dtype, device=self.d).expand(self.nu)

    def _noise(self, keys: Tensor) -> Noise:
        """Noise with the correlation that `noise_sigma` has; its spread is the search's."""
        draw = Streams(keys, device=self.d, dtype=self.dtype)
        if bool((self._root == torch.eye(self.nu, device=self.d)).all()):
            return draw
        return lambda n, h, a: draw(n, h, a) @ self._root.T

    def _prior(self, state: Tensor, batch: int, info: Any) -> Tensor | None:
        parts = [] if not self._null else [torch.zeros(batch, 1, self.T, self.nu, dtype=self.dtype, device=self.d)]
        if self._sampler is not None:
            given = self._sampler.sample_trajectories(state, info).reshape(-1, self.T, self.nu)
            parts.append(given.expand(batch, *given.shape))
        return torch.cat(parts, dim=1) if parts else None


def _steps(path: Tensor) -> range:
    return range(path.shape[2])
