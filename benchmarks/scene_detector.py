"""A detector of the thing and the robot's tip in frames, fitted on true frames with known places: what worlds are measured by.

Shape legend: N frames, H W pixels, J=2 targets (thing, tip), h w heatmap at half the resolution.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.scene_base import ANGLE, THING, TIP, Scene
from worldsim.data.lerobot.read import Dataset
from worldsim.noise import seeded
from worldsim.optimize import Schedule, fit

SCHEDULE = Schedule(steps=900, batch=32, lr=3e-3, weight_decay=1e-3)
PRESENT = 0.3
"""Height of a peak from which a target counts as detected."""
_SPREAD = 1.3  # cells
_EACH = 24  # frames of an episode
_REACH = 3  # cells around the peak whose centre of mass is the place


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Where targets are in frames."""

    place_NJ2: Tensor  # pixels
    peak_NJ: Tensor  # 0..1
    turn_N2: Tensor  # cosine and sine of the thing's angle, times its order; not of unit length


class Detector(nn.Module):
    """Heatmaps of both targets, and maps of cosine and sine of the thing's angle."""

    def __init__(self) -> None:
        super().__init__()

        def block(entry: int, out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(entry, out, 3, stride, 1), nn.GroupNorm(4, out), nn.SiLU())

        self.fine = block(12, 24)
        self.middle = nn.Sequential(block(24, 40, 2), block(40, 40))
        self.coarse = nn.Sequential(block(40, 48, 2), block(48, 48))
        self.join, self.lift = nn.Conv2d(48, 40, 1), nn.Conv2d(40, 24, 1)
        self.out = nn.Sequential(block(24, 24), nn.Conv2d(24, 2, 1))
        self.turn = nn.Sequential(block(40, 40), nn.Conv2d(40, 2, 1))

    def forward(self, frames_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N, J, h, w] and turns [N, 2, h, w] of frames in 0..1, of even height and width."""
        fine = self.fine(F.pixel_unshuffle(frames_NCHW, 2))
        middle = self.middle(fine)
        middle = middle + F.interpolate(self.join(self.coarse(middle)), size=middle.shape[-2:])
        scores: Tensor = self.out(fine + F.interpolate(self.lift(middle), size=fine.shape[-2:]))
        return scores, F.interpolate(self.turn(middle), size=fine.shape[-2:])

    @torch.no_grad()
    def find(self, frames_NHWC: Tensor) -> Found:
        """Detect in uint8 frames [N, H, W, 3]."""
        parts = [self(part.movedim(-1, 1).float() / 255) for part in frames_NHWC.split(64)]
        heat, turn = torch.cat([scores for scores, _ in parts]).sigmoid(), torch.cat([turn for _, turn in parts])
        h, w = heat.shape[-2:]
        peak, cell = heat.flatten(2).max(-1)
        ys, xs = torch.arange(h), torch.arange(w)
        near_y = (ys - cell.div(w, rounding_mode="floor")[..., None]).abs() <= _REACH
        near_x = (xs - (cell % w)[..., None]).abs() <= _REACH
        mass = heat * near_y[..., None] * near_x[..., None, :]
        total = mass.sum((-1, -2)).clamp_min(1e-6)
        x, y = (mass.sum(-2) * xs).sum(-1) / total, (mass.sum(-1) * ys).sum(-1) / total
        turn = (turn * mass[:, :1]).sum((-1, -2)) / total[:, :1]
        return Found(place_NJ2=torch.stack([x, y], -1) * 2 + 0.5, peak_NJ=peak, turn_N2=turn)


def places(state: Tensor, scene: type[Scene], size: tuple[int, int]) -> Tensor:
    """Where the thing may be found, [N, M, 2] in pixels of true states [N, 9] and frames of H, W: at its other end as well where it has one."""
    at = state[:, THING]
    if scene.pivot is None:
        return at[:, None]
    pivot = torch.tensor([scene.pivot[0] * size[1] - 0.5, scene.pivot[1] * size[0] - 0.5]).to(at)
    return torch.stack([at, 2 * pivot - at], 1)


def fit_detector(dataset: Dataset, episodes: Sequence[int], scene: type[Scene], folder: Path) -> Detector:
    """Fit a detector on true frames, continuing from `folder`."""
    frames, states = list[Tensor](), list[Tensor]()
    generator = torch.Generator().manual_seed(0)
    for index in episodes:
        episode = dataset.episode(index)
        rows = torch.randperm(episode.steps + 1, generator=generator)[:_EACH]
        (seen,) = episode.frames.values()
        assert episode.true_state is not None
        states.append(torch.tensor(episode.true_state)[rows])
        frames.append(torch.tensor(seen)[rows])
    frames_NHWC, state_NE = torch.cat(frames), torch.cat(states)
    height, width = frames_NHWC.shape[1:3]
    thing_NM2, tip_N12 = places(state_NE, scene, (height, width)), state_NE[:, None, TIP]
    with seeded(0):
        detector = Detector()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(
            len(frames_NHWC), (SCHEDULE.batch,), generator=torch.Generator().manual_seed(1_000_003 + step)
        )
        scores, turn = detector(frames_NHWC[rows].movedim(-1, 1).float() / 255)
        target = torch.stack([_bumps(at[rows], height // 2, width // 2) for at in (thing_NM2, tip_N12)], 1)
        miss = F.binary_cross_entropy_with_logits(scores, target, weight=1 + 20 * target)
        off = (turn - state_NE[rows, ANGLE, None, None]).square().sum(1)
        return miss + (off * target[:, 0]).sum() / target[:, 0].sum().clamp_min(1), {}

    fit(detector, loss_at, SCHEDULE, folder=folder, stage="detector")
    return detector.eval()


def _bumps(at_NM2: Tensor, h: int, w: int) -> Tensor:
    """The highest of a bump at each of the places [N, M, 2] in pixels, [N, h, w]."""
    cells = (at_NM2 - 0.5) / 2
    dy = torch.arange(h)[:, None] - cells[..., 1, None, None]
    dx = torch.arange(w) - cells[..., 0, None, None]
    return torch.exp(-(dx * dx + dy * dy) / (2 * _SPREAD**2)).amax(1)
