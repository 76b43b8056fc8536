"""The protocols: what users may supply and every package calls. Import the protocol, never an implementation.

Each has a checker in `worldsim.testing`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from worldsim.core import (
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
from worldsim.errors import InvalidInputError


@runtime_checkable
class World(Protocol):
    """A pure state machine over a batch of B imagined episodes.

    Nothing is hidden and nothing is mutated: the same state, action and key give the same step, alone or in
    a batch, in this process or another. Steps may be differentiable in the action.

    What a world can do beside this is a protocol of its own, checked by isinstance: `Startable`, `Drawable`,
    `Encodable`, `Filterable`, `Ensemble`.
    """

    @property
    def spec(self) -> WorldSpec:
        """What the world promises."""

    def reset(self, starts: Observation, keys: Tensor) -> WorldState:
        """Begin B episodes.

        Args:
            starts: First observations: the keys of `WorldSpec.observes`, each with leading B.
            keys: int64 [B], one noise key per episode.

        Raises:
            InvalidInputError: An observation is missing or has the wrong shape or dtype.
        """

    def step(self, state: WorldState, action: Tensor) -> tuple[WorldState, WorldStep]:
        """Advance every episode by one step of `WorldSpec.actions_per_step` s control periods.

        Args:
            state: As returned by `reset` or `step`.
            action: float32 [B, A], or [B, s, A] where s > 1, in physical units; values beyond the limits are clipped.

        Raises:
            InvalidInputError: Wrong action shape, or a value that is not finite.
        """

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """Advance open loop through `actions`, [B, T, A] or [B, T, s, A]; latents only, nothing is decoded."""


@runtime_checkable
class Startable(World, Protocol):
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
class Drawable(World, Protocol):
    """A world that draws what its cameras see."""

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames.

        Args:
            latent: [..., c, h, w], as in `WorldStep.latent`.
            camera: Observation key of one of `WorldSpec.cameras`; the main camera by default.

        Returns:
            uint8 [..., H, W, 3], or [..., s, H, W, 3] where a step is s > 1 frames.

        Raises:
            UnknownNameError: The world has no such camera.
        """


@runtime_checkable
class Encodable(Drawable, Protocol):
    """A world whose pictures go both ways, so that its loss on real frames can be measured and goals can be pictures."""

    def encode(self, observation: Observation) -> Tensor:
        """Latents of single observations: frames uint8 [B, H, W, 3] of every camera -> [B, c, h, w]."""


@runtime_checkable
class Filterable(World, Protocol):
    """A world whose state follows what is really observed, for closed-loop planning."""

    def see(self, state: WorldState, observation: Observation, action: Tensor) -> WorldState:
        """The state one step later, by what was observed after `action` ([B, A], or [B, s, A]) instead of predicted.

        Raises:
            InvalidInputError: An observation is missing or misshapen, or the action does not fit.
        """

    def present(self, state: WorldState) -> WorldStep:
        """Where the episodes stand now, as a step; its uncertainty is 0."""


@runtime_checkable
class Ensemble(World, Protocol):
    """A world of several members that continue the same states, each by its own prediction."""

    def members(self) -> "tuple[World, ...]":
        """Each member as a world of its own; one alone where the world is no real ensemble."""


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
class Chunked(Policy, Protocol):
    """A policy that decides on several actions at one look and gives them out one by one."""

    @property
    def actions_per_look(self) -> int:
        """How many actions it takes on one observation, at least 1."""


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


def require_drawable(world: World) -> Drawable:
    """Return `world` if it draws frames.

    Raises:
        InvalidInputError: It has no camera.
    """
    if not isinstance(world, Drawable) or not world.spec.cameras:
        raise InvalidInputError(
            f"A {type(world).__name__} without cameras cannot draw frames. Use a world learned from pixels, or the simulator."
        )
    return world


def observe(world: World, step: WorldStep, needs: frozenset[str]) -> dict[str, Tensor]:
    """Turn a world step into the observation a policy asked for; decodes only the cameras that are needed.

    Args:
        world: The world that made `step`.
        step: One step of B episodes.
        needs: Observation keys, as in `Policy.needs`.

    Returns:
        The requested keys that this world can give: frames uint8 [B, H, W, 3], STATE [B, P] and TRUE_STATE
        [B, E]; of a step of several frames the last one.
    """
    seen: dict[str, Tensor] = {}
    spec = world.spec
    if STATE in needs:
        seen[STATE] = step.proprio
    if TRUE_STATE in needs and step.true_state is not None:
        seen[TRUE_STATE] = step.true_state
    if SIMULATOR in needs and SIMULATOR in spec.observes:
        seen[SIMULATOR] = step.latent.flatten(1)
    for camera in spec.cameras:
        if camera.key in needs and isinstance(world, Drawable):
            frames = world.decode(step.latent, camera.key)
            seen[camera.key] = frames[..., -1, :, :, :] if spec.actions_per_step > 1 else frames
    return seen
