"""Rolls a world out open loop over recorded actions, and compares it with what was recorded, with copying and a constant.

Shape legend: E episodes, T actions, S steps of the world, J horizons, K things, H W pixels, P proprio, A action, D any numbers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worldsim.core import STATE, TASK, TRUE_STATE, Observation, WorldSpec, WorldStep, text_rows
from worldsim.data.lerobot.read import Dataset
from worldsim.protocols import Encodable, World, require_drawable
from worldsim.tokenizers.base import ProprioTokenizer
from worldsim.tokenizers.cameras import camera_tokenizer, held_places
from worldsim.validity.curve import ErrorCurve, Unit, conformal_bound
from worldsim.worlds.expected_error import OpenLoop
from worldsim.worlds.latent import LatentWorld, LearnedWorld

HORIZONS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Actions ahead at which errors are measured, as far as episodes last."""
MOST_EPISODES = 64
"""Episodes that a world is measured on at most."""
MEDIAN_FRAMES = 128
"""Frames whose median is the constant picture."""
_AT_ONCE = 64
"""Frames that are encoded and drawn together."""
_FEW = 3
"""Episodes that must last to a horizon for it to be measured, where there are as many."""
_PLACE_TOLERANCE = 1 / 64
"""Error of a place, in shorter sides of the picture, within which nothing is wrong."""
_LABEL_TOLERANCE = 0.02
ROBOT = "robot layer"
"""What a thing is called whose place follows from proprioception."""
_ROBOT = 0.95
"""Share of the variance of a place that proprioception explains, linearly, above which it is the robot's."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """E held-out episodes; what lies beyond an episode's end is nan, or 0 in frames.

    Attributes:
        horizons: J actions ahead; rows [E, J + 1] below are the start and then each horizon.
        keys: int64 [E], the episodes' numbers and noise keys.
        frames: By camera key, uint8 [E, J + 1, H, W, 3].
        proprio: [E, J + 1, P].
        labels: Progress and success, [E, J + 1] each.
        true_state: [E, J + 1, D], where there is one.
        actions: [E, T, A], idle after the end.
        lengths: int64 [E], actions of each episode.
        success: Of each episode, at its start and after each action.
        tasks: Of each episode.
    """

    horizons: tuple[int, ...]
    keys: Tensor
    frames: Mapping[str, Tensor]
    proprio: Tensor
    labels: Mapping[str, Tensor]
    true_state: Tensor | None
    actions: Tensor
    lengths: Tensor
    success: tuple[Tensor, ...]
    tasks: tuple[str, ...]

    @property
    def lasts(self) -> Tensor:
        """Which episodes last to which horizon, bool [E, J]."""
        return self.lengths[:, None] >= torch.tensor(self.horizons)

    def starts(self, world: World) -> Observation:
        """First observations."""
        found = {key: frames[:, 0] for key, frames in self.frames.items()}
        found |= {STATE: self.proprio[:, 0], TASK: text_rows(self.tasks)}
        if self.true_state is not None and TRUE_STATE in world.spec.observes:
            found[TRUE_STATE] = self.true_state[:, 0]
        return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rolled:
    """What the world predicts: full steps and spread at the horizons, and success after every step.

    The spread is what an error model expects; without one it is the root of the summed squares of all steps' uncertainties,
    since what steps disagree about adds up.
    """

    at: tuple[WorldStep, ...]  # [E, ...] for each horizon
    done: tuple[OpenLoop | None, ...]  # for each horizon; None without an error model
    success_ES: Tensor
    spread_EJ: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """Errors of a quantity in every episode at every horizon, [E, J]; nan where it is not known."""

    quantity: str
    unit: Unit
    world: Tensor
    copying: Tensor
    constant: Tensor
    tolerance: float = 0.0

    def curve(self, horizons: Sequence[int]) -> ErrorCurve | None:
        """What they come to at the horizons at which any is known; None where none is."""
        known_EJ = self.world.isfinite() & self.copying.isfinite()
        kept = [j for j in range(len(horizons)) if bool(known_EJ[:, j].any())]
        if not kept:
            return None
        columns = {n: [getattr(self, n)[known_EJ[:, j], j] for j in kept] for n in ("world", "copying", "constant")}
        last_E = torch.stack(
            [self.copying[e][known_EJ[e]][-1] for e in range(len(known_EJ)) if bool(known_EJ[e].any())]
        )
        return ErrorCurve(
            quantity=self.quantity,
            unit=self.unit,
            horizons=tuple(horizons[j] for j in kept),
            **{name: tuple(self._mean(c) for c in found) for name, found in columns.items()},
            bound=tuple(self._bound(c) for c in columns["world"]),
            episodes=tuple(len(c) for c in columns["world"]),
            tolerance=round(self.tolerance, 5),
            changes=round(float((last_E > 2 * self.tolerance).float().mean()), 4),
        )

    def _mean(self, errors: Tensor) -> float:
        squared = self.unit in ("grey levels", "sd", "progress")
        return round(float(errors.square().mean().sqrt() if squared else errors.mean()), 5)

    def _bound(self, errors: Tensor) -> float | None:
        found = None if self.unit == "wrong" else conformal_bound(errors.tolist())
        return None if found is None else round(found, 5)


def read_recorded(spec: WorldSpec, held_out: Sequence[int], dataset: Dataset) -> Recorded | None:
    """Read the first episodes that hold a step; None where none does."""
    per_step = spec.actions_per_step
    chosen = [i for i in held_out if dataset.length(i) > per_step][:MOST_EPISODES]
    lengths = [min(dataset.length(i) - 1, spec.horizon) // per_step * per_step for i in chosen]
    horizons = choose_horizons(lengths, per_step)
    if not horizons:
        return None
    rows = dict[str, list[Tensor]]()
    success, tasks = list[Tensor](), list[str]()
    idle = torch.tensor(spec.action.idle, dtype=torch.float32)
    for index, length in zip(chosen, lengths, strict=True):
        episode = dataset.episode(index)
        at = torch.tensor([h if h <= length else -1 for h in (0, *horizons)])
        found: dict[str, Any] = {c.key: episode.frames[c.key] for c in dataset.cameras}
        found |= {STATE: episode.proprio, "progress": episode.progress, "success": episode.success}
        found |= {} if episode.true_state is None else {TRUE_STATE: episode.true_state}
        for key, values in found.items():
            rows.setdefault(key, []).append(_pick(torch.from_numpy(values), at))
        done = torch.from_numpy(episode.action[:length])
        rows.setdefault("action", []).append(torch.cat([done, idle.expand(max(lengths) - length, -1)]))
        success.append(torch.from_numpy(episode.success[: length + 1]))
        tasks.append(episode.task)
    arrays = {key: torch.stack(values) for key, values in rows.items() if len(values) == len(chosen)}
    return Recorded(
        horizons=horizons,
        keys=torch.tensor(chosen),
        frames={c.key: arrays[c.key] for c in dataset.cameras},
        proprio=arrays[STATE],
        labels={name: arrays[name] for name in ("progress", "success")},
        true_state=arrays.get(TRUE_STATE),
        actions=arrays["action"],
        lengths=torch.tensor(lengths),
        success=tuple(success),
        tasks=tuple(tasks),
    )


def choose_horizons(lengths: Sequence[int], per_step: int) -> tuple[int, ...]:
    """Actions ahead at which episodes of these lengths, in actions, are compared: where enough of them last as long."""
    enough = max(1, min(_FEW, len(lengths)))
    found = sorted({h for h in (*HORIZONS, *lengths) if not h % per_step and sum(n >= h for n in lengths) >= enough})
    return tuple(h for h in found if h in HORIZONS or h == found[-1])


def _pick(values: Tensor, at: Tensor) -> Tensor:
    """Rows of values; those at -1 are nan, or 0 where they are no numbers with a fraction."""
    picked = values[at.clamp_min(0)].clone()
    picked[at < 0] = math.nan if values.is_floating_point() else 0
    return picked


def roll(world: LearnedWorld, recorded: Recorded, actions_ETA: Tensor) -> Rolled:
    """Predict, and keep the steps at the horizons."""
    per_step, device = world.spec.actions_per_step, world.spec.device
    if per_step > 1:
        actions_ETA = actions_ETA.unflatten(1, (-1, per_step))
    state = world.reset(recorded.starts(world), recorded.keys)
    at, done, success, spread = list[WorldStep](), list[OpenLoop | None](), list[Tensor](), list[Tensor]()
    summed = torch.zeros(len(recorded.keys), device=device)
    for t in range(actions_ETA.shape[1]):
        state, step = world.step(state, actions_ETA[:, t])
        success.append(step.success > 0.5)
        summed = summed + step.uncertainty.float().square()
        if (t + 1) * per_step in recorded.horizons:
            at.append(step)
            done.append(state.done)
            spread.append(summed.sqrt() if world.errors is None else step.uncertainty.float())
    return Rolled(
        at=tuple(at),
        done=tuple(done),
        success_ES=torch.stack(success, 1).cpu(),
        spread_EJ=torch.stack(spread, 1).cpu(),
    )


def combine_errors(errors: Sequence[Tensor]) -> Tensor:
    """Root mean square of the errors [E, J] of several quantities, of those that are known; nan where none is."""
    return torch.stack([*errors]).square().nanmean(0).sqrt()


def picture_errors(world: LearnedWorld, recorded: Recorded, rolled: Rolled) -> list[Errors]:
    """Root mean square of the pixels' errors, of every camera."""
    found = []
    for number, camera in enumerate(world.spec.cameras):
        truth = recorded.frames[camera.key]
        seen = truth[:, 1:][recorded.lasts]
        same = _constant(seen)
        pairs = [(draw_step(world, step, camera.key), truth[:, 0], same.expand_as(truth[:, 0])) for step in rolled.at]
        errors = [
            torch.stack([(frames.float() - truth[:, j + 1].float()).square().mean((1, 2, 3)).sqrt() for frames in pair])
            for j, pair in enumerate(pairs)
        ]
        own, copying, constant = torch.stack(errors, 2).masked_fill(~recorded.lasts, math.nan)
        name = f"pictures of {camera.name}" if number else "pictures"
        found.append(Errors(quantity=name, unit="grey levels", world=own, copying=copying, constant=constant))
    return found


