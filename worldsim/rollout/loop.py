"""The one rollout loop: policies act on their rows of a world, and what happens is recorded.

One world steps all of the batch; its rows may belong to different policies. A row's result depends on its start, its key
and its policy, and on nothing else in the batch. Frames are drawn for all of the batch or not at all, so that a frame does
not depend on who else looks. Policies get copies of what they see.

A world may take s actions a step and predict s frames at once. Policies then act s times on the last frame: one that
decides on a chunk of actions at one look (`worldsim.protocols.Chunked`) works its queue off, the others look again at
what they have seen; `Recording.unseen` counts how often.

Shape legend: B episodes, T actions, n rows of one policy, H W image, P proprio, A action, E true state, s actions a step.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from worldsim.core import (
    STATE,
    TASK,
    Observation,
    Rollout,
    Rows,
    WorldSpec,
    WorldState,
    WorldStep,
    is_image,
    text_rows,
)
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.protocols import Chunked, Filterable, Policy, World, observe, require_drawable
from worldsim.rollout.fence import Fence, Stage, action_rows

POLICY_STREAM = 0xAC7
"""Separates the policies' noise from the world's, which both grow from the episode's key."""
Detail = Literal["heads", "latents", "frames"]
"""What a recording keeps: actions, success, progress and uncertainty; full steps too; frames too."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Actor:
    """A policy and the episodes it plays.

    Attributes:
        name: For messages.
        policy: What acts.
        rows: Its rows in the batch, a slice or int64 [n].
        fence: Isolates its failures; None lets them end the rollout.
    """

    name: str
    policy: Policy
    rows: slice | Tensor
    fence: Fence | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played(Rows):
    """B episodes of T actions and the T + 1 observations around them, on the CPU.

    What the world says of the first observation is nan where it cannot tell (it has no `present`).
    """

    frames: Mapping[str, Tensor]  # by camera key, the main camera first: uint8 [B, T + 1, H, W, 3]
    proprio: Tensor  # float32 [B, T + 1, P], physical units
    action: Tensor  # float32 [B, T, A], physical units, within the limits
    success: Tensor  # float32 [B, T + 1], probability in 0..1 that the task stands solved
    progress: Tensor  # float32 [B, T + 1], 0..1
    true_state: Tensor | None = None  # float32 [B, T, E], after each action; only simulators and state worlds


class Recording:
    """What happened, step by step; only as much of it is kept as was asked for.

    Attributes:
        keep: What is kept.
        actions: Actions taken in each episode.
        unseen: By actor, how many decisions it took on a frame that it had seen before.
    """

    def __init__(self, keep: Detail) -> None:
        """Begin an empty recording."""
        self.keep = keep
        self.actions = 0
        self.unseen: dict[str, int] = {}
        self._heads: list[tuple[Tensor, Tensor, Tensor]] = []
        self._proprio: list[Tensor] = []
        self._steps: list[WorldStep] = []
        self._actions: list[Tensor] = []
        self._frames: dict[str, list[Tensor]] = {}
        self._first: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._heads)

    def begin(self, world: World, state: WorldState, starts: Observation) -> dict[str, Tensor]:
        """Keep what the world says of the first observations; returns its drawings, uint8 [B, H, W, 3] by camera key."""
        frames, progress, success = _beginning(world, state, starts)
        self._frames = {key: [frame.cpu()] for key, frame in frames.items()}
        self._first = (starts[STATE].float(), success, progress)
        return frames

    def add(self, step: WorldStep, action: Tensor, seen: Observation) -> None:
        """Record one step, the actions [B, A] or [B, s, A] that led to it and, of what was seen after it, the frames kept."""
        self.actions += 1 if action.ndim == 2 else action.shape[1]
        self._heads.append((step.success, step.progress, step.uncertainty))
        self._proprio.append(step.proprio)
        self._actions.append(action)
        if self.keep != "heads":
            self._steps.append(step)
        for key, frames in self._frames.items():
            frames.append(seen[key].cpu())

    def heads(self) -> list[Tensor]:
        """Success, progress and uncertainty after each step, [B, T / s] each."""
        return [torch.stack(head, dim=1) for head in zip(*self._heads, strict=True)]

    def proprio(self) -> Tensor:
        """Proprioception after each step, [B, T / s, P]."""
        return torch.stack(self._proprio, dim=1)

    def executed(self) -> Tensor:
        """The actions within their limits, [B, T, A], or [B, T / s, s, A] where a step takes several."""
        return torch.stack(self._actions, dim=1)

    def rollout(self) -> Rollout:
        """All steps [B, T / s, ...]; not for a recording of heads."""
        return Rollout.stack(self._steps, self.executed())

    def played(self) -> Played:
        """Everything around the actions; only for a recording of frames."""
        assert self._first is not None
        proprio, success, progress = (
            torch.stack([first.cpu(), *(getattr(s, name).cpu() for s in self._steps)], dim=1)
            for first, name in zip(self._first, ("proprio", "success", "progress"), strict=True)
        )
        true = [s.true_state.cpu() for s in self._steps if s.true_state is not None]
        return Played(
            frames={key: torch.stack(frames, dim=1) for key, frames in self._frames.items()},
            proprio=proprio,
            action=self.executed().cpu(),
            success=success,
            progress=progress,
            true_state=torch.stack(true, dim=1) if len(true) == len(self._steps) else None,
        )


@torch.no_grad()
def play(
    world: World,
    actors: Sequence[Actor],
    starts: Observation,
    keys: Tensor,
    *,
    steps: int | None = None,
    keep: Detail = "frames",
    stream: int = POLICY_STREAM,
    on_step: Callable[[int], None] | None = None,
) -> Recording:
    """Play episodes to their end; where every actor is fenced and has failed, only as far as one acted.

    Args:
        world: Any world; one that draws where frames are kept or a policy looks.
        actors: The policies that play. Rows without one idle.
        starts: First observations of B episodes, with what the world and the policies read.
        keys: int64 [B], the episodes' noise keys.
        steps: Actions per episode, a multiple of the world's actions per step; by default the world's horizon.
        keep: What the recording keeps. With ``"frames"`` every frame is the world's own drawing, and policies see what is
            kept: a learned world's first frame is decoded too, where the world can say where it stands (`present`).
        stream: Separates the policies' noise from the world's.
        on_step: Called with the number of actions done, after each step.

    Raises:
        InvalidInputError: As the world's `reset` and `decode`; frames are to be kept of a world that predicts several at
            once; or a policy without a fence needs what the world does not give, or its actions are misshapen or not
            finite. It is named.
        PolicyError: As the policies' `act`, without a fence.
    """
    spec, total = world.spec, steps or world.spec.horizon
    chunk = spec.actions_per_step
    _check_request(spec, total, keep)
    state, recording = world.reset(starts, keys), Recording(keep)
    given = _task(spec, starts, len(keys))
    seen: Observation = {**starts, **given}
    if keep == "frames":
        seen = {**seen, **recording.begin(world, state, starts)}
    seats = [_Seat(actor, spec, batch=len(keys)) for actor in actors]
    for seat in seats:
        seat.begin(seen)
        recording.unseen[seat.name] = sum(t % chunk > 0 for t in range(0, total, seat.chunk))
    cameras = frozenset(c.key for c in spec.cameras) if keep == "frames" else frozenset[str]()
    needs = cameras.union(*(seat.needs for seat in seats if not seat.out))
    keys_TB = policy_keys(keys, total, stream=stream).to(state.key.device)
    idle_BA = torch.tensor(spec.action.idle, dtype=torch.float32, device=state.key.device).repeat(len(keys), 1)
    for t in range(0, total, chunk):
        actions = [_act(seats, seen, idle_BA, keys_TB[t + i], t + i) for i in range(chunk)]
        if seats and all(seat.out for seat in seats):
            break
        action = spec.action.check(actions[0] if chunk == 1 else torch.stack(actions, dim=1))
        state, step = world.step(state, action)
        if t + chunk < total or keep == "frames":
            seen = {**observe(world, step, needs), **given}
        recording.add(step, action, seen)
        if on_step is not None:
            on_step(t + chunk)
    return recording


def _check_request(spec: WorldSpec, steps: int, keep: Detail) -> None:
    """Refuse what a world that takes several actions a step cannot do."""
    if steps < 1 or steps % spec.actions_per_step:
        raise InvalidInputError(
            f"This world takes {spec.actions_per_step} actions a step; {steps} is no multiple of it."
        )
    if keep == "frames" and spec.actions_per_step > 1:
        raise InvalidInputError(
            f"This world predicts {spec.actions_per_step} frames at once and says only of the last where things stand, "
            "so its episodes cannot be recorded frame by frame. Use a world with one action per step."
        )


def _task(spec: WorldSpec, starts: Observation, batch: int) -> Observation:
    """What is to be done, uint8 [B, L], where the starts or the world say it."""
    if TASK in starts:
        return {TASK: starts[TASK]}
    return {TASK: text_rows([spec.task] * batch)} if spec.task else {}


class _Seat:
    """A policy in its place: its rows, its carry, its fence."""

    def __init__(self, actor: Actor, spec: WorldSpec, *, batch: int) -> None:
        self.name, self.rows, self.needs, self.chunk = actor.name, actor.rows, frozenset[str](), 1
        self._actor, self._dim = actor, spec.action.dim
        self._drawn = {camera.key for camera in spec.cameras}
        self._size = len(range(batch)[actor.rows]) if isinstance(actor.rows, slice) else len(actor.rows)
        self._carry: Any = None

    @property
    def out(self) -> bool:
        """Whether the policy has failed."""
        return self._actor.fence is not None and self._actor.fence.failure is not None

    def begin(self, seen: Observation) -> None:
        """Let the policy begin its episodes."""
        policy = self._actor.policy
        with self._guard("start", 0):
            self.needs = frozenset(policy.needs)
            self._require({key: seen[key] for key in seen if not is_image(key) or key in self._drawn})
            self.chunk = max(1, int(policy.actions_per_look)) if isinstance(policy, Chunked) else 1
            self._carry = policy.initial(self._size)

    def act(self, seen: Observation, keys: Tensor, step: int) -> Tensor | None:
        """Actions [n, A], not yet checked for NaN; None if the policy has failed, now or before."""
        if self.out:
            return None
        action_nA: Tensor | None = None
        with self._guard("act", step):
            if step:
                self._require(seen)  # after the start it is the world that gives
            own = {name: self._copy(seen[name]) for name in self.needs}
            given, self._carry = self._actor.policy.act(own, self._carry, self._copy(keys))
            try:
                action_nA = action_rows(given, n=self._size, dim=self._dim)
            except InvalidInputError as error:
                raise self._error(str(error)) from error
        return action_nA

    def refuse(self, step: int) -> None:
        """Take out a policy whose actions are not finite."""
        with self._guard("act", step):
            raise self._error("it returned NaN or infinite actions")

    def _guard(self, stage: Stage, step: int) -> AbstractContextManager[None, bool | None]:
        fence = self._actor.fence
        return nullcontext() if fence is None else fence.guard(stage, step)

    def _copy(self, values: Tensor) -> Tensor:
        """Its rows, copied, so that no policy can write into the world's own state."""
        return values[self.rows].clone() if isinstance(self.rows, slice) else values[self.rows]

    def _require(self, seen: Observation) -> None:
        missing = sorted(self.needs - seen.keys())
        if missing:
            given = ", ".join(sorted(seen)) or "nothing"
            raise self._error(
                f"it needs {', '.join(map(str, missing))}, which this world does not give; it gives {given}"
            )

    def _error(self, text: str) -> InvalidInputError:
        """A fence knows whose fault it is; without one the message names the policy."""
        named = f"Policy {self._actor.name!r} {text.removeprefix('it ')}."
        return InvalidInputError(text if self._actor.fence is not None else named)


