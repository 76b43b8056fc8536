"""The stages that learn pictures: robot, things, then both together; each ends with figures on held-out moments and what is wrong.

Shape legend: N rows, M peaks, P proprio, K things, J kinds, H W frame, h w the grid that peaks are looked for on.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule, fit
from worldsim.progress import Progress
from worldsim.tokenizers.structured.compose import over, robust, sharp_error
from worldsim.tokenizers.structured.things import CODE_LIMIT, limit_code
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer
from worldsim.train.recipes.structured.anchors import place_anchors
from worldsim.train.recipes.structured.canvases import find_canvases, miss_of_one_canvas
from worldsim.train.recipes.structured.joints import Joints
from worldsim.train.recipes.structured.kinds import (
    MOST_TIED,
    PEAKS,
    Kinds,
    cell_places,
    center_of_rest,
    explained_linearly,
    find_kinds,
    find_peaks,
    residual_map,
    second_at_place,
)
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe

BOOTSTRAP = 0.12
"""Share of the steps of `things` in which places are led to where the residual is strongest. Without it they collapse."""
CACHED = 6000
"""Frames whose robot is drawn once, for things to be learned on."""
LEAST_EXPLAINED = 0.15
"""Share of the squared residual that things must explain to be kept; each its part of it."""
_JITTER, _OPAQUE = 0.05, 3.0
"""Deviation of codes that are drawn, and what it costs that a thing has other colours than are seen: so it is drawn opaque."""
_BATCH = 100


@dataclasses.dataclass(kw_only=True)
class StageReport:
    """What came of the stages.

    Attributes:
        core_s: Core-seconds by stage.
        figures: By name.
        warnings: What is wrong, in sentences.
    """

    core_s: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "StageReport", *, camera: str) -> None:
        """Add what came of the stages of one of several cameras; an empty name stands for the only one."""
        for stage, core_s in other.core_s.items():
            self.core_s[stage] = self.core_s.get(stage, 0.0) + core_s
        self.figures |= {f"{name}/{camera}" if camera else name: value for name, value in other.figures.items()}
        self.warnings += [f"{camera}: {said}" if camera else said for said in other.warnings]


def begin_tokenizer(
    rows: FrameRows, recipe: StructuredRecipe, *, seed: int, joints: Joints | None = None
) -> StructuredTokenizer:
    """An untrained tokenizer with its canvas, from frames [N, 3, H, W] and proprioception [N, P]; with joints that were found."""
    joints = joints or Joints()
    height, width = (int(n) for n in rows.frames_NCHW.shape[-2:])
    canvas, basis_SCHW = find_canvases(rows)
    config = StructuredConfig(
        image_size=(height, width),
        proprio_dim=rows.proprio_NP.shape[1],
        things=min(1, recipe.most_things),
        joints=joints.numbers if recipe.joints == "auto" else recipe.joints,
        degrees=joints.degrees if recipe.joints == "auto" else recipe.degrees,
        canvas_dim=len(basis_SCHW),
    )
    with seeded(seed):
        tokenizer = StructuredTokenizer(config)
    tokenizer.actor.begin(canvas[None], rows.proprio_NP, basis_SCHW)
    place_anchors(tokenizer.actor, rows, seed=seed)
    return tokenizer


def train_pictures(
    tokenizer: StructuredTokenizer,
    rows: FrameRows,
    held_out: FrameRows,
    recipe: StructuredRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
) -> tuple[StructuredTokenizer, StageReport]:
    """Train all picture stages, continuing from `folder`.

    Args:
        tokenizer: As `begin_tokenizer` made it; trained in place.
        rows: To learn from, frames [N, 3, H, W].
        held_out: To measure on.
        recipe: How.
        seed: Of batches.
        folder: Working folder.
        progress: Called as it advances.

    Returns:
        The tokenizer, of as many things as were found, and what came of it.
    """
    report, began, fitting_s = StageReport(), time.process_time(), 0.0

    def run(stage: str, module: nn.Module, loss_at: LossAt, schedule: Schedule) -> None:
        nonlocal fitting_s
        at, start = folder / stage, time.process_time()
        report.core_s[stage] = fit(module, loss_at, schedule, folder=at, stage=stage, progress=progress)
        fitting_s += time.process_time() - start

    if said := "" if tokenizer.config.canvas_dim else miss_of_one_canvas(rows, tokenizer.actor.base_CHW):
        report.warnings.append(said)
    run("actor", tokenizer.actor, actor_loss(tokenizer, rows, recipe.actor, seed=seed), recipe.actor)
    measure_actor(tokenizer, held_out, report)
    kinds = find_kinds(tokenizer, rows, most=recipe.most_things)
    report.figures["things_looked_for"] = len(kinds.kinds)
    if kinds.more:
        report.warnings.append(
            f"There seem to be {len(kinds.kinds) + kinds.more} things or more, and {len(kinds.kinds)} are looked for: what the others "
            f"do is not learned. Set structured.most_things={len(kinds.kinds) + kinds.more}, or 0 for none."
        )
    tokenizer = expecting(tokenizer, kinds, seed=seed)
    if tokenizer.encoder is not None and tokenizer.painter is not None:
        parts = nn.ModuleList([tokenizer.encoder, tokenizer.painter])
        run("things", parts, things_loss(tokenizer, rows, kinds, recipe.things, seed=seed), recipe.things)
        tokenizer = judge_things(tokenizer, rows, held_out, report)
    elif recipe.most_things:
        report.warnings.append("No thing was found: nothing is left over often that does not move with the robot.")
    both = nn.ModuleList([tokenizer.actor, *([] if tokenizer.painter is None else [tokenizer.painter])])
    run("painter", both, painter_loss(tokenizer, rows, recipe.painter, seed=seed), recipe.painter)
    if tokenizer.encoder is not None:
        report.figures |= keep_looks(tokenizer, rows)
    report.figures["psnr_db"] = _psnr_db(
        held_out, lambda frames, p: tokenizer.draw(tokenizer.encode_rows(frames, p)), tokenizer
    )
    report.core_s["frames"] = time.process_time() - began - fitting_s
    storage.write_json(folder / "report.json", dataclasses.asdict(report))
    return tokenizer, report


def actor_loss(tokenizer: StructuredTokenizer, rows: FrameRows, schedule: Schedule, *, seed: int) -> LossAt:
    """Robust error of robot and canvas, on frames [N, 3, H, W] that show things too."""
    p_NP = rows.describe(tokenizer.actor)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = rows.draw(schedule.batch, seed=seed, step=step)
        with torch.autocast("cpu", torch.bfloat16):
            color, alpha = tokenizer.actor(p_NP[chosen])
        loss = sharp_error(
            over(tokenizer.actor.canvas(p_NP[chosen]), color.float(), alpha.float()), rows.frames(chosen)
        )
        return loss, {}

    return loss_at


def expecting(tokenizer: StructuredTokenizer, found: Kinds, *, seed: int) -> StructuredTokenizer:
    """A tokenizer of the things that are to be found."""
    if found.kinds != tokenizer.config.kind_of:
        with seeded(seed):
            tokenizer = tokenizer.resized(found.kinds)
    if tokenizer.encoder is not None:
        tokenizer.encoder.apart_J.copy_(found.apart_J)
    return tokenizer


def things_loss(
    tokenizer: StructuredTokenizer, rows: FrameRows, found: Kinds, schedule: Schedule, *, seed: int
) -> LossAt:
    """Places led to the residual's peaks, then what drawing the things explains, the robot fixed; frames [N, 3, H, W]."""
    encoder, painter = tokenizer.encoder, tokenizer.painter
    assert encoder is not None and painter is not None
    known = rows.first(CACHED)
    p_NP = known.describe(tokenizer.actor)
    robot_NRHW = _cached(tokenizer, p_NP)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = known.draw(schedule.batch, seed=seed + 1, step=step)
        frames, robot = known.frames(chosen), robot_NRHW[chosen].float() / 255
        with torch.no_grad():
            scene = over(tokenizer.actor.canvas(p_NP[chosen]), robot[:, :3], robot[:, 3:])
        if step < BOOTSTRAP * schedule.steps:
            miss = _lead_to_peaks(tokenizer, found, frames, scene)
            return miss, {"bootstrap": float(miss.detach())}
        xy, raw = encoder(frames, scene)
        noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(seed * 7_919 + step))
        code = limit_code(raw) + _JITTER * noise
        gain = tokenizer.gain(frames, robot[:, :3], robot[:, 3:], p_NP[chosen], xy, code)
        gained = (robust(gain.missed_NKCSS) - robust(gain.bare_NKCSS)).mean(2).sum((-1, -2)) / tokenizer.shape.size**2
        gained = gained * ~second_at_place(xy * tokenizer.axes, gained, tokenizer.shape.side / 2)
        area = painter.sprites(xy, code)[:, :, 3].mean()
        saturated = (raw.abs() - CODE_LIMIT).clamp_min(0).square().mean()
        loss = 14 * gained.sum(1).mean() + 0.02 * area + _OPAQUE * gain.unlike_NK.sum(1).mean() + 0.05 * saturated
        return loss, {"gained": float(gained.detach().mean())}

    return loss_at


