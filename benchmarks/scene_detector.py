"""A detector of the thing and the robot's tip in frames, fitted on true frames with known places: what worlds are measured by.

Shape legend: N frames, H W pixels, J=2 targets (thing, tip), h w heatmap at half the resolution.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.scene_base import THING, TIP
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


class Detector(nn.Module):
    """Heatmaps of both targets."""

    def __init__(self) -> None:
        super().__init__()

        def block(entry: int, out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(entry, out, 3, stride, 1), nn.GroupNorm(4, out), nn.SiLU())

        self.fine = block(12, 24)
        self.middle = nn.Sequential(block(24, 40, 2), block(40, 40))
        self.coarse = nn.Sequential(block(40, 48, 2), block(48, 48))
        self.join, self.lift = nn.Conv2d(48, 40, 1), nn.Conv2d(40, 24, 1)
        self.out = nn.Sequential(block(24, 24), nn.Conv2d(24, 2, 1))

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Scores [N, J, h, w] of frames in 0..1, of even height and width."""
        fine = self.fine(F.pixel_unshuffle(frames_NCHW, 2))
        middle = self.middle(fine)
        middle = middle + F.interpolate(self.join(self.coarse(middle)), size=middle.shape[-2:])
        scores: Tensor = self.out(fine + F.interpolate(self.lift(middle), size=fine.shape[-2:]))
        return scores

    @torch.no_grad()
    def find(self, frames_NHWC: Tensor) -> Found:
        """Detect in uint8 frames [N, H, W, 3]."""
        parts = [self(part.movedim(-1, 1).float() / 255).sigmoid() for part in frames_NHWC.split(64)]
        heat = torch.cat(parts)
        h, w = heat.shape[-2:]
        peak, cell = heat.flatten(2).max(-1)
        ys, xs = torch.arange(h), torch.arange(w)
        near_y = (ys - cell.div(w, rounding_mode="floor")[..., None]).abs() <= _REACH
        near_x = (xs - (cell % w)[..., None]).abs() <= _REACH
        mass = heat * near_y[..., None] * near_x[..., None, :]
        total = mass.sum((-1, -2)).clamp_min(1e-6)
        x, y = (mass.sum(-2) * xs).sum(-1) / total, (mass.sum(-1) * ys).sum(-1) / total
        return Found(place_NJ2=torch.stack([x, y], -1) * 2 + 0.5, peak_NJ=peak)


def fit_detector(dataset: Dataset, episodes: Sequence[int], folder: Path) -> Detector:
    """Fit a detector on true frames, continuing from `folder`."""
    frames, places = list[Tensor](), list[Tensor]()
    generator = torch.Generator().manual_seed(0)
    for index in episodes:
        episode = dataset.episode(index)
        rows = torch.randperm(episode.steps + 1, generator=generator)[:_EACH]
        (seen,) = episode.frames.values()
        assert episode.true_state is not None
        true = torch.tensor(episode.true_state)[rows]
        frames.append(torch.tensor(seen)[rows])
        places.append(torch.stack([true[:, THING], true[:, TIP]], 1))
    frames_NHWC, place_NJ2 = torch.cat(frames), torch.cat(places)
    with seeded(0):
        detector = Detector()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(
            len(frames_NHWC), (SCHEDULE.batch,), generator=torch.Generator().manual_seed(1_000_003 + step)
        )
        scores = detector(frames_NHWC[rows].movedim(-1, 1).float() / 255)
        cells = (place_NJ2[rows] - 0.5) / 2
        dy = torch.arange(scores.shape[2])[None, None, :, None] - cells[..., 1, None, None]
        dx = torch.arange(scores.shape[3])[None, None, None, :] - cells[..., 0, None, None]
        target = torch.exp(-(dx * dx + dy * dy) / (2 * _SPREAD**2))
        weight = 1 + 20 * target
        miss = F.binary_cross_entropy_with_logits(scores, target, weight=weight)
        return miss, {}

    fit(detector, loss_at, SCHEDULE, folder=folder, stage="detector")
    return detector.eval()
