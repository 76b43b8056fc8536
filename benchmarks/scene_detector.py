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

SCHEDULE = Schedule(steps=1600, batch=32, lr=3e-3, weight_decay=1e-3)
PRESENT = 0.3
"""Height of a peak from which a target counts as detected."""
_SPREAD = 1.3  # cells
_EACH = 24  # frames of an episode
_SHARP = 0.05  # cells; errors of places far above count by their size
_REACH = 2  # cells around the peak whose centre of mass is the place


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Where targets are in frames."""

    place_NJ2: Tensor  # pixels
    peak_NJ: Tensor  # 0..1
    turn_N2: Tensor  # cosine and sine of the thing's angle, times its order; not of unit length


class Detector(nn.Module):
    """Heatmaps of both targets, how far each is from every cell, and maps of cosine and sine of the thing's angle."""

    def __init__(self) -> None:
        super().__init__()

        def block(entry: int, out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(entry, out, 3, stride, 1), nn.GroupNorm(4, out), nn.SiLU())

        self.fine = block(12, 24)
        self.middle = nn.Sequential(block(24, 40, 2), block(40, 40))
        self.coarse = nn.Sequential(block(40, 48, 2), block(48, 48))
        self.join, self.lift = nn.Conv2d(48, 40, 1), nn.Conv2d(40, 24, 1)
        self.out = nn.Sequential(block(24, 32), nn.Conv2d(32, 6, 1))
        self.turn = nn.Sequential(block(40, 40), nn.Conv2d(40, 2, 1))

    def forward(self, frames_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [N, J, h, w], offsets [N, J, 2, h, w] in cells, and turns [N, 2, h, w] of frames in 0..1, of even height and width."""
        fine = self.fine(F.pixel_unshuffle(frames_NCHW, 2))
        middle = self.middle(fine)
        middle = middle + F.interpolate(self.join(self.coarse(middle)), size=middle.shape[-2:])
        out = self.out(fine + F.interpolate(self.lift(middle), size=fine.shape[-2:]))
        turn = F.interpolate(self.turn(middle), size=fine.shape[-2:])
        return out[:, :2], out[:, 2:].unflatten(1, (2, 2)), turn

    @torch.no_grad()
    def find(self, frames_NHWC: Tensor) -> Found:
        """Detect in uint8 frames [N, H, W, 3]."""
        parts = [self(part.movedim(-1, 1).float() / 255) for part in frames_NHWC.split(64)]
        scores, offset, turn = (torch.cat(each) for each in zip(*parts, strict=True))
        heat = scores.sigmoid()
        h, w = heat.shape[-2:]
        peak, cell = heat.flatten(2).max(-1)
        ys, xs = torch.arange(h), torch.arange(w)
        near_y = (ys - cell.div(w, rounding_mode="floor")[..., None]).abs() <= _REACH
        near_x = (xs - (cell % w)[..., None]).abs() <= _REACH
        mass = heat * near_y[..., None] * near_x[..., None, :]
        mass = mass / mass.sum((-1, -2), keepdim=True).clamp_min(1e-6)
        said = _cells(h, w) + offset  # where each cell says that the target is
        place = (said * mass[:, :, None]).sum((-1, -2))
        return Found(place_NJ2=place * 2 + 0.5, peak_NJ=peak, turn_N2=(turn * mass[:, :1]).sum((-1, -2)))


def places(state: Tensor, scene: type[Scene], size: tuple[int, int]) -> Tensor:
    """Where the thing may be found, [N, M, 2] in pixels of true states [N, 9] and frames of H, W: at its other end as well where it has one."""
    at = state[:, THING]
    if scene.pivot is None:
        return at[:, None]
    pivot = torch.tensor([scene.pivot[0] * size[1] - 0.5, scene.pivot[1] * size[0] - 0.5]).to(at)
    return torch.stack([at, 2 * pivot - at], 1)


def fit_detector(
    dataset: Dataset, episodes: Sequence[int], scene: type[Scene], folder: Path, schedule: Schedule = SCHEDULE
) -> Detector:
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
    targets = places(state_NE, scene, (height, width)), state_NE[:, None, TIP]
    with seeded(0):
        detector = Detector()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(1_000_003 + step)
        rows = torch.randint(len(frames_NHWC), (schedule.batch,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            scores, offset, turn = (out.float() for out in detector(frames_NHWC[rows].movedim(-1, 1).float() / 255))
        bumps, away = zip(*(_bumps(at[rows], height // 2, width // 2) for at in targets), strict=True)
        target, near = torch.stack(bumps, 1), torch.stack(bumps, 1).sum((-1, -2)).clamp_min(1)
        miss = F.binary_cross_entropy_with_logits(scores, target, weight=1 + 20 * target)
        off = (offset - torch.stack(away, 1)).square().sum(2).add(_SHARP**2).sqrt()
        turned = (turn - state_NE[rows, ANGLE, None, None]).square().sum(1)
        placed = ((off * target).sum((-1, -2)) / near).mean()
        return miss + placed + (turned * target[:, 0]).sum() / target[:, 0].sum().clamp_min(1), {
            "placed": float(placed.detach())
        }

    fit(detector, loss_at, schedule, folder=folder, stage="detector")
    return detector.eval()


def _bumps(at_NM2: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """A bump at the nearest of the places [N, M, 2] in pixels, [N, h, w], and the way to it from every cell, [N, 2, h, w] in cells."""
    way_NM2hw = ((at_NM2 - 0.5) / 2)[..., None, None] - _cells(h, w)
    square = way_NM2hw.square().sum(2)
    nearest = square.argmin(1)[:, None, None].expand(-1, 1, 2, -1, -1)
    return torch.exp(-square.amin(1) / (2 * _SPREAD**2)), way_NM2hw.gather(1, nearest)[:, 0]


def _cells(h: int, w: int) -> Tensor:
    """The x and y of every cell, [2, h, w]."""
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([xs, ys]).float()