def _lead_to_peaks(tokenizer: StructuredTokenizer, found: Kinds, frames_NCHW: Tensor, scene_NCHW: Tensor) -> Tensor:
    """Cross-entropy of the scores of every kind to the residual's peaks of its colours, as many as it has things; a scalar."""
    assert tokenizer.encoder is not None
    scores = tokenizer.encoder.heatmap(frames_NCHW, scene_NCHW)
    count = tokenizer.config.things
    peaks = find_peaks(frames_NCHW, scene_NCHW, count if count == 1 else 2 * count, tokenizer)
    kind_NM = found.kind_of(peaks) if count > 1 else torch.zeros_like(peaks.cell_NM)
    at = cell_places(peaks.cell_NM, PEAKS)
    if count == 1:  # of several what is left over around one may be another's
        at = center_of_rest(residual_map(frames_NCHW, scene_NCHW, PEAKS), at, tokenizer)
    h, w = scores.shape[2:]
    column, row = (((at[..., i] + 1) / 2 * n).long().clamp(0, n - 1) for i, n in ((0, w), (1, h)))
    total = scores.new_zeros(())
    for kind, things in enumerate(tokenizer.shape.how_many):
        own = kind_NM == kind
        own = own & (own.cumsum(1) <= things)
        weight = peaks.height_NM * own
        weight = (weight / weight[own].mean().nan_to_num(1.0)).clamp_max(2) / things
        chosen = torch.log_softmax(scores[:, kind].flatten(1), 1).gather(1, row * w + column)
        total = total - (chosen * weight).sum(1).mean()
    return total