def _act(seats: Sequence[_Seat], seen: Observation, idle_BA: Tensor, keys: Tensor, t: int) -> Tensor:
    """Actions [B, A] of one step; rows without a policy idle."""
    action_BA = idle_BA.clone()
    for seat in seats:
        own = seat.act(seen, keys, t)
        if own is not None:
            action_BA[seat.rows] = own.to(action_BA.device)
    if not bool(action_BA.isfinite().all()):
        for seat in seats:
            if not bool(action_BA[seat.rows].isfinite().all()):
                seat.refuse(t)
                action_BA[seat.rows] = idle_BA[seat.rows]
    return action_BA


def _beginning(world: World, state: WorldState, starts: Observation) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """First frames [B, H, W, 3] by camera key, progress [B] and success [B], as far as the world can say."""
    keys = [camera.key for camera in require_drawable(world).spec.cameras]
    if not isinstance(world, Filterable):
        unknown = torch.full((state.batch,), float("nan"))
        return {key: starts[key] for key in keys}, unknown, unknown
    present = world.present(state)
    return observe(world, present, frozenset(keys)), present.progress, present.success


def policy_keys(keys: Tensor, steps: int, *, stream: int = POLICY_STREAM) -> Tensor:
    """Noise keys that policies see, int64 [T, B], from the episodes' keys int64 [B]."""
    at = torch.arange(steps).repeat_interleave(len(keys))
    return fold(fold(keys, stream).repeat(steps), at).reshape(steps, len(keys))


def rollout(world: World, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
    """Step a world through `actions` [B, T, ...] and stack the steps; what `World.rollout` promises, for any world."""
    steps = []
    for action in actions.unbind(1):
        state, step = world.step(state, action)
        steps.append(step)
    return state, Rollout.stack(steps, actions)
