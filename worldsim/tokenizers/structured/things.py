"""Object layers: where things are, how they look, and their sprites, found in what canvas and actor leave unexplained.

Things of one kind look alike: they share a heatmap, of which each takes a peak of its own, and a sprite.

Shape legend: N rows, K things, J kinds, d code, S sprite side, H W frame, C channels, P proprio, h w heatmap.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.tokenizers.structured.compose import place, windows

CODE_LIMIT = 2.0
"""Codes lie within this of zero."""
_GRID_PX = 64
"""About the shorter side of the frames in which positions are looked for; larger ones are averaged down."""
_NAME = 8
"""Numbers that tell the sprites of one kind from another's."""
_APART = 0.17
"""Least distance of two things of a kind where none was measured, in halves of the frame's shorter side."""
_NEVER = -1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThingsConfig:
    """Shape of the object layers.

    Attributes:
        image_size: H, W in pixels.
        proprio_dim: P.
        kinds: Of which kind each thing is, counted from 0, in order.
        code_dim: d, numbers that say how a thing looks.
        side: Of a sprite, as a share of the frame's shorter side.
        sprite_px: S, most pixels along a sprite.
    """

    image_size: tuple[int, int]
    proprio_dim: int
    kinds: tuple[int, ...]
    code_dim: int = 4
    side: float = 0.375
    sprite_px: int = 48

    @property
    def count(self) -> int:
        """K."""
        return len(self.kinds)

    @property
    def how_many(self) -> tuple[int, ...]:
        """Things of each kind."""
        return tuple(self.kinds.count(kind) for kind in sorted(set(self.kinds)))

    @property
    def side_px(self) -> float:
        """Side of a sprite in frame pixels."""
        return self.side * min(self.image_size)

    @property
    def size(self) -> int:
        """Side of a sprite in its own pixels, a multiple of four."""
        return max(4, 4 * round(min(self.side_px, self.sprite_px) / 4))