def painter_loss(tokenizer: StructuredTokenizer, rows: FrameRows, schedule: Schedule, *, seed: int) -> LossAt:
    """Robust error of everything together; places and looks stay, so that frames [N, 3, H, W] keep their latents."""
    p_NP = rows.describe(tokenizer.actor)
    found = None if tokenizer.encoder is None else _found(tokenizer, rows, p_NP)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = rows.draw(schedule.batch, seed=seed + 2, step=step)
        with torch.autocast("cpu", torch.bfloat16):
            color, alpha = tokenizer.actor(p_NP[chosen])
        if found is None:
            drawn = over(tokenizer.actor.canvas(p_NP[chosen]), color.float(), alpha.float())
        else:
            noise = torch.randn(found[1][chosen].shape, generator=torch.Generator().manual_seed(seed * 7_919 + step))
            code = found[1][chosen] + 0.6 * _JITTER * noise
            drawn = tokenizer.compose(p_NP[chosen], color.float(), alpha.float(), found[0][chosen], code)
        return sharp_error(drawn, rows.frames(chosen)), {}

    return loss_at


@torch.no_grad()
def _cached(tokenizer: StructuredTokenizer, p_NP: Tensor) -> Tensor:
    """The robot's picture at every row, uint8 [N, 4, H, W]."""
    parts = [torch.cat(tokenizer.actor(p), 1) for p in p_NP.split(_BATCH)]
    return torch.cat([(part * 255).round().byte() for part in parts])


