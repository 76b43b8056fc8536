"""The latent of a structured scene: for each camera proprioception, its canvas, and each thing's pose and look, one row of numbers.

Each camera's part is what its tokenizer makes and draws from, so proprioception stands in it as often as there are cameras.

Shape legend: P proprio, S canvas codes and K things of all cameras, d code, D latent channels.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

POSE = 4
"""Numbers of a pose: x and y from the frame's centre in halves of its shorter side, cosine and sine of order * angle."""
MOVES = 0.35 / 32
"""A thing that goes farther than this in a step, in halves of the frame's shorter side, moves."""
_CHANGES = 0.1
"""A look whose code goes farther than this in a step changes."""
_FOUND = 0.5
"""Things seen better than this in both frames are compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneState:
    """A latent taken apart; leading axes are those of the latent.

    Attributes:
        p: [..., P], standardised proprioception.
        canvas: [..., S], in which way what is behind everything differs from the mean of all episodes.
        pose: [..., K, 4], see `POSE`.
        seen: [..., K], how much of each thing's picture is explained where it was found, 0 (nowhere) to 1.
        code: [..., K, d], how it looks apart from its angle.
    """

    p: Tensor
    canvas: Tensor
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
        canvases: Numbers of each camera's canvas code, S together; empty where all canvases are the same in every episode.
    """

    proprio_dim: int
    things: tuple[int, ...]
    code_dim: int
    canvases: tuple[int, ...] = ()

    @property
    def canvas_dims(self) -> tuple[int, ...]:
        """Numbers of each camera's canvas code."""
        return self.canvases or (0,) * len(self.things)

    @property
    def canvas_dim(self) -> int:
        """S."""
        return sum(self.canvas_dims)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each camera's part."""
        each = POSE + 1 + self.code_dim
        return tuple(
            self.proprio_dim + canvas + count * each
            for count, canvas in zip(self.things, self.canvas_dims, strict=True)
        )

    @property
    def size(self) -> int:
        """D."""
        return sum(self.sizes)

    def split(self, z: Tensor) -> SceneState:
        """Take a latent [..., D] apart; things stand in the order of cameras."""
        first, parts = self.proprio_dim, z.split(self.sizes, -1)
        cut = [part[..., first:].tensor_split([n], -1) for part, n in zip(parts, self.canvas_dims, strict=True)]
        canvas, things = (_joined(each) for each in zip(*cut, strict=True))
        things = things.unflatten(-1, (sum(self.things), POSE + 1 + self.code_dim))
        return SceneState(
            p=parts[0][..., :first],
            canvas=canvas,
            pose=things[..., :POSE],
            seen=things[..., POSE],
            code=things[..., POSE + 1 :],
        )

    def join(self, state: SceneState) -> Tensor:
        """The latent [..., D] of a state."""
        things = torch.cat([state.pose, state.seen[..., None], state.code], -1)
        own = zip(state.canvas.split(self.canvas_dims, -1), things.split(self.things, -2), strict=True)
        parts = [part for canvas, thing in own for part in (state.p, canvas, thing.flatten(-2))]
        return torch.cat(parts, -1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after another along the last axis, without a copy where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def things_move(state: SceneState, changes: Sequence[bool] = ()) -> tuple[Tensor, Tensor]:
    """Which things move between frames of a window, bool [..., T - 1, K], and how, [..., T - 1, K, 4].

    Things whose look changes move where it does.
    """
    motion = state.pose[..., 1:, :, :] - state.pose[..., :-1, :, :]
    both = (state.seen[..., 1:, :] > _FOUND) & (state.seen[..., :-1, :] > _FOUND)
    moves = motion[..., :2].norm(dim=-1) > MOVES
    if any(changes):
        look = (state.code[..., 1:, :, :] - state.code[..., :-1, :, :]).norm(dim=-1)
        moves = torch.where(torch.tensor(changes, device=look.device), look > _CHANGES, moves)
    return moves & both, motion