class ThingEncoder(nn.Module):
    """Finds each thing's place in a frame, and codes how it looks there."""

    apart_J: Tensor

    def __init__(self, config: ThingsConfig) -> None:
        """Make an untrained encoder."""
        super().__init__()
        self.config = config
        self.shrink = max(1, round(min(config.image_size) / _GRID_PX))
        self.heat = nn.Sequential(
            nn.Conv2d(6, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2),
            nn.SiLU(),
            nn.Conv2d(16, len(config.how_many), 3, padding=1),
        )
        self.register_buffer("apart_J", torch.full((len(config.how_many),), _APART))
        self.look = nn.Sequential(
            nn.Conv2d(6, 16, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 24, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(24 * (config.size // 4) ** 2, 64),
            nn.SiLU(),
            nn.Linear(64, config.code_dim),
        )

    def heatmap(self, frame_NCHW: Tensor, scene_NCHW: Tensor) -> Tensor:
        """Scores of every place for every kind, [N, J, h, w].

        Args:
            frame_NCHW: What is seen, in 0..1.
            scene_NCHW: The same without things.
        """
        small = (
            x if self.shrink == 1 else F.avg_pool2d(x, self.shrink, ceil_mode=True) for x in (frame_NCHW, scene_NCHW)
        )
        scores: Tensor = self.heat(_against(*small))
        return scores

    def places(self, scores_NJhw: Tensor) -> Tensor:
        """Where each thing is, [N, K, 2] in [-1, 1]: the expected place under softmax of the scores of its kind.

        Things of one kind take the peaks of their scores one after another, each of which rules out its neighbourhood for the
        next, and are ordered from left to right.
        """
        grid_hw2 = _grid(scores_NJhw)
        places = list[Tensor]()
        for kind, count in enumerate(self.config.how_many):
            scores = scores_NJhw[:, kind]
            if count == 1:
                places.append(_expected(scores, grid_hw2)[:, None])
                continue
            several = list[Tensor]()
            for _ in range(count):
                near = self._near(scores, grid_hw2, self.apart_J[kind])
                several.append(_expected(scores.masked_fill(~near, _NEVER), grid_hw2))
                scores = scores.masked_fill(near, _NEVER)
            at = torch.stack(several, 1)
            places.append(at.gather(1, at[..., :1].argsort(1).expand_as(at)))
        return torch.cat(places, 1)

    def _near(self, scores_Nhw: Tensor, grid_hw2: Tensor, apart: Tensor) -> Tensor:
        """Which places are near the highest score, bool [N, h, w]."""
        height, width = self.config.image_size
        halves = grid_hw2.new_tensor([width, height]) / min(height, width)
        peak_N2 = grid_hw2.flatten(0, 1)[scores_Nhw.detach().flatten(1).argmax(1)]
        return ((grid_hw2 - peak_N2[:, None, None]) * halves).norm(dim=-1) < apart

    def forward(self, frame_NCHW: Tensor, scene_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Places [N, K, 2] in [-1, 1] and codes [N, K, d] before they are limited; arguments as of `heatmap`."""
        xy_NK2 = self.places(self.heatmap(frame_NCHW, scene_NCHW))
        frame, scene = (
            windows(x, xy_NK2.detach(), self.config.side_px, self.config.size).flatten(0, 1)
            for x in (frame_NCHW, scene_NCHW)
        )
        return xy_NK2, self.look(_against(frame, scene)).unflatten(0, xy_NK2.shape[:2])


def _against(frame: Tensor, scene: Tensor) -> Tensor:
    """What is seen, and how it differs from the scene without things: [N, 6, ...]."""
    return torch.cat([frame, 2 * (frame - scene)], 1)


def _grid(scores: Tensor) -> Tensor:
    """Places of the cells of scores [..., h, w]: [h, w, 2] in [-1, 1]."""
    h, w = scores.shape[-2:]
    ys, xs = ((torch.arange(n, device=scores.device) * 2 + 1) / n - 1 for n in (h, w))
    return torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)], -1).to(scores)


def _expected(scores_Nhw: Tensor, grid_hw2: Tensor) -> Tensor:
    """Expected place under softmax of scores, [N, 2]."""
    return torch.softmax(scores_Nhw.flatten(1), -1) @ grid_hw2.flatten(0, 1)


def limit_code(raw: Tensor) -> Tensor:
    """Codes [..., d] within `CODE_LIMIT` of zero."""
    return CODE_LIMIT * torch.tanh(raw / CODE_LIMIT)


class ThingPainter(nn.Module):
    """Draws things from place and code, and says which are in front of the robot."""

    def __init__(self, config: ThingsConfig) -> None:
        """Make an untrained painter: sprites begin as soft discs."""
        super().__init__()
        self.config = config
        size = config.size
        self.name_JD = nn.Parameter(torch.randn(len(config.how_many), _NAME) * 0.5)
        entry = config.code_dim + 2 + _NAME
        self.draw = nn.Sequential(
            nn.Linear(entry, 96), nn.SiLU(), nn.Linear(96, 192), nn.SiLU(), nn.Linear(192, 4 * size * size)
        )
        self.front = nn.Sequential(nn.Linear(config.proprio_dim + 2 + _NAME, 32), nn.SiLU(), nn.Linear(32, 1))
        last, order = self.draw[-1], self.front[-1]
        assert isinstance(last, nn.Linear) and isinstance(order, nn.Linear)
        line = torch.linspace(-1, 1, size)
        disc = 1.5 - 8 * (line[:, None] ** 2 + line[None] ** 2)
        with torch.no_grad():
            last.weight.mul_(0.3)
            last.bias.zero_()
            last.bias.view(4, size, size)[3] = disc
            order.bias.fill_(-1.0)

    def sprites(self, xy_NK2: Tensor, code_NKd: Tensor) -> Tensor:
        """RGBA [N, K, 4, S, S] in 0..1, of things at places in [-1, 1]."""
        entry = torch.cat([code_NKd, xy_NK2, self._names(len(xy_NK2))], -1)
        size = self.config.size
        return torch.sigmoid(2 * self.draw(entry)).unflatten(-1, (4, size, size))

    def in_front(self, p_NP: Tensor, xy_NK2: Tensor) -> Tensor:
        """How far each thing is in front of the robot, [N, K, 1, 1, 1] in 0..1."""
        body = p_NP[:, None, : self.config.proprio_dim].expand(-1, self.config.count, -1)
        order: Tensor = torch.sigmoid(self.front(torch.cat([body, xy_NK2, self._names(len(p_NP))], -1)))
        return order[..., None, None]

    def layers(self, xy_NK2: Tensor, code_NKd: Tensor) -> Tensor:
        """The sprites in their places in frames, [N, K, 4, H, W]."""
        drawn = self.sprites(xy_NK2, code_NKd).flatten(0, 1)
        placed = place(drawn, xy_NK2.flatten(0, 1), self.config.side_px, self.config.image_size)
        return placed.unflatten(0, xy_NK2.shape[:2])

    def _names(self, rows: int) -> Tensor:
        return self.name_JD[list(self.config.kinds)].expand(rows, -1, -1)
