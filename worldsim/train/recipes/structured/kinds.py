"""How many things there are, and of which kinds, from what canvas and robot leave unexplained.

In each frame the residual has peaks; over many frames peaks have colours. Colours that are never seen together are one kind of thing
(in another light, or in another episode), and a kind has as many things as peaks of it are often seen at once. What moves
with the robot is left out: that is the robot, badly drawn.

Shape legend: N rows, M peaks of a frame, X colours, J kinds, F features of proprioception, H W frame, h w the grid of peaks.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.tokenizers.structured.compose import windows
from worldsim.tokenizers.structured.tokenizer import StructuredTokenizer
from worldsim.train.recipes.structured.rows import FrameRows

PEAKS = (32, 32)
LOOKED_AT = 1200
"""Frames, at most."""
OFTEN = 0.2
"""Share of frames in which as many things are seen at once as there are."""
MOST_TIED = 0.9
"""Share of the variance of a thing's places that proprioception explains, above which it is taken for a part of the robot."""
_HIGH = 0.3
"""Peaks lower than this share of high ones are none."""
_DIFFER = 0.3
"""Distance of two colours, 0..1 in each of three and a little of what they hide, above which they are two."""
_TOGETHER = 0.3
"""Two colours are one kind where they are seen together less often than this share of what chance would give."""
_SHIFTS = 3
_LONGEST = 8
"""Cells by which what belongs to a peak reaches beyond the sprite around it."""
_HIDDEN = 0.3
_COLORS = 6
_EXPECTED = 4
"""Things that there may be; higher peaks than these and one more are not noise."""
_CLEAR = 1.2
"""Least distance of two things of a kind, in radii of what is left over where one is."""
_BATCH = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Peaks:
    """The highest peaks of the residual of each frame, the highest first.

    Attributes:
        cell_NM: Cell of `PEAKS`, counted row by row.
        height_NM: Mean absolute difference there, blurred.
        color_NM6: What is seen there, and a little of how it differs from what it hides.
    """

    cell_NM: Tensor
    height_NM: Tensor
    color_NM6: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Kinds:
    """What there is to be found.

    Attributes:
        kinds: Of which kind each thing is, counted from 0, in order; empty where there is nothing.
        color_X6: Colours that differ, as of `Peaks`.
        kind_X: The kind of each, -1 for what is no thing.
        apart_J: Least distance of two things of each kind, in halves of the frame's shorter side.
        low: Height below which a peak is none.
        more: Things beside these, of which there are too many.
    """

    kinds: tuple[int, ...]
    color_X6: Tensor
    kind_X: Tensor
    apart_J: Tensor
    low: float
    more: int = 0

    def kind_of(self, peaks: Peaks) -> Tensor:
        """The kind of each peak, int64 [N, M]; -1 where it is none."""
        kind = self.kind_X[torch.cdist(peaks.color_NM6, self.color_X6[None]).argmin(-1)]
        return torch.where(peaks.height_NM > self.low, kind, -1)


@torch.no_grad()
def find_kinds(tokenizer: StructuredTokenizer, rows: FrameRows, *, most: int) -> Kinds:
    """Look for things in frames whose robot can be drawn.

    Args:
        tokenizer: With a trained actor.
        rows: Frames [N, 3, H, W] and proprioception in physical units; the first `LOOKED_AT` count.
        most: Things, at most.
    """
    peaks, area = _look(tokenizer, rows, max(most, _EXPECTED) + 2)
    first = peaks.height_NM[:, 0]
    low = max(_HIGH * float(first.quantile(0.8)), 1.5 * float(peaks.height_NM[:, -1].median()))
    high = peaks.height_NM > low
    color_X6 = _cluster(peaks.color_NM6[high if bool(high.any()) else torch.ones_like(high)])
    everything = torch.arange(len(color_X6))
    found = Kinds(kinds=(), color_X6=color_X6, kind_X=everything, apart_J=torch.zeros(0), low=low)
    f_NF = tokenizer.actor.features(tokenizer.actor.features.normalize(rows.proprio_NP[: len(first)]))
    color_NM = found.kind_of(peaks)
    there_NX = (color_NM[..., None] == everything).any(1)
    for x in everything.tolist():
        if _tied(peaks, color_NM == x, f_NF) > MOST_TIED:
            there_NX[:, x] = False
    groups = sorted(_groups(there_NX), key=lambda group: -float(there_NX[:, group].any(1).float().mean()))
    kinds, more, kind_X, apart = list[int](), 0, torch.full((len(color_X6),), -1), list[float]()
    for group in groups:
        member_NM = torch.isin(color_NM, torch.tensor(group))
        there = _at_once(member_NM)
        count = min(there, most - len(kinds))
        more += there - count
        if not count:
            continue
        kind_X[group] = len(apart)
        kinds += [len(apart)] * count
        radius = (area[member_NM].median() / torch.pi).sqrt()
        apart.append(_CLEAR * float(radius))
    return dataclasses.replace(found, kinds=tuple(kinds), kind_X=kind_X, apart_J=torch.tensor(apart), more=more)


