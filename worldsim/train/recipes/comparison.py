"""How worlds do against each other on held-out episodes, open loop: the error over what moves, at growing horizons.

The error is meant to prefer a thing that is drawn sharp and a little off to one that dissolved, which a squared error does not:
differences of frames are averaged over cells of 1, 2, 4 ... pixels, and large cells count more. A thing that is off by a few
pixels cancels out in all but the small cells; one that is gone is missed in all of them. On a flat background a thing of
6 pixels costs as much when it is 6 pixels off as when it is gone (by squared error: at 3 pixels), and a blurred or half
transparent one up to that. Differences below `VISIBLE` are noise and shading, and count nothing.

Shape legend: E windows, T frames, N frames, H W pixels, C=3 colour.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.core import STATE, TASK, Observation, text_rows
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.protocols import require_drawable
from worldsim.text import align
from worldsim.worlds.latent import LearnedWorld

HORIZONS = (1, 4, 8, 16, 32)
CONTEXT = 4
"""Frames that a world sees before it is on its own."""
WINDOWS = 32
"""Held-out episodes, one window of each."""
VISIBLE = 16 / 255
"""Difference of a colour below which pixels count as equal."""
COPYING, BACKGROUND = "copying", "constant background"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Error by horizon, mean over windows and cameras, and PSNR of the same frames in decibels."""

    error: tuple[float, ...]
    psnr_db: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured of several worlds.

    Attributes:
        horizons: Actions ahead.
        windows: How many were measured.
        lines: By name; `COPYING` and `BACKGROUND` are among them.
    """

    horizons: tuple[int, ...]
    windows: int
    lines: dict[str, Measured]

    def score(self, name: str) -> float:
        """Error summed over the horizons, as a share of that of copying the last frame seen: below 1 is better than copying."""
        return sum(self.lines[name].error) / max(sum(self.lines[COPYING].error), 1e-12)

    def clear(self, share: float) -> list[str]:
        """Worlds whose error is less than a share of that of copying and of the background."""
        least = min(self.score(COPYING), self.score(BACKGROUND))
        return [name for name in self.lines if self.score(name) < share * least]

    def __str__(self) -> str:
        """The table: error as a share of copying's, PSNR beside it, by horizon and over all."""
        rows = [("error (PSNR dB) after actions", *map(str, self.horizons), "all")]
        for name, line in self.lines.items():
            copied = self.lines[COPYING].error
            parts = [
                f"{own / max(base, 1e-12):.2f} ({db:.1f})" if base > 0 else f"- ({db:.1f})"
                for own, base, db in zip(line.error, copied, line.psnr_db, strict=True)
            ]
            rows.append((name, *parts, f"{self.score(name):.3f}"))
        return align(rows)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Pieces of held-out episodes.

    Attributes:
        frames: By camera key, uint8 [E, T, H, W, 3].
        proprio: [E, T, P], physical units.
        action: [E, T - 1, A], physical units.
        tasks: Of each.
        context: Frames that are seen first.
        horizons: At which is measured; the last ends with the window.
    """

    frames: dict[str, Tensor]
    proprio: Tensor
    action: Tensor
    tasks: tuple[str, ...]
    context: int
    horizons: tuple[int, ...]


def read_windows(dataset: Dataset, held_out: Sequence[int]) -> Windows:
    """One window of each of up to `WINDOWS` held-out episodes, early in some and late in others.

    Args:
        dataset: Where they are from.
        held_out: Episodes with an action, in order.

    Returns:
        Windows of the longest horizon that at least half of the episodes reach.

    Raises:
        InvalidInputError: No episode holds an action, or none can be read.
    """
    lengths = sorted(dataset.length(i) for i in held_out if dataset.length(i) > 1)
    if not lengths:
        raise InvalidInputError("No held-out episode holds an action; families cannot be compared. Set family=NAME.")
    usual = lengths[(len(lengths) - 1) // 2]
    horizons = tuple(h for h in HORIZONS if h < usual)
    context = min(CONTEXT, usual - horizons[-1])
    size = context + horizons[-1]
    chosen = [i for i in held_out if dataset.length(i) >= size]
    chosen = chosen[:: -(-len(chosen) // WINDOWS)]
    frames: dict[str, list[Tensor]] = {c.key: [] for c in dataset.cameras}
    proprio, action, tasks = list[Tensor](), list[Tensor](), list[str]()
    for place, index in enumerate(chosen):
        try:
            episode = dataset.episode(index)
        except (StorageError, InvalidInputError):
            continue  # encoding counts and names them
        begin = round(place / max(len(chosen) - 1, 1) * (dataset.length(index) - size))
        for key, kept in frames.items():
            kept.append(torch.tensor(episode.frames[key][begin : begin + size]))
        proprio.append(torch.tensor(episode.proprio[begin : begin + size]))
        action.append(torch.tensor(episode.action[begin : begin + size - 1]))
        tasks.append(episode.task)
    if not action:
        raise InvalidInputError("No held-out episode can be read; families cannot be compared. Set family=NAME.")
    return Windows(
        frames={key: torch.stack(kept) for key, kept in frames.items()},
        proprio=torch.stack(proprio),
        action=torch.stack(action),
        tasks=tuple(tasks),
        context=context,
        horizons=horizons,
    )


def measure_world(world: LearnedWorld, windows: Windows) -> Measured:
    """Let a world of one action a step see the first frames of windows, then roll out the true actions and draw."""
    first = windows.context - 1
    state = world.reset(_seen(windows, 0), torch.arange(len(windows.action)))
    for t in range(1, windows.context):
        state = world.see(state, _seen(windows, t), windows.action[:, t - 1])
    _, rollout = world.rollout(state, windows.action[:, first:])
    draw = require_drawable(world).decode
    return _measure(
        windows, {h: {key: draw(rollout.latent[:, h - 1], key) for key in windows.frames} for h in windows.horizons}
    )


def measure_copying(windows: Windows) -> dict[str, Measured]:
    """Copying the last frame seen, and the background: the middle value of each pixel."""
    last = {key: x[:, windows.context - 1] for key, x in windows.frames.items()}
    still = {
        key: x[:, :: max(1, x.shape[1] // 8)].flatten(0, 1).median(0).values.expand_as(x[:, 0])
        for key, x in windows.frames.items()
    }
    return {
        BACKGROUND: _measure(windows, dict.fromkeys(windows.horizons, still)),
        COPYING: _measure(windows, dict.fromkeys(windows.horizons, last)),
    }


def _seen(windows: Windows, t: int) -> Observation:
    """The observations at one time."""
    frames = {key: x[:, t] for key, x in windows.frames.items()}
    return {**frames, STATE: windows.proprio[:, t], TASK: text_rows(list(windows.tasks))}


def _measure(windows: Windows, drawn: Mapping[int, Mapping[str, Tensor]]) -> Measured:
    """Errors of frames uint8 [E, H, W, 3] by horizon and camera."""
    errors, psnr_db = list[float](), list[float]()
    for h in windows.horizons:
        pairs = [(_colors(drawn[h][key]), _colors(x[:, windows.context - 1 + h])) for key, x in windows.frames.items()]
        errors.append(sum(float(moved_error(a, b).mean()) for a, b in pairs) / len(pairs))
        mse = sum(float((a - b).square().mean()) for a, b in pairs) / len(pairs)
        psnr_db.append(-10 * math.log10(max(mse, 1e-9)))
    return Measured(
        error=tuple(round(e, 8) for e in errors),
        psnr_db=tuple(round(p, 3) for p in psnr_db),
    )


def _colors(x_NHWC: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in 0..1."""
    return x_NHWC.movedim(-1, 1).float() / 255


def moved_error(drawn_NCHW: Tensor, true_NCHW: Tensor) -> Tensor:
    """How far frames in 0..1 are from the true ones, [N]; see this file's first lines."""
    gap = drawn_NCHW - true_NCHW
    gap = gap.sign() * (gap.abs() - VISIBLE).clamp_min(0)
    total, weights, cell = gap.new_zeros(len(gap)), 0, 1
    while cell <= max(1, min(gap.shape[-2:]) // 4):
        total = total + cell * F.avg_pool2d(gap, cell, ceil_mode=True).abs().mean((1, 2, 3))
        weights, cell = weights + cell, 2 * cell
    return total / weights
