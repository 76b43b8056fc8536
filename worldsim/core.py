"""The frozen dataclasses that cross rooms: observations, world states, world steps, rollouts, verdicts.

Not for behaviour: whoever makes or uses these values lives elsewhere.

Shape legend: B episodes in a batch, T steps, c h w latent, H W image, P proprio, A action, E true state.
Frames at this boundary are uint8 HWC in 0..255; everything else is float32 unless said otherwise.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.errors import InvalidInputError

IMAGE = "observation.image"
"""uint8 [B, H, W, 3]: the camera frame (LeRobot's key)."""
STATE = "observation.state"
"""float32 [B, P]: proprioception, in physical units (LeRobot's key)."""
TRUE_STATE = "observation.environment_state"
"""float32 [B, E]: the simulator's own task state; only simulators and state worlds have it (LeRobot's key)."""
SIMULATOR = "simulator.state"
"""float64 [B, S]: everything a simulator needs to resume exactly here; only starts carry it."""

Observation = Mapping[str, Tensor]
"""Arrays by LeRobot key, each with leading B; the keys above."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Base of dataclasses whose fields are tensors with one leading batch axis B."""

    @property
    def batch(self) -> int:
        """Number of rows B."""
        first = dataclasses.fields(self)[0]
        return int(getattr(self, first.name).shape[0])

    def rows(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Return the rows at `index`, in that order.

        Args:
            index: int64 [N] positions, a slice, or a bool [B] mask.
        """
        chosen = index if isinstance(index, slice | Tensor) else torch.as_tensor(index, dtype=torch.int64)
        return dataclasses.replace(self, **{k: v[chosen] for k, v in self._tensors()})

    def repeat(self, n: int) -> Self:
        """Repeat every row `n` times in place order: [B] -> [B * n], for branching."""
        return dataclasses.replace(self, **{k: v.repeat_interleave(n, dim=0) for k, v in self._tensors()})

    def to(self, device: torch.device | str) -> Self:
        """Return the same rows on `device`."""
        return dataclasses.replace(self, **{k: v.to(device) for k, v in self._tensors()})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Concatenate along the batch axis. All parts must be of one class."""
        if not parts:
            raise InvalidInputError("cat needs at least one part; got an empty sequence.")
        names = [k for k, _ in parts[0]._tensors()]
        return dataclasses.replace(parts[0], **{k: torch.cat([getattr(p, k) for p in parts]) for k in names})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        """Name and value of every tensor field; a field that is None is skipped."""
        pairs = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]
        return [(k, v) for k, v in pairs if isinstance(v, Tensor)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldState(Rows):
    """Where B imagined episodes stand. Implementations subclass it and add tensors of their own."""

    key: Tensor  # int64 [B], the episode's noise key
    step: Tensor  # int64 [B], steps taken since reset


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldStep(Rows):
    """What one step of a world yields."""

    latent: Tensor  # [B, c, h, w], for `World.decode`
    proprio: Tensor  # [B, P], physical units
    progress: Tensor  # [B], task progress in 0..1
    success: Tensor  # [B], probability in 0..1 that the task stands solved now
    uncertainty: Tensor  # [B], >= 0, spread of the world's members; 0 for a simulator
    true_state: Tensor | None = None  # [B, E], only simulators and state worlds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout(Rows):
    """T consecutive steps of B episodes, and the actions that led to them."""

    latent: Tensor  # [B, T, c, h, w]
    proprio: Tensor  # [B, T, P]
    progress: Tensor  # [B, T]
    success: Tensor  # [B, T]
    uncertainty: Tensor  # [B, T]
    action: Tensor  # [B, T, A]
    true_state: Tensor | None = None  # [B, T, E]

    @classmethod
    def stack(cls, steps: Sequence[WorldStep], action_bta: Tensor) -> "Rollout":
        """Stack T world steps [B, ...] into one rollout [B, T, ...]."""
        names = ["latent", "proprio", "progress", "success", "uncertainty"]
        if steps[0].true_state is not None:
            names.append("true_state")
        return cls(action=action_bta, **{k: torch.stack([getattr(s, k) for s in steps], dim=1) for k in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """What a world promises: everything a policy, planner or triage must know before the first step."""

    action: ActionSpec
    image_size: tuple[int, int]  # H, W in pixels
    latent_shape: tuple[int, int, int]  # c, h, w
    proprio_dim: int  # P
    horizon: int  # steps in an episode
    success_at: Literal["end", "any"] = "end"  # an episode is solved at its last step, or at any step
    task: str = ""  # one sentence, for people and language-conditioned policies
    task_id: str = ""  # Gymnasium id of the true environment, where there is one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict(Rows):
    """A judge's opinion of B rollouts."""

    success: Tensor  # [B], probability in 0..1 that the episode solved its task
    progress: Tensor  # [B], how far it got, 0..1
    abstain: Tensor  # bool [B], the judge declines to say
    failed_at: Tensor  # int64 [B], first failing step, -1 where none
    text: tuple[str, ...] = ()  # one rationale per row, or empty
