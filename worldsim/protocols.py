"""The doors: what users may supply and every room calls. Import the door, never an implementation.

Checkers for each door live in `worldsim.testing`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from worldsim.core import (
    IMAGE,
    SIMULATOR,
    STATE,
    TRUE_STATE,
    Observation,
    Rollout,
    Verdict,
    WorldSpec,
    WorldState,
    WorldStep,
)


@runtime_checkable
class World(Protocol):
    """A pure state machine over a batch of B imagined episodes.

    Nothing is hidden and nothing is mutated: the same state, action and key give the same step, alone or in
    a batch, in this process or another.

    A world may offer more, which planners use where it is there: `observes`, the observation keys that `reset` reads
    (else IMAGE and STATE); `see(state, observation, action)`, the state advanced by what was really observed;
    `present(state)`, the step at which a state stands; `members()`, the members of an ensemble as worlds that continue
    the same states, each by its own prediction; steps that are differentiable in the action.
    """

    @property
    def spec(self) -> WorldSpec:
        """What the world promises."""

    def reset(self, starts: Observation, keys: Tensor) -> WorldState:
        """Begin B episodes.

        Args:
            starts: First observations: IMAGE uint8 [B, H, W, 3], STATE float32 [B, P]; a simulator also needs
                SIMULATOR float64 [B, S].
            keys: int64 [B], one noise key per episode.

        Raises:
            InvalidInputError: An observation is missing or has the wrong shape or dtype.
        """

    def step(self, state: WorldState, action: Tensor) -> tuple[WorldState, WorldStep]:
        """Advance every episode by one control period.

        Args:
            state: As returned by `reset` or `step`.
            action: float32 [B, A] in physical units; values beyond the limits are clipped.

        Raises:
            InvalidInputError: Wrong action width, or a value that is not finite.
        """

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """Advance open loop through `actions` [B, T, A]; latents only, nothing is decoded."""

    def decode(self, latent: Tensor) -> Tensor:
        """Draw frames: latent [..., c, h, w] -> uint8 [..., H, W, 3]."""


@runtime_checkable
class StartableWorld(World, Protocol):
    """A world that brings the first observations of its episodes along."""

    @property
    def num_starts(self) -> int:
        """How many starts there are."""

    def starts(self, indices: Tensor) -> Observation:
        """Return first observations.

        Args:
            indices: int64 [B], each in 0..num_starts-1.

        Returns:
            What `World.reset` takes, with leading B.
        """


@runtime_checkable
class Policy(Protocol):
    """A controller with its memory in the open.

    The carry (action-chunk queue, recurrent state, observation history) belongs to the caller: one carry per
    group of n episodes that start together.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The observation keys the policy reads, so that worlds draw pixels only for those who look."""

    def initial(self, n: int) -> Any:
        """Return the carry of n fresh episodes. Any value that can be copied; the policy alone reads it."""

    def act(self, observation: Observation, carry: Any, keys: Tensor) -> tuple[Tensor, Any]:
        """Choose actions.

        Args:
            observation: The keys in `needs`, each with leading n.
            carry: What `initial` or the last `act` returned.
            keys: int64 [n], the noise key of each episode at this step; all randomness must come from it.

        Returns:
            float32 [n, A] actions in physical units, and the next carry.
        """


@runtime_checkable
class Judge(Protocol):
    """Watches finished rollouts and says how they went."""

    def __call__(self, rollout: Rollout) -> Verdict:
        """Judge B episodes."""


@runtime_checkable
class Allocator(Protocol):
    """Decides which (policy, episode) pairs to roll out next."""

    def next(self, evidence: Any, room: int) -> Sequence[tuple[int, int]]:
        """Return the next pairs.

        Args:
            evidence: What is known so far (`worldsim.triage.ranking.evidence.Evidence`).
            room: How many rollouts the budget still allows.

        Returns:
            Pairs (policy index, episode index), at most `room`; empty when there is nothing left to ask.
        """


def observe(world: World, step: WorldStep, needs: frozenset[str]) -> dict[str, Tensor]:
    """Turn a world step into the observation a policy asked for; decodes only if pixels are needed.

    Args:
        world: The world that made `step`.
        step: One step of B episodes.
        needs: Observation keys, as in `Policy.needs`.

    Returns:
        The requested keys among IMAGE, STATE and TRUE_STATE that this world can give.
    """
    seen: dict[str, Tensor] = {}
    if STATE in needs:
        seen[STATE] = step.proprio
    if TRUE_STATE in needs and step.true_state is not None:
        seen[TRUE_STATE] = step.true_state
    if SIMULATOR in needs and SIMULATOR in getattr(world, "observes", ()):
        seen[SIMULATOR] = step.latent.flatten(1)
    if IMAGE in needs:
        seen[IMAGE] = world.decode(step.latent)
    return seen
