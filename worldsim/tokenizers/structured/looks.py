"""Looks of things that are kept with their angles, colours and centres: what was seen in training, by which things are posed and drawn.

Shape legend: N rows, K things, Q looks kept, d code, S sprite side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.tokenizers.structured.turning import Turning, register_looks

COLOR = 3
_OPAQUE = 0.6
"""Opacity above which a pixel has the thing's own colour."""
_LIKE = 0.15
"""Kept looks whose colours are farther off than this, in 0..1, are hardly used."""
_SHADE = 0.05
"""Differences of colour within this are light and shadow, and not the thing's own."""
_SAME = 1e-4
_NEIGHBOURS = 1
"""Kept looks whose distance is that of looks that are alike."""
_SHARP = 0.06
"""How narrowly a look is chosen by its angle: the spread of cosines, about 4 degrees."""
_STRANGE = (4.5, 5.5)
"""Distances from the looks that were kept, in their standard deviations, from and to which something is ever less the thing."""
_USUAL = 0.95
"""Share of looks by which the usual ones are measured: a few may be of something else."""
_ROUNDS, _LEAST_STD = 5, 0.05
"""In which they are found, and the least deviation of a code."""


class KeptLooks(nn.Module):
    """Codes of each thing with what registration found of them."""

    code_KQd: Tensor
    phase_KQ2: Tensor
    color_KQ3: Tensor
    center_KQ2: Tensor
    width_K: Tensor
    mean_Kd: Tensor
    whiten_Kdd: Tensor

    def __init__(self, *, things: int, kept: int, code_dim: int) -> None:
        """Make room for looks of K things."""
        super().__init__()
        self.register_buffer("code_KQd", torch.zeros(things, kept, code_dim))
        self.register_buffer("phase_KQ2", torch.tensor([1.0, 0.0]).repeat(things, kept, 1))  # of order * angle
        self.register_buffer("color_KQ3", torch.zeros(things, kept, COLOR))  # mean colours of their sprites
        self.register_buffer("center_KQ2", torch.zeros(things, kept, 2))  # of the shape, in sprite half-sides
        self.register_buffer("width_K", torch.ones(things))  # distance between neighbouring codes
        self.register_buffer("mean_Kd", torch.zeros(things, code_dim))  # of usual codes
        self.register_buffer("whiten_Kdd", torch.zeros(things, code_dim, code_dim))  # takes them to deviations of 1

    def familiar(self, code_NKd: Tensor) -> Tensor:
        """How far codes are such as were seen in training, 1 to 0 [N, K]: on something else a thing is drawn as it never looked."""
        apart_NK = ((code_NKd - self.mean_Kd)[..., None, :] @ self.whiten_Kdd)[..., 0, :].norm(dim=-1)
        low, high = _STRANGE
        return ((high - apart_NK) / (high - low)).clamp(0, 1)

    def measure(self, things: Sequence[int], code_Nd: Tensor) -> Tensor:
        """Learn what is usual from the codes of some things, all of a kind; which are, bool [N], as some may be of something else."""
        usual_N = torch.ones(len(code_Nd), dtype=torch.bool)
        for _ in range(_ROUNDS):
            mean = code_Nd[usual_N].mean(0)
            off = code_Nd[usual_N] - mean
            spread = off.T @ off / len(off) + _LEAST_STD**2 * torch.eye(code_Nd.shape[1])
            whiten = torch.linalg.inv(torch.linalg.cholesky(spread)).T
            apart_N = ((code_Nd - mean) @ whiten).norm(dim=-1)
            usual_N = apart_N <= apart_N.quantile(_USUAL)
        self.mean_Kd[list(things)], self.whiten_Kdd[list(things)] = mean, whiten
        return apart_N < _STRANGE[1]

    def keep(self, things: Sequence[int], code_Qd: Tensor, sprite_Q4SS: Tensor) -> Turning:
        """Register the sprites of codes on each other, and keep them as looks of some things."""
        found = register_looks(sprite_Q4SS[:, 3])
        turned = found.angle_N * max(found.order, 1)
        apart = torch.cdist(code_Qd, code_Qd)
        apart = apart.masked_fill(apart < _SAME, torch.inf).kthvalue(min(_NEIGHBOURS, len(code_Qd)), 1).values
        width = apart[apart.isfinite()].median().nan_to_num(0.0).clamp_min(0.01)
        for k in things:
            self.code_KQd[k], self.center_KQ2[k] = code_Qd, found.center_N2
            self.phase_KQ2[k] = torch.stack([turned.cos(), turned.sin()], -1)
            self.color_KQ3[k] = mean_color(sprite_Q4SS[:, :3], sprite_Q4SS[:, 3:])
            self.width_K[k] = width
        return found

    def keep_some(self, other: "KeptLooks", things: Sequence[int]) -> None:
        """Take the looks of some things of another, by their numbers in order."""
        for name, buffer in self.named_buffers():
            buffer.copy_(getattr(other, name)[list(things)])

    def pose(self, k: int, code_Nd: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of order * angle, [N, 2], and centre [N, 2] of codes of a thing: those of looks that are like them."""
        weight = self._near(k, code_Nd)
        phase = weight @ self.phase_KQ2[k]
        return phase / phase.norm(dim=-1, keepdim=True).clamp_min(1e-3), weight @ self.center_KQ2[k]

    def turned(self, k: int, phase_N2: Tensor, color_N3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a thing that turns looks like at an angle.

        Args:
            k: Which thing.
            phase_N2: Cosine and sine of order * angle.
            color_N3: Its mean colour, 0..1; zeros where that is not known.

        Returns:
            Code [N, d] and centre [N, 2] of the looks at that angle, of a colour like the thing's where there are several; and the
            colour [N, 3] that they lack.
        """
        known = color_N3.any(-1, keepdim=True)
        unlike = torch.cdist(color_N3, self.color_KQ3[k]).square() / (2 * _LIKE**2) * known
        weight = torch.softmax((phase_N2 @ self.phase_KQ2[k].T - 1) / _SHARP**2 - unlike, -1)
        lacks = nn.functional.softshrink(color_N3 - weight @ self.color_KQ3[k], _SHADE) * known
        return weight @ self.code_KQd[k], weight @ self.center_KQ2[k], lacks

    def center(self, k: int, code_Nd: Tensor) -> Tensor:
        """Centre [N, 2] of codes of a thing."""
        return self._near(k, code_Nd) @ self.center_KQ2[k]

    def _near(self, k: int, code_Nd: Tensor) -> Tensor:
        """How much each kept look is like codes, [N, Q]."""
        distance = torch.cdist(code_Nd, self.code_KQd[k]).square()
        return torch.softmax(-distance / (2 * self.width_K[k] ** 2), -1)


def mean_color(color_N3SS: Tensor, alpha_N1SS: Tensor) -> Tensor:
    """Mean colour [N, 3] of what is opaque."""
    weight = alpha_N1SS * (alpha_N1SS > _OPAQUE)
    mean: Tensor = (color_N3SS * weight).sum((-1, -2)) / weight.sum((-1, -2)).clamp_min(1e-3)
    return mean
