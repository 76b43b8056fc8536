"""Goal-directed exploration: policies that drive a tracked point to one goal after another.

The point is the robot's own proprioception (`sweep`) or what moves in the picture (`contact_seeking`, which needs frames
only). Neither knows the robot: how actions move the point is learned within the episode, by ridge regression of observed
motion on actions. `varied_behaviours` mixes both with random exploration.

Shape legend: n episodes, A action, D tracked coordinates, P proprio, H W pixels, S steps of a block.
"""

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Observation
from worldsim.data.collect.random_exploration import BLOCK, Behaviour, Corrupted, Hold, Switching, Wander
from worldsim.noise import normal, uniform

_DRAW, _NOISE = 0x5EE0, 0x5EE1
_PROBE = 3
"""First steps of an episode, spent on random actions to see what they do."""
_RIDGE = 0.05
_COARSE_PX = 32
"""Frames are subsampled to about this many rows and columns."""
_CHANGED = 24.0
"""A pixel has changed when its three colours together differ by more than this."""
_AROUND = 0.12
"""What is nearer to the tracked point than this share of the picture is taken for the robot itself."""


class Tracker(Protocol):
    """Locates the tracked point and proposes goals for it. Holds no state: its memory is passed in and returned."""

    @property
    def needs(self) -> frozenset[str]:
        """Observation keys it reads."""

    def locate(self, observation: Observation, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Position of the tracked point, float32 [n, D]; whether it is known, bool [n]; and the new memory."""

    def propose(self, observation: Observation, memory: Tensor, at: Tensor, chance: Tensor) -> Tensor:
        """A new goal, float32 [n, D], given where the point is and uniform draws, both [n, D]."""


class ProprioTracker:
    """Tracks proprioception; goals lie in and around the range that it has covered so far."""

    needs: frozenset[str] = frozenset({STATE})

    def locate(self, observation: Observation, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The robot's own coordinates; memory is their range, float32 [n, 2, P]."""
        at = observation[STATE].float()
        low, high = (at, at) if memory is None else (memory[:, 0].minimum(at), memory[:, 1].maximum(at))
        return at, torch.ones(len(at), dtype=torch.bool), torch.stack([low, high], dim=1)

    def propose(self, observation: Observation, memory: Tensor, at: Tensor, chance: Tensor) -> Tensor:
        """Anywhere in three times the range, float32 [n, P]."""
        low, high = memory[:, 0], memory[:, 1]
        return low + (high - low) * (3 * chance - 1)


class MotionTracker:
    """Tracks where the picture changes, in shares of its height and width; goals are conspicuous places elsewhere.

    Args:
        camera: Observation key of the frames.
    """

    def __init__(self, camera: str = IMAGE) -> None:
        self.camera = camera

    @property
    def needs(self) -> frozenset[str]:
        """The camera's frames."""
        return frozenset({self.camera})

    def locate(self, observation: Observation, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The middle of what changed, [n, 2], since the last frame, which is the memory: subsampled, float32 [n, H, W, 3]."""
        frame = self._coarse(observation)
        before = frame if memory is None else memory
        changed = ((frame - before).abs().sum(-1) > _CHANGED).float()
        amount = changed.sum((1, 2))
        middle = torch.stack([(changed * g).sum((1, 2)) for g in _grid(changed)], dim=1) / amount.clamp_min(1)[:, None]
        return middle, amount > 0, frame

    def propose(self, observation: Observation, memory: Tensor, at: Tensor, chance: Tensor) -> Tensor:
        """A pixel [n, 2] drawn by how far its colour is from the most common one, the robot's own place left out."""
        colours = memory.flatten(1, 2)
        odd = (colours - colours.median(dim=1, keepdim=True).values).abs().sum(-1)
        rows, columns = (g.flatten()[None] for g in _grid(memory[..., 0]))
        far = (rows - at[:, :1]).square() + (columns - at[:, 1:]).square() > _AROUND**2
        mass = ((odd > _CHANGED) * odd * far + 1e-3).cumsum(1)
        pixel = (mass < chance[:, :1] * mass[:, -1:]).sum(1).clamp_max(mass.shape[1] - 1)
        return torch.stack([rows[0, pixel], columns[0, pixel]], dim=1)

    def _coarse(self, observation: Observation) -> Tensor:
        image = observation[self.camera]
        stride = [max(1, side // _COARSE_PX) for side in image.shape[1:3]]
        return image[:, :: stride[0], :: stride[1]].float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionModel:
    """How actions have moved the tracked point so far, by least squares, and the current goal."""

    gram: Tensor  # float32 [n, A, A], sum of products of actions
    cross: Tensor  # float32 [n, D, A], sum of products of motion and action
    at: Tensor  # float32 [n, D]
    goal: Tensor  # float32 [n, D]
    last: Tensor  # float32 [n, A], in [-1, 1]
    memory: Tensor  # the tracker's


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoalCarry:
    """Memory of `GoalSeeking`; None before the first step."""

    step: int = 0
    noise: Tensor | None = None  # float32 [n, S, A]
    chance: Tensor | None = None  # float32 [n, S, 1 + D]: whether to choose a new goal, and the goal
    model: MotionModel | None = None


class GoalSeeking:
    """Drives the tracked point to one goal after another, with some noise.

    Args:
        action: Meaning of the actions.
        tracker: What is tracked.
        steps: How long a goal is pursued, on average.
        noise: Standard deviation of added noise, in units of half the action's range.
    """

    def __init__(self, action: ActionSpec, tracker: Tracker, *, steps: float = 14.0, noise: float = 0.2) -> None:
        self.action, self.tracker, self.steps, self.noise = action, tracker, steps, noise

    @property
    def needs(self) -> frozenset[str]:
        """What the tracker reads."""
        return self.tracker.needs

    def initial(self, n: int) -> GoalCarry:
        """Return the carry of n fresh episodes."""
        return GoalCarry()

    def act(self, observation: Observation, carry: GoalCarry, keys: Tensor) -> tuple[Tensor, GoalCarry]:
        """Choose actions [n, A]."""
        memory = carry.model.memory if carry.model else None
        at, known, memory = self.tracker.locate(observation, memory)
        noise, chance = carry.noise, carry.chance
        if noise is None or chance is None or carry.step % BLOCK == 0:
            noise = normal(keys, 0, (BLOCK, self.action.dim), stream=_NOISE)
            chance = uniform(keys, 0, (BLOCK, 1 + at.shape[1]), stream=_DRAW)
        fresh, draw = noise[:, carry.step % BLOCK], chance[:, carry.step % BLOCK]
        learned = self._learn(carry.model, at, known, memory)
        moved = learned.at - carry.model.at if carry.model else torch.zeros_like(at)
        near = (learned.goal - learned.at).norm(dim=1) < 1.5 * moved.norm(dim=1)
        renew = near | (draw[:, 0] * self.steps < 1) | (carry.step <= _PROBE)
        goal = learned.goal
        if bool(renew.any()):
            goal = torch.where(renew[:, None], self.tracker.propose(observation, memory, learned.at, draw[:, 1:]), goal)
        towards = fresh if carry.step < _PROBE else self._towards(goal - learned.at, learned) + self.noise * fresh
        last = towards.clamp(-1, 1)
        model = dataclasses.replace(learned, goal=goal, last=last)
        kept = GoalCarry(step=carry.step + 1, noise=noise, chance=chance, model=model)
        return self.action.from_unit(last), kept

    def _learn(self, before: MotionModel | None, at: Tensor, known: Tensor, memory: Tensor) -> MotionModel:
        """Add what the last action did."""
        n, d = at.shape
        if before is None:
            gram = _RIDGE * torch.eye(self.action.dim).repeat(n, 1, 1)
            nothing = torch.zeros(n, d, self.action.dim)
            return MotionModel(gram=gram, cross=nothing, at=at, goal=at, last=nothing[:, 0], memory=memory)
        at = torch.where(known[:, None], at, before.at)
        rows = before.last[:, None]
        return dataclasses.replace(
            before,
            gram=before.gram + known[:, None, None] * rows.mT * rows,
            cross=before.cross + (at - before.at)[:, :, None] * rows,
            at=at,
            memory=memory,
        )

    @staticmethod
    def _towards(delta: Tensor, learned: MotionModel) -> Tensor:
        """The action, at most full speed, that should move the tracked point by delta: damped least squares."""
        effect = torch.linalg.solve(learned.gram, learned.cross.mT).mT  # [n, D, A]
        square = effect.mT @ effect
        size = square.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        damped = square + (1e-2 * size + 1e-12) * torch.eye(square.shape[1])
        action: Tensor = torch.linalg.solve(damped, effect.mT @ delta[:, :, None])[:, :, 0]
        fastest: Tensor = action.abs().amax(1, keepdim=True).clamp_min(1)
        return action / fastest


def sweep(action: ActionSpec, *, noise: float = 0.2) -> GoalSeeking:
    """Goal-directed random motion through the space of proprioception."""
    return GoalSeeking(action, ProprioTracker(), noise=noise)


def contact_seeking(action: ActionSpec, *, camera: str = IMAGE, noise: float = 0.2) -> GoalSeeking:
    """Drives what moves in a camera's picture at what stands out in it; needs frames only."""
    return GoalSeeking(action, MotionTracker(camera), noise=noise)


def varied_behaviours(action: ActionSpec, *, camera: str = IMAGE) -> tuple[Behaviour, ...]:
    """A mixture for any environment: noise, held actions, sweeps, contact, corruption, switching.

    Args:
        action: Meaning of the actions.
        camera: Observation key of the camera that contact is sought with.
    """
    seek, roam = contact_seeking(action, camera=camera), sweep(action)
    return (
        Behaviour(name="wander", policy=Wander(action), weight=0.2),
        Behaviour(name="hold", policy=Hold(action), weight=0.1),
        Behaviour(name="sweep", policy=Corrupted(roam, action), weight=0.2),
        Behaviour(name="contact", policy=Corrupted(seek, action), weight=0.35),
        Behaviour(name="switching", policy=Switching([seek, roam, Hold(action)]), weight=0.15),
    )


def _grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, in shares of height and width, [H, W] each."""
    rows, columns = (torch.linspace(0, 1, side) for side in like.shape[1:3])
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0], grid[1]
