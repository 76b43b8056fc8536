"""The latent of a structured scene: for each camera proprioception, then each thing's pose and look, one row of numbers.

Each camera's part is what its tokenizer makes and draws from, so proprioception stands in it as often as there are cameras.

Shape legend: P proprio, K things of all cameras, d code, D latent channels.
"""

import dataclasses

import torch
from torch import Tensor

POSE = 4
"""Numbers of a pose: x and y from the frame's centre in halves of its shorter side, cosine and sine of order * angle."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneState:
    """A latent taken apart; leading axes are those of the latent.

    Attributes:
        p: [..., P], standardised proprioception.
        pose: [..., K, 4], see `POSE`.
        seen: [..., K], how much of each thing's picture is explained where it was found, 0 (nowhere) to 1.
        code: [..., K, d], how it looks apart from its angle.
    """

    p: Tensor
    pose: Tensor
    seen: Tensor
    code: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """Where a latent holds what.

    Attributes:
        proprio_dim: P.
        things: Of each camera; K together.
        code_dim: d.
    """

    proprio_dim: int
    things: tuple[int, ...]
    code_dim: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each camera's part."""
        return tuple(self.proprio_dim + count * (POSE + 1 + self.code_dim) for count in self.things)

    @property
    def size(self) -> int:
        """D."""
        return sum(self.sizes)

    def split(self, z: Tensor) -> SceneState:
        """Take a latent [..., D] apart; things stand in the order of cameras."""
        parts = z.split(self.sizes, -1)
        things = torch.cat([part[..., self.proprio_dim :] for part in parts], -1)
        things = things.unflatten(-1, (sum(self.things), POSE + 1 + self.code_dim))
        return SceneState(
            p=parts[0][..., : self.proprio_dim],
            pose=things[..., :POSE],
            seen=things[..., POSE],
            code=things[..., POSE + 1 :],
        )

    def join(self, state: SceneState) -> Tensor:
        """The latent [..., D] of a state."""
        things = torch.cat([state.pose, state.seen[..., None], state.code], -1)
        parts = [part for own in things.split(self.things, -2) for part in (state.p, own.flatten(-2))]
        return torch.cat(parts, -1)