def _look(tokenizer: StructuredTokenizer, rows: FrameRows, count: int) -> tuple[Peaks, Tensor]:
    """Peaks of the first frames, and the area [N, M] that is left over around each, in squares of half the shorter side."""
    made, areas = list[Peaks](), list[Tensor]()
    p_NP = rows.first(LOOKED_AT).describe(tokenizer.actor)
    for at in torch.arange(len(p_NP)).split(_BATCH):
        frames, scene = rows.frames(at), tokenizer.actor.scene(p_NP[at])
        peaks = find_peaks(frames, scene, count, tokenizer)
        made.append(peaks)
        left, xy_NM2 = (frames - scene).abs().mean(1, keepdim=True), cell_places(peaks.cell_NM, PEAKS)
        cut_NMSS = windows(left, xy_NM2, tokenizer.shape.side_px, tokenizer.shape.size)[:, :, 0]
        share_NM = (cut_NMSS > 0.5 * peaks.height_NM[..., None, None]).float().mean((2, 3))
        areas.append(share_NM * (2 * tokenizer.shape.side) ** 2)
    names = [f.name for f in dataclasses.fields(Peaks)]
    return Peaks(**{n: torch.cat([getattr(one, n) for one in made]) for n in names}), torch.cat(areas)


def find_peaks(frames_NCHW: Tensor, scene_NCHW: Tensor, count: int, tokenizer: StructuredTokenizer) -> Peaks:
    """The highest peaks of the residual of frames in 0..1, of which none is a flank of a higher one."""
    map_Nhw = residual_map(frames_NCHW, scene_NCHW, PEAKS)
    soft = F.avg_pool2d(torch.cat([frames_NCHW, _HIDDEN * (frames_NCHW - scene_NCHW)], 1), 3, 1, 1)
    places = cell_places(torch.arange(PEAKS[0] * PEAKS[1]), PEAKS)
    cells, heights, colors = list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(count):
        cell, height = strongest(map_Nhw)
        xy = places[cell]
        cells.append(cell)
        heights.append(height)
        colors.append(F.grid_sample(soft, xy[:, None, None], align_corners=False)[..., 0, 0])
        near = ((places - xy[:, None]) * tokenizer.axes).norm(dim=-1) <= tokenizer.shape.side
        map_Nhw = map_Nhw.masked_fill(_flanks(map_Nhw, near.unflatten(1, PEAKS), height), 0.0)
    return Peaks(cell_NM=torch.stack(cells, 1), height_NM=torch.stack(heights, 1), color_NM6=torch.stack(colors, 1))


def _flanks(map_Nhw: Tensor, near_Nhw: Tensor, height_N: Tensor) -> Tensor:
    """What belongs to peaks: all that is near them, and what is high and hangs together with that; bool [N, h, w]."""
    high = (map_Nhw > _HIGH * height_N[:, None, None]).float()
    grown = near_Nhw.float() * high
    for _ in range(_LONGEST):
        grown = F.max_pool2d(grown[:, None], 3, 1, 1)[:, 0] * high
    return near_Nhw | (grown > 0)