def drawn_share(world: LearnedWorld, recorded: Recorded) -> float | None:
    """Share of what differs between recorded pictures that a world draws of them, nothing predicted, of the camera of which that is least.

    Errors of predicted pictures do not say that: all that is not drawn may look like what a copy misses too.

    Returns:
        The share, at least 0; None where nothing is drawn of what was recorded, or nothing differs.
    """
    if not isinstance(world, LatentWorld):
        return None
    shares = list[float]()
    for camera in world.spec.cameras:
        reads = isinstance(camera_tokenizer(world.tokenizer, camera.key), ProprioTokenizer)
        truth, proprio = (x[:, 1:][recorded.lasts] for x in (recorded.frames[camera.key], recorded.proprio))
        same, missed, differs = _constant(truth).float(), 0.0, 0.0
        for frames, body in zip(truth.split(_AT_ONCE), proprio.split(_AT_ONCE), strict=True):
            drawn = world.roundtrip(frames, camera.key, body if reads else None).cpu()
            missed += float((drawn.float() - frames).square().sum())
            differs += float((same - frames).square().sum())
        if differs > 0:
            shares.append(round(max(0.0, 1 - missed / differs), 4))
    return min(shares, default=None)


def _constant(frames_NHWC: Tensor) -> Tensor:
    """The median of a sample of frames, [H, W, 3]."""
    chosen = torch.linspace(0, len(frames_NHWC) - 1, min(len(frames_NHWC), MEDIAN_FRAMES)).long()
    return frames_NHWC[chosen].median(0).values