@torch.no_grad()
def _found(tokenizer: StructuredTokenizer, rows: FrameRows, p_NP: Tensor) -> tuple[Tensor, Tensor]:
    """Places [N, K, 2] and codes [N, K, d] at every row."""
    assert tokenizer.encoder is not None
    places, codes = list[Tensor](), list[Tensor]()
    for at, p in zip(torch.arange(len(rows)).split(_BATCH), p_NP.split(_BATCH), strict=True):
        xy, raw = tokenizer.encoder(rows.frames(at), tokenizer.actor.scene(p))
        places.append(xy)
        codes.append(limit_code(raw))
    return torch.cat(places), torch.cat(codes)


@torch.no_grad()
def keep_looks(tokenizer: StructuredTokenizer, rows: FrameRows) -> dict[str, float]:
    """Keep the looks that things have in frames [N, 3, H, W]; figures by name."""
    some = rows.first(CACHED)
    p_NP = some.describe(tokenizer.actor)
    xy, code = _found(tokenizer, some, p_NP)
    taken = list[Tensor]()
    for at in torch.arange(len(some)).split(_BATCH):
        color, alpha = tokenizer.actor(p_NP[at])
        taken.append(tokenizer.gain(some.frames(at), color, alpha, p_NP[at], xy[at], code[at]).taken_NK)
    return tokenizer.keep_looks(xy, code, torch.cat(taken))


def judge_things(
    tokenizer: StructuredTokenizer, rows: FrameRows, held_out: FrameRows, report: StageReport
) -> StructuredTokenizer:
    """The tokenizer with those of its things that explain enough and are not the robot's own."""
    report.figures |= keep_looks(tokenizer, rows)
    tied = _look_for_faults(tokenizer, held_out, report)
    left = list(range(tokenizer.config.things))
    least = LEAST_EXPLAINED / len(left)
    while left:
        together, shares = explained_by_things(tokenizer, held_out)
        report.figures["things_explain"] = together
        report.figures |= {f"thing_{k}_explains": share for k, share in zip(left, shares, strict=True)}
        bad = {k: share for k, share in zip(left, shares, strict=True) if share < least or tied[k] > MOST_TIED}
        if not bad:
            break
        worst = min(bad, key=lambda k: bad[k])
        why = (
            f"explains {bad[worst]:.0%} of what robot and background leave"
            if bad[worst] < least
            else "moves with the robot"
        )
        report.warnings.append(f"Thing {worst} was not kept: what was found {why}.")
        tokenizer = tokenizer.keep_things([at for at, k in enumerate(left) if k != worst])  # the others may explain it
        left.remove(worst)
    return tokenizer


Draw = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def _squares(rows: FrameRows, draw: Draw, tokenizer: StructuredTokenizer) -> float:
    """Mean squared error of what is drawn of frames with proprioception."""
    p_NP, total = rows.describe(tokenizer.actor), 0.0
    for at in torch.arange(len(rows)).split(_BATCH):
        frames = rows.frames(at)
        total += float((draw(frames, p_NP[at]) - frames).square().sum())
    return total / rows.frames_NCHW.numel()


def _psnr_db(rows: FrameRows, draw: Draw, tokenizer: StructuredTokenizer) -> float:
    return -10 * math.log10(max(_squares(rows, draw, tokenizer), 1e-9))