def _cluster(color_N6: Tensor) -> Tensor:
    """Colours that differ, [X, 6]: k-means from the farthest ones, until none is far from all others."""
    centers = color_N6.median(0).values[None]
    while len(centers) < _COLORS:
        distance = torch.cdist(color_N6, centers).min(1).values
        far = distance.topk(max(1, len(color_N6) // 50)).indices
        if float(distance[far].median()) < _DIFFER:
            break
        centers = torch.cat([centers, color_N6[far].median(0).values[None]])
        for _ in range(15):
            own = torch.cdist(color_N6, centers).argmin(1)
            centers = torch.stack(
                [color_N6[own == x].mean(0) if bool((own == x).any()) else centers[x] for x in range(len(centers))]
            )
    return centers


def _groups(there_NX: Tensor) -> list[list[int]]:
    """Colours by kind: those that are hardly ever in one frame are one; those that are nowhere are left out."""
    share = there_NX.float().mean(0)
    groups = list[list[int]]()
    for x in share.argsort(descending=True).tolist():
        if share[x] == 0:
            continue
        for group in groups:
            other = there_NX[:, group].any(1)
            both = float((other & there_NX[:, x]).float().mean())
            if both < _TOGETHER * float(share[x] * other.float().mean()):
                group.append(x)
                break
        else:
            groups.append([x])
    return groups


def _at_once(member_NM: Tensor) -> int:
    """How many peaks are often seen at once."""
    count_N = member_NM.sum(1)
    often = [n for n in range(1, member_NM.shape[1] + 1) if float((count_N >= n).float().mean()) >= OFTEN]
    return max(often, default=0)


def _tied(peaks: Peaks, member_NM: Tensor, f_NF: Tensor) -> float:
    """How far proprioception determines the place of the highest of some peaks."""
    height, first = (peaks.height_NM * member_NM).max(1)
    seen = height > 0
    cell = peaks.cell_NM.gather(1, first[:, None])[seen, 0]
    return explained_linearly(f_NF[seen], cell_places(cell, PEAKS))


def explained_linearly(features_NF: Tensor, xy_N2: Tensor) -> float:
    """Share of the variance of places that is linear in features; 0 where there are too few rows to say."""
    rows = torch.cat([features_NF, torch.ones(len(xy_N2), 1)], 1)
    if len(rows) < 5 * rows.shape[1]:
        return 0.0
    fitted = rows @ torch.linalg.lstsq(rows, xy_N2).solution
    return 1 - float((xy_N2 - fitted).square().sum() / (xy_N2 - xy_N2.mean(0)).square().sum().clamp_min(1e-9))


def residual_map(frames_NCHW: Tensor, scene_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Blurred absolute difference [N, h, w] of frames and what was drawn of them."""
    difference = (frames_NCHW - scene_NCHW).abs().mean(1, keepdim=True)
    soft = F.avg_pool2d(difference, 3, 1, 1)
    soft = F.adaptive_avg_pool2d(soft, size)
    return F.avg_pool2d(soft, 3, 1, 1)[:, 0]


def center_of_rest(map_Nhw: Tensor, xy_NM2: Tensor, tokenizer: StructuredTokenizer) -> Tensor:
    """Places [N, M, 2] moved from peaks to the centres of what is left over around them, as far as a sprite reaches (mean shift).

    What turns on the spot is left over at its ends; its place is between them.
    """
    places = cell_places(torch.arange(PEAKS[0] * PEAKS[1], device=map_Nhw.device), PEAKS)
    rest_NR = map_Nhw.flatten(1)
    rest_NR = (rest_NR - _HIGH * rest_NR.amax(1, keepdim=True)).clamp_min(0)
    for _ in range(_SHIFTS):
        near = ((places - xy_NM2[:, :, None]) * tokenizer.axes).norm(dim=-1) <= tokenizer.shape.side
        weight = near * rest_NR[:, None]
        xy_NM2 = (weight @ places) / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    return xy_NM2


def second_at_place(xy_NK2: Tensor, error_NK: Tensor, near: float) -> Tensor:
    """Which things are at the place of another that explains more, bool [N, K]: one thing must not be learned as two.

    Args:
        xy_NK2: Places in halves of the frame's shorter side.
        error_NK: What drawing each changes the error by.
        near: Distance within which places are the same.
    """
    same_NKK = torch.cdist(xy_NK2.detach(), xy_NK2.detach()) < near
    return (same_NKK & (error_NK[:, :, None] > error_NK[:, None])).any(2)


def strongest(map_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of the peak, int64 [N], counted row by row, and its height [N]."""
    height, cell = map_Nhw.flatten(1).max(1)
    return cell, height


def cell_places(cell: Tensor, size: tuple[int, int]) -> Tensor:
    """Centres of cells [...], [..., 2] in [-1, 1]."""
    h, w = size
    x, y = cell % w, cell.div(w, rounding_mode="floor")
    return torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1)
