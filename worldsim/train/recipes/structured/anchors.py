"""Where the robot is, before anything is learned: points of the frame, linear in proprioception, at which something always is.

A tip of a few pixels is lost on an actor that begins anywhere: what it covers is too little beside what things cover. Points are
moved uphill on what differs from the canvas, coarse to fine, from many beginnings at once. Things are no function of
proprioception, so that no point stays on them in all frames.

Shape legend: N rows, G beginnings, F features, H W frame, h w map.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.tokenizers.structured.actor import Actor
from worldsim.train.recipes.structured.rows import FrameRows

_ROWS, _BEGINNINGS, _BATCH = 1500, 64, 128
_MAP_PX = 32
_DIFFERS = 0.1
"""Difference from the canvas, of 1, that counts in full."""
_BLURS_PX = (9, 5, 3, 1)
_STEPS, _RATE, _DECAY = 300, 0.003, 0.01
"""Steps at each blur, of which each moves a weight so far; points of a robot of many joints leave the frame where they move faster."""
_LEAST = 0.6
"""Share of frames in which something must be where a point is."""
_APART = 0.15
_MOST = 5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Points of the frame that follow proprioception, in order of how often something is there.

    Attributes:
        weight_GF2: Places in [-1, 1] are linear in features.
        offset_G2: And where these are zero.
        share_G: Of frames in which something is there.
    """

    weight_GF2: Tensor
    offset_G2: Tensor
    share_G: Tensor


def place_anchors(actor: Actor, rows: FrameRows, *, seed: int) -> Points:
    """Let anchors of an untrained actor with a canvas begin where the robot is in frames [N, 3, H, W]; the points come back."""
    few = rows.first(_ROWS)
    points = follow(actor, few, seed=seed)
    for anchor, (weight_F2, offset_2) in enumerate(zip(points.weight_GF2, points.offset_G2, strict=True)):
        actor.begin_anchor(anchor, weight_F2, offset_2)
    return points


def follow(actor: Actor, rows: FrameRows, *, seed: int) -> Points:
    """Find points at which something always is in frames [N, 3, H, W], at most five."""
    with torch.no_grad():
        f_NF = actor.features(actor.features.normalize(rows.proprio_NP))
        maps = _differences(actor, rows)
    generator = torch.Generator().manual_seed(seed)
    spread = 0.1 / f_NF.shape[1] ** 0.5
    weight = (torch.randn(_BEGINNINGS, f_NF.shape[1], 2, generator=generator) * spread).requires_grad_()
    offset = (torch.randn(_BEGINNINGS, 2, generator=generator) * 0.5).requires_grad_()
    optimizer = torch.optim.Adam([weight, offset])
    for stage, blur_px in enumerate(_BLURS_PX):
        soft = F.avg_pool2d(maps, blur_px, 1, blur_px // 2)
        soft = F.avg_pool2d(soft, blur_px, 1, blur_px // 2)
        optimizer.param_groups[0]["lr"] = _RATE / 2**stage
        for _ in range(_STEPS):
            some = torch.randint(len(rows), (_BATCH,), generator=generator)
            at_BG2 = _places(f_NF[some], weight, offset)
            outside = (at_BG2.abs() - 1).clamp_min(0).sum(-1)
            loss = (outside - _found(soft[some], at_BG2)).mean(0).sum() + _DECAY * weight.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        at_NG2 = _places(f_NF, weight, offset)
        share_G = _found(maps, at_NG2).mean(0)
        chosen = list[int]()
        for point in share_G.argsort(descending=True).tolist():
            apart = all((at_NG2[:, point] - at_NG2[:, other]).norm(dim=-1).mean() > _APART for other in chosen)
            if apart and share_G[point] >= _LEAST and len(chosen) < _MOST:
                chosen.append(point)
        return Points(weight_GF2=weight[chosen], offset_G2=offset[chosen], share_G=share_G[chosen])


def _differences(actor: Actor, rows: FrameRows) -> Tensor:
    """How far frames differ from the canvas, [N, 1, h, w] in 0..1, on small maps."""
    shrink = max(1, round(min(actor.config.image_size) / _MAP_PX))
    p_NP = rows.describe(actor)
    parts = [
        F.max_pool2d((rows.frames(at) - actor.canvas(p_NP[at])).abs().mean(1, keepdim=True), shrink, ceil_mode=True)
        for at in torch.arange(len(rows)).split(100)
    ]
    return (torch.cat(parts) / _DIFFERS).clamp(0, 1)


def _places(f_NF: Tensor, weight_GF2: Tensor, offset_G2: Tensor) -> Tensor:
    """Where points are, [N, G, 2] in [-1, 1]."""
    return torch.einsum("nf,gfd->ngd", f_NF, weight_GF2) + offset_G2


def _found(maps: Tensor, at_NG2: Tensor) -> Tensor:
    """What maps [N, 1, h, w] hold at points, [N, G]; nothing outside."""
    return F.grid_sample(maps, at_NG2[:, :, None], align_corners=False)[:, 0, :, 0]