def measure_actor(tokenizer: StructuredTokenizer, held_out: FrameRows, report: StageReport) -> None:
    """How well the robot is drawn, beside the canvas alone, on frames [N, 3, H, W]."""
    report.figures["canvas_psnr_db"] = _psnr_db(held_out, lambda frames, p: tokenizer.actor.canvas(p), tokenizer)
    report.figures["actor_psnr_db"] = _psnr_db(held_out, lambda frames, p: tokenizer.actor.scene(p), tokenizer)
    gained = report.figures["actor_psnr_db"] - report.figures["canvas_psnr_db"]
    if gained < 0.3:
        report.warnings.append(
            f"Proprioception says little about the picture: drawing the robot from it gains {gained:.1f} dB over a constant "
            "background. The robot may be out of view, or proprioception may not be the robot's."
        )


@torch.no_grad()
def explained_by_things(tokenizer: StructuredTokenizer, rows: FrameRows) -> tuple[float, list[float]]:
    """Share of the squared error of robot and canvas on frames [N, 3, H, W] that drawing the things takes away.

    Args:
        tokenizer: With looks that were kept.
        rows: To measure on.

    Returns:
        By all together, and by each beside the others.
    """
    count = tokenizer.config.things
    p_NP, left = rows.describe(tokenizer.actor), torch.zeros(count + 2)
    shown = torch.cat([torch.zeros(1, count), torch.ones(1, count), 1 - torch.eye(count)])
    for at in torch.arange(len(rows)).split(_BATCH):
        frames = rows.frames(at)
        state = tokenizer.encode_rows(frames, p_NP[at])
        for row, some in enumerate(shown):
            drawn = tokenizer.draw(dataclasses.replace(state, seen=state.seen * some))
            left[row] += (drawn - frames).square().sum()
    bare = float(left[0].clamp_min(1e-9))
    return 1 - float(left[1]) / bare, [float(without - left[1]) / bare for without in left[2:]]


@torch.no_grad()
def _look_for_faults(tokenizer: StructuredTokenizer, held_out: FrameRows, report: StageReport) -> list[float]:
    """Name what fails silently: places that collapse, looks that saturate; how far each thing is tied to the robot comes back."""
    assert tokenizer.encoder is not None
    p_NP = held_out.describe(tokenizer.actor)
    state = [tokenizer.encode_rows(held_out.frames(at), p_NP[at]) for at in torch.arange(len(p_NP)).split(_BATCH)]
    pose, seen = torch.cat([s.pose for s in state]), torch.cat([s.seen for s in state])
    count, tied = tokenizer.config.things, list[float]()
    for k in range(count):
        tied.append(0.0)
        sure = (seen[:, k] > 0.5).nonzero()[:, 0]
        report.figures[f"thing_{k}_seen"] = len(sure) / len(seen)
        if len(sure) < 20:
            report.warnings.append(f"Thing {k} is seen in {len(sure)} of {len(seen)} held-out frames only.")
            continue
        xy = pose[sure, k, :2]
        scenes = torch.cat([tokenizer.actor.scene(p) for p in p_NP[sure].split(_BATCH)])
        peaks = find_peaks(held_out.frames(sure), scenes, count, tokenizer)
        away = (cell_places(peaks.cell_NM, PEAKS) * tokenizer.axes - xy[:, None]).norm(dim=-1)
        off = float(away.min(1).values.median())
        spread = float(xy.std(0).max())
        tied[k] = explained_linearly(tokenizer.actor.features(p_NP[sure, : tokenizer.config.proprio_dim]), xy)
        report.figures |= {f"thing_{k}_spread": spread, f"thing_{k}_off_peak": off, f"thing_{k}_tied_to_robot": tied[k]}
        if spread < 0.02 and off > 0.1:
            report.warnings.append(
                f"The places of thing {k} collapsed: they hardly vary, and the residual is elsewhere."
            )
        if report.figures[f"thing_{k}_code_std"] < 0.1:
            report.warnings.append(f"The looks of thing {k} hardly vary (saturated code): turning is not seen.")
    return tied
