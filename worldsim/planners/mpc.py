"""Model-predictive control: a planner and a world as a policy, all of its memory in the carry.

Each episode keeps its own queue of actions, its own warm start and its own belief of where it stands; one that has acted
out its queue is planned for again, together with all others that have.

Shape legend: n episodes, H steps, A action width, R actions executed per plan, c controls per planned action.
"""

import dataclasses
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.core import Observation, WorldState
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.planners import ensemble_check
from worldsim.planners.bounds import Bounds
from worldsim.planners.limits import Limits
from worldsim.planners.objective import Objective, unrolled
from worldsim.planners.planner import Planner
from worldsim.planners.search import Plan, PlannerLike, Search
from worldsim.planners.world_objective import world_objective
from worldsim.protocols import Filterable, World

_LOG = logging.getLogger(__name__)
_STREAM = 0x3C9  # separates a planner's noise from that of the world it plans in


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPCCarry:
    """What n episodes remember. Nothing is known of an episode before its first observation."""

    begun: Tensor  # bool [n]
    left: Tensor  # int64 [n], actions still queued
    queue: Tensor  # [n, R, A], physical units, the next action first
    action: Tensor  # [n, A], or [n, s, A] where the world takes s > 1 actions a step: the actions taken last
    search: Search  # [n, ...], shifted to where the queue ends
    belief: WorldState | None = None  # [n, ...], where the world stands by what was observed
    plan: Plan | None = None  # the latest search, of the episodes that it was for
    plans: int = 0  # searches made so far, for statistics


class MPC:
    """A planner in a world, as a `worldsim.protocols.Policy`.

    The search runs where the world computes (its `device`); what is carried and the actions stay on the CPU.

    Args:
        planner: How to search, ours or any that passes `worldsim.testing.check_planner`. Plans of ours that would look farther
            ahead than the world is valid are shortened, with a warning in the log; others are only warned of.
        world: Where to search. Needs `observes`, the keys it resets from; with `see` its belief keeps a history.
        objective: (world, state) -> what to minimise; by default the progress still missing.
        receding: Planned steps executed before planning again, at most the horizon.
        repeat: Control steps for which each action is held.
        block: Distinct actions in each planned step; by default as many as the world takes a step. A horizon of H then
            spans H x block x repeat control steps.
        warm: Begin each search from the last one, shifted.
        prior: (world, state) -> candidates [n, P, H, A] that somebody suggests, see `worldsim.planners.prior`.
        limits: Deadline, budget and tolerance of every search.
        rerank: (world, state) -> what ranks the finalists of every search (its plan and its elites) before one of them
            is carried out, `worldsim.planners.EnsembleCheck` for example.

    Raises:
        InvalidInputError: A receding horizon beyond the horizon, a repeat or block below 1, or a reranking beside a
            deadline or budget, which only the search keeps.
    """

    def __init__(
        self,
        planner: PlannerLike,
        world: World,
        *,
        objective: Callable[[World, WorldState], Objective] | None = None,
        receding: int = 1,
        repeat: int = 1,
        block: int | None = None,
        warm: bool = True,
        prior: Callable[[World, WorldState], Tensor] | None = None,
        limits: Limits | None = None,
        rerank: Callable[[World, WorldState], Objective] | None = None,
    ) -> None:
        per_step = world.spec.actions_per_step
        block = per_step if block is None else block
        if not 1 <= receding <= planner.horizon or repeat < 1 or block < 1:
            raise InvalidInputError(
                f"receding is between 1 and the horizon {planner.horizon}, repeat and block at least 1; got {receding}, "
                f"{repeat} and {block}."
            )
        if (block * repeat) % per_step:
            raise InvalidInputError(
                f"This world takes {per_step} actions a step, so block * repeat is a multiple of it; got {block} and {repeat}."
            )
        if rerank is not None and limits is not None and (limits.deadline_s, limits.budget) != (None, None):
            raise InvalidInputError(
                "Ranking the finalists (rerank=) adds to what a search costs. Leave it out where there is a limit."
            )
        self.planner, self.world = _within(planner, world, span=block * repeat), world
        receding = min(receding, self.planner.horizon)
        self.receding, self.repeat, self.block, self.warm = receding, repeat, block, warm
        self._objective = objective or (lambda w, s: world_objective(w, s, repeat=repeat, block=block))
        self._prior, self._limits, self._rerank = prior, limits, rerank
        self._bounds = Bounds.of(world.spec.action).block(block).to(world.spec.device)

    @property
    def needs(self) -> frozenset[str]:
        """What the world begins from."""
        return frozenset(self.world.spec.observes)

    @property
    def actions_per_look(self) -> int:
        """Actions it takes on one observation: as many as the world takes a step."""
        return self.world.spec.actions_per_step

    def initial(self, n: int) -> MPCCarry:
        """Return the carry of n fresh episodes."""
        idle = torch.tensor(self.world.spec.action.idle)
        h, a = self.planner.horizon, self._bounds.dim
        search = Search(
            mean=idle.repeat(self.block).expand(n, h, a),
            std=self._bounds.half.cpu().expand(n, h, a),
            elites=torch.empty(n, 0, h, a),
        )
        return MPCCarry(
            begun=torch.zeros(n, dtype=torch.bool),
            left=torch.zeros(n, dtype=torch.int64),
            queue=idle.expand(n, self.receding * self.block * self.repeat, -1),
            action=idle.expand(n, -1) if self.actions_per_look == 1 else idle.expand(n, self.actions_per_look, -1),
            search=search,
        )

    def reset(self, carry: MPCCarry, done: Tensor) -> MPCCarry:
        """Forget the episodes where `done` (bool [n]) is set: their next observation is their first."""
        fresh = self.initial(len(done))
        fresh_search = dataclasses.replace(fresh.search, elites=_padded(fresh.search, carry.search.elites.shape[1]))
        search = carry.search.merge(fresh_search, done)
        return dataclasses.replace(
            carry,
            begun=carry.begun & ~done,
            left=carry.left.masked_fill(done, 0),
            action=torch.where(done.view(-1, *[1] * (carry.action.ndim - 1)), fresh.action, carry.action),
            search=search,
        )

    @torch.no_grad()
    def act(self, observation: Observation, carry: MPCCarry, keys: Tensor) -> tuple[Tensor, MPCCarry]:
        """Choose actions; see `worldsim.protocols.Policy.act`."""
        carry = dataclasses.replace(carry, belief=self._believe(observation, carry, keys))
        empty = carry.left == 0
        for rows in ((empty & ~carry.begun).nonzero()[:, 0], (empty & carry.begun).nonzero()[:, 0]):
            if len(rows):  # those that begin apart from those that go on, so that neither depends on who else is there
                carry = self._plan(carry, rows, keys)
        action = carry.queue[:, 0]
        carry = dataclasses.replace(
            carry,
            begun=torch.ones_like(carry.begun),
            left=carry.left - 1,
            queue=carry.queue.roll(-1, dims=1),
            action=action if self.actions_per_look == 1 else torch.cat([carry.action[:, 1:], action[:, None]], dim=1),
        )
        return action, carry

    def _believe(self, observation: Observation, carry: MPCCarry, keys: Tensor) -> WorldState:
        """Where every episode stands: reset, or one observation further."""
        missing = self.needs - set(observation)
        if missing:
            raise InvalidInputError(f"Planning in this world needs {sorted(self.needs)}; missing {sorted(missing)}.")
        seen = {k: observation[k] for k in self.needs}
        old = carry.belief
        if not isinstance(self.world, Filterable) or old is None or not bool(carry.begun.any()):
            return self.world.reset(seen, keys)
        followed = self.world.see(old, seen, carry.action)
        if self.actions_per_look > 1:  # in the middle of a step there is nothing new to see
            followed = old.merge(followed, carry.left % self.actions_per_look == 0)
        if bool(carry.begun.all()):
            return followed
        return followed.merge(self.world.reset(seen, keys), ~carry.begun)

    def _plan(self, carry: MPCCarry, rows: Tensor, keys: Tensor) -> MPCCarry:
        """Plan for the episodes at `rows`, and fill their queues."""
        assert carry.belief is not None
        belief = carry.belief.rows(rows)
        objective = self._objective(self.world, belief)
        plan = self.planner.plan(
            objective,
            bounds=self._bounds,
            initial=None if self.warm else self.initial(len(rows)).search.mean,
            state=self._known(carry, rows) if self.warm else None,
            prior=None if self._prior is None else self._prior(self.world, belief),
            keys=fold(keys[rows], _STREAM),
            limits=self._limits,
        )
        if self._rerank is not None:
            plan = ensemble_check.rerank(plan, objective, self._rerank(self.world, belief), bounds=self._bounds)
        queue, left, search = carry.queue.clone(), carry.left.clone(), carry.search
        queue[rows] = unrolled(plan.actions[:, : self.receding], block=self.block, repeat=self.repeat).to(queue)
        left[rows] = queue.shape[1]
        if self.warm:
            search = _put(search, plan.state.shift(self.receding), rows)
        return dataclasses.replace(carry, queue=queue, left=left, search=search, plan=plan, plans=carry.plans + 1)

    def _known(self, carry: MPCCarry, rows: Tensor) -> Search:
        """What is known of the plans of episodes that all begin or all go on; those that begin have no elites."""
        search = carry.search.rows(rows)
        if bool(carry.begun[rows].any()):
            return search
        return dataclasses.replace(search, elites=search.elites[:, :0])