def draw_step(world: LearnedWorld, step: WorldStep, key: str) -> Tensor:
    """What a camera sees after a step, uint8 [E, H, W, 3]."""
    frames = require_drawable(world).decode(step.latent, key).cpu()
    return frames if frames.ndim == 4 else frames[:, -1]


def place_errors(world: LearnedWorld, recorded: Recorded, rolled: Rolled) -> list[Errors]:
    """Distance of every thing from where the true frame shows it; one that is lost is half of a picture away."""
    predicted = [held_places(world.tokenizer, step.latent) for step in rolled.at]
    if not isinstance(world, Encodable) or any(p is None for p in predicted):
        return []
    true = [held_places(world.tokenizer, _encode(world, recorded, j)) for j in range(len(rolled.at) + 1)]
    xy, seen = (torch.stack([p[i] for p in true if p is not None], 1).cpu() for i in range(2))
    said, sure = (torch.stack([p[i] for p in predicted if p is not None], 1).cpu() for i in range(2))
    side = min(world.spec.image_size)
    found = []
    for k in range(xy.shape[2]):
        known = seen[:, 1:, k] & seen[:, :1, k] & recorded.lasts
        if not bool(known.any()):
            continue
        target = xy[:, 1:, k]
        errors = [
            torch.where(sure[:, :, k], (said[:, :, k] - target).norm(dim=-1), side / 2),
            (xy[:, :1, k] - target).norm(dim=-1),
            (target[known].mean(0) - target).norm(dim=-1),
        ]
        own, copying, constant = torch.stack(errors).clamp_max(side / 2).masked_fill(~known, math.nan)
        robot = _explained(recorded.proprio[seen[:, :, k]], xy[:, :, k][seen[:, :, k]]) > _ROBOT
        name, tolerance = f"place of {ROBOT if robot else 'thing'} {k + 1}", side * _PLACE_TOLERANCE
        found.append(
            Errors(quantity=name, unit="px", world=own, copying=copying, constant=constant, tolerance=tolerance)
        )
    return found


