"""TorchRL both ways: worldsim planners as its MPC planner modules, its model-based environments as objectives.

    planner = CEMPlanner(env, 10, 5, 512, 64)            # before
    planner = WorldsimPlanner(env, 10, 5, 512, 64)       # after

Importing this module imports TorchRL.

Shape legend: B rows of the tensordict, N candidates, H steps, A action width.
"""

from typing import Any

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, missing_extra
from worldsim.noise import fold
from worldsim.planners import Bounds, Plan, make_planner
from worldsim.planners.noise import episode_keys

try:
    from torchrl.modules.planners import MPCPlannerBase
except ImportError as error:
    raise missing_extra("torchrl", "interop") from error

REWARD = ("next", "reward")


class EnvObjective:
    """Minus the return of imagined rollouts in a TorchRL environment that takes any batch size.

    Rewards after the first `done` do not count. Environments whose step is differentiable give gradients.

    Args:
        env: A `ModelBasedEnvBase`, or any other environment that is not batch-locked.
        tensordict: Where each of B episodes stands, batch size [B].
        reward_key: Where a step's reward is.
        action_key: Where a step's action goes; actions of any shape are planned as flat vectors.

    Raises:
        InvalidInputError: A batch-locked environment, or a tensordict that is not [B].
    """

    def __init__(self, env: Any, tensordict: Any, *, reward_key: Any = REWARD, action_key: Any = "action") -> None:
        if env.batch_locked or len(tensordict.batch_size) != 1:
            raise InvalidInputError(
                f"Planning needs an environment that takes any batch size, and a tensordict [B]; got batch_locked="
                f"{env.batch_locked} and {tuple(tensordict.batch_size)}."
            )
        self._env, self._start = env, tensordict.exclude("next")
        self._reward, self._action = reward_key, action_key
        ends = [key if isinstance(key, tuple) else (key,) for key in env.done_keys]
        ends = [key for key in ends if key[-1] == "done"]
        shallow = min((len(key) for key in ends), default=0)  # a group's own flag speaks for its members
        self._ends = [("next", *key) for key in ends if len(key) == shallow]

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs [B, N] of actions [B, N, H, A]."""
        b, n, h = actions.shape[:3]
        shape = self._env.action_spec.shape
        now = self._start.unsqueeze(-1).expand(b, n).clone(recurse=False)
        total, over = actions.new_zeros(b, n), torch.zeros(b, n, dtype=torch.bool, device=actions.device)
        for t in range(h):
            now.set(self._action, actions[:, :, t].reshape(b, n, *shape))
            now = self._env.step(now)
            reward = now.get(self._reward).reshape(b, n, -1).sum(2)
            total = total + reward.masked_fill(over, 0)
            for key in self._ends:
                over = over | now.get(key).reshape(b, n, -1).any(2)
            if t + 1 < h:
                now = self._env.step_mdp(now)
        return -total

    def rows(self, index: Tensor) -> "EnvObjective":
        """The objective of the episodes at `index`, int64 [K]."""
        return EnvObjective(self._env, self._start[index], reward_key=self._reward, action_key=self._action)


class WorldsimPlanner(MPCPlannerBase):  # type: ignore[misc]  # of a library without types
    """A worldsim planner as a TorchRL module: reads a tensordict, writes the action to take now.

    Args:
        env: As `EnvObjective`.
        planning_horizon: Steps H.
        optim_steps: Iterations.
        num_candidates: Candidates per iteration.
        top_k: Elites; 0 for the planner's own choice.
        reward_key: Where a step's reward is.
        action_key: Where the action goes.
        planner: A name that `worldsim.planners.make_planner` knows.
        bounds: Of the actions; by default those of the environment's action spec.
        seed: Each call draws new noise, in an order that depends on this seed alone.
        **options: Further options of `make_planner`.

    Raises:
        InvalidInputError: An unbounded action spec and no `bounds`, or options that the planner does not have.
    """

    def __init__(
        self,
        env: Any,
        planning_horizon: int,
        optim_steps: int,
        num_candidates: int,
        top_k: int = 0,
        reward_key: Any = REWARD,
        action_key: Any = "action",
        *,
        planner: str = "weighted",
        bounds: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(env=env, action_key=action_key)
        if top_k and planner in ("weighted", "cem", "icem", "categorical"):
            options["elites"] = top_k
        self.reward_key, self.action_key = reward_key, action_key
        self.bounds = bounds_of(env.action_spec) if bounds is None else Bounds.of(bounds)
        self.plan: Plan | None = None  # the last one, with its statistics
        self._search = make_planner(
            planner, horizon=planning_horizon, samples=num_candidates, iterations=optim_steps, **options
        )
        self._seed, self._calls = seed, 0

    def planning(self, tensordict: Any) -> Tensor:
        """The action to take now, [..., A]: batch size of the tensordict x shape of the action spec."""
        lead = tensordict.batch_size
        flat = tensordict.reshape(-1) if len(lead) else tensordict.unsqueeze(0)
        keys = fold(episode_keys(flat.batch_size[0], self._seed), self._calls)
        self._calls += 1
        objective = EnvObjective(self.env, flat, reward_key=self.reward_key, action_key=self.action_key)
        self.plan = self._search.plan(objective, bounds=self.bounds, keys=keys)
        return self.plan.actions[:, 0].reshape(*lead, *self.action_spec.shape)


def bounds_of(spec: Any) -> Bounds:
    """The box of a TorchRL action spec, its dimensions in one row.

    Raises:
        InvalidInputError: The spec has no finite limits.
    """
    space = spec.space
    # An unbounded spec's limits are the largest finite numbers: only their difference overflows.
    if not hasattr(space, "low") or not bool((space.high - space.low).isfinite().all()):
        raise InvalidInputError(
            f"The action spec {type(spec).__name__} has no finite limits. Give bounds=(low, high), the range that may be "
            "used."
        )
    return Bounds.of((space.low.reshape(-1), space.high.reshape(-1)))