def _within(planner: PlannerLike, world: World, *, span: int) -> PlannerLike:
    """A planner whose plans, each step of `span` actions, look no farther ahead than a world is valid; at least one step."""
    validity = world.spec.validity
    steps = planner.horizon if validity is None else validity.plan_steps(planner.horizon, actions=span)
    if validity is None or steps == planner.horizon:
        return planner
    if not isinstance(planner, Planner):
        _LOG.warning(
            "Plans look %d actions ahead; this world is valid for %d.", planner.horizon * span, validity.horizon
        )
        return planner
    horizon = steps if planner.spline is None else min(planner.horizon, max(steps, planner.spline.knots))
    if horizon == planner.horizon:
        return planner
    _LOG.warning(
        "Plans look %d actions ahead instead of %d: this world is valid for %d.",
        *(horizon * span, planner.horizon * span, validity.horizon),
    )
    return dataclasses.replace(planner, horizon=horizon)


def _put(search: Search, part: Search, rows: Tensor) -> Search:
    """`search` with `part` at `rows`; elites of both are brought to one number."""
    count = max(search.elites.shape[1], part.elites.shape[1])
    one, other = (dataclasses.replace(s, elites=_padded(s, count)) for s in (search, part))
    return one.put(rows, other)


def _padded(search: Search, count: int) -> Tensor:
    """Elites [B, K, H, A], the mean repeated where there are fewer than K."""
    missing = count - search.elites.shape[1]
    return (
        torch.cat([search.elites, search.mean[:, None].expand(-1, missing, -1, -1)], dim=1)
        if missing
        else search.elites
    )