def _explained(proprio_NP: Tensor, xy_N2: Tensor) -> float:
    """Share of the variance of places that a linear map of proprioception explains; 0 for too few rows to say."""
    known = proprio_NP.isfinite().all(1)
    given, target = proprio_NP[known].double(), xy_N2[known].double()
    if len(given) < 4 * (given.shape[1] + 1):
        return 0.0
    given = torch.cat([given - given.mean(0), torch.ones(len(given), 1, dtype=torch.float64)], 1)
    missed = target - given @ torch.linalg.lstsq(given, target, driver="gelsd").solution
    return 1 - float(missed.square().sum() / (target - target.mean(0)).square().sum().clamp_min(1e-9))


def _encode(world: Encodable, recorded: Recorded, j: int) -> Tensor:
    """Latents of the recorded frames at the start or a horizon; those of episodes that have ended mean nothing."""
    frames = {c.key: recorded.frames[c.key][:, j] for c in world.spec.cameras}
    return world.encode({**frames, STATE: recorded.proprio[:, j].nan_to_num()})


def _number_errors(quantity: str, truth: Tensor | None, predicted: Sequence[Tensor | None]) -> list[Errors]:
    """Root mean square error of the numbers [E, J + 1, D] that change, in their standard deviations."""
    said = [p.cpu() for p in predicted if p is not None]
    if truth is None or not said or len(said) < len(predicted):
        return []
    known = truth.isfinite().all(-1)
    scale_D = truth[known].std(0)
    changes = scale_D > 1e-6
    if not bool(changes.any()):
        return []
    target = truth[:, 1:]
    others = [torch.stack(said, 1), truth[:, :1], truth[known].mean(0)]
    own, copying, constant = ((((o - target) / scale_D)[..., changes]).square().mean(-1).sqrt() for o in others)
    return [Errors(quantity=quantity, unit="sd", world=own, copying=copying, constant=constant)]


def proprio_errors(recorded: Recorded, rolled: Rolled) -> list[Errors]:
    """Errors of proprioception; none where it does not change."""
    return _number_errors("proprioception", recorded.proprio, [step.proprio for step in rolled.at])


def state_errors(recorded: Recorded, rolled: Rolled) -> list[Errors]:
    """Errors of true states; none where there are none."""
    return _number_errors("states", recorded.true_state, [step.true_state for step in rolled.at])


def label_errors(recorded: Recorded, rolled: Rolled, spec: WorldSpec) -> list[Errors]:
    """How far progress is off, and whether success is misread, where the data says and heads have learned it."""
    found = []
    for name, unit in (("progress", "progress"), ("success", "wrong")):
        truth = recorded.labels[name]
        if name in spec.unlabelled or not bool(truth[:, 1:].isfinite().any()):
            continue
        target = truth[:, 1:]
        said = torch.stack([getattr(step, name) for step in rolled.at], 1).cpu()
        mean = target[target.isfinite()].mean()
        if name == "success":
            said, mean = (said > 0.5).float(), (mean > 0.5).float()
        own, copying, constant = ((other - target).abs() for other in (said, truth[:, :1], mean))
        found.append(
            Errors(
                quantity=name,
                unit=unit,  # type: ignore[arg-type]
                world=own,
                copying=copying,
                constant=constant,
                tolerance=_LABEL_TOLERANCE,
            )
        )
    return found
