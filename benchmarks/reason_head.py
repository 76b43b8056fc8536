"""The judge's baseline: a small convolutional network that reads the outcome off the same frames of the same episodes.

It answers nothing else, takes no prompt and gives no reasons; a critic should be no worse at what both do.

Shape legend: N episodes, B batch, F frames, S side in pixels.
"""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim.reason.items.sources import Source
from worldsim.reason.items.video import resize_frames, spread_frames

FRAMES, SIDE = 8, 32
"""What the judge is shown too."""
STEPS, BATCH, LR = 1200, 64, 2e-3
SHIFT = 2
"""Largest shift of an episode's picture in training, in pixels."""


class Head(nn.Module):
    """Log-odds of success and of progress from the frames of entire episodes: uint8 [B, F, S, S, 3] -> two of [B]."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
        self.look = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIDE // 8) ** 2, 64), nn.SiLU())
        self.settle = nn.Sequential(nn.Linear(64 * FRAMES, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, frames_BFSSC: Tensor) -> tuple[Tensor, Tensor]:
        """Look at every frame alone, then at what was seen of all."""
        x_NCSS = ((frames_BFSSC.float() - self.mean) / self.deviation).flatten(0, 1).movedim(-1, 1)
        success_B, progress_B = self.settle(self.look(x_NCSS).reshape(len(frames_BFSSC), -1)).unbind(-1)
        return success_B, progress_B


def shown(source: Source) -> tuple[Tensor, NDArray[np.bool_], Tensor]:
    """Frames uint8 [N, F, S, S, 3], whether solved, bool [N], and progress at the end, float32 [N], of a source."""
    frames, solved, progress = [], [], []
    for index in range(len(source)):
        video = source.video(index)
        assert video.success is not None and video.progress is not None
        frames.append(resize_frames(video.frames[list(spread_frames(len(video), FRAMES))], SIDE))
        solved.append(video.success >= 0.5)
        progress.append(float(video.progress[-1]))
    return torch.stack(frames), np.array(solved, np.bool_), torch.tensor(progress)


def train_head(source: Source, *, seed: int = 0) -> tuple[Head, float]:
    """Train on labelled episodes; each batch holds solved and unsolved ones alike, as the judge's items do.

    Returns:
        The head and its core-seconds.
    """
    frames, solved, progress = shown(source)
    began, generator = time.process_time(), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(float(frames.float().mean()), float(frames.float().std()))
    optimiser = torch.optim.AdamW(head.parameters(), LR, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=STEPS)
    pools = [torch.from_numpy(np.flatnonzero(solved == good)) for good in (True, False)]
    label = torch.from_numpy(solved.astype(np.float32))
    for _ in range(STEPS):
        rows = torch.cat([p[torch.randint(len(p), (BATCH // 2,), generator=generator)] for p in pools])
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        success_B, progress_B = head(frames[rows].roll((down, right), (2, 3)))
        loss = F.binary_cross_entropy_with_logits(success_B, label[rows])
        loss = loss + 10 * F.mse_loss(progress_B.sigmoid(), progress[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        plan.step()
    if not math.isfinite(float(loss.detach())):
        raise RuntimeError(f"The baseline's loss is {float(loss.detach())}.")
    return head.eval(), time.process_time() - began


@torch.no_grad()
def logodds(head: Head, source: Source) -> NDArray[np.float64]:
    """Of success, [N]."""
    found: NDArray[np.float64] = head(shown(source)[0])[0].double().numpy()
    return found
