"""The latent of a structured scene: proprioception, then each thing's pose and look, one row of numbers.

Shape legend: P proprio, K things, d code, D latent channels.
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

    def join(self) -> Tensor:
        """The latent [..., D]."""
        things = torch.cat([self.pose, self.seen[..., None], self.code], -1)
        return torch.cat([self.p, things.flatten(-2)], -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """Where a latent holds what.

    Attributes:
        proprio_dim: P.
        things: K.
        code_dim: d.
    """

    proprio_dim: int
    things: int
    code_dim: int

    @property
    def size(self) -> int:
        """D."""
        return self.proprio_dim + self.things * (POSE + 1 + self.code_dim)

    def split(self, z: Tensor) -> SceneState:
        """Take a latent [..., D] apart."""
        things = z[..., self.proprio_dim :].unflatten(-1, (self.things, POSE + 1 + self.code_dim))
        return SceneState(
            p=z[..., : self.proprio_dim], pose=things[..., :POSE], seen=things[..., POSE], code=things[..., POSE + 1 :]
        )
