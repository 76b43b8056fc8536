"""Batches of windows cut out of encoded episodes; windows in which something unexpected happens are oversampled.

A batch is a function of (seed, step), so training resumes exactly. Pixels are encoded first (`worldsim.data.latents`).

Shape legend: B batch, T frames of a window, E episodes, F frames of an episode, C H W latent, P proprio, A action.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.core import Rows, text_rows
from worldsim.errors import InvalidInputError

_DIRECTIONS = 64
"""Latents of more numbers than this are projected on so many random directions to find unexpected frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip(Rows):
    """A batch of windows."""

    z_BTCHW: Tensor  # latents
    proprio_BTP: Tensor  # physical units
    action_BTA: Tensor  # in [-1, 1]; action[t] leads from frame t to frame t + 1; the last of a window is not used
    progress_BT: Tensor  # 0..1, nan where the data has none
    success_BT: Tensor  # 0 or 1, nan where the data has none
    start_BCHW: Tensor  # the episode's first latent
    text_BL: Tensor | None = None  # uint8, the task (`worldsim.core.text_rows`); None where it is not encoded


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedEpisode:
    """One episode after the tokenizer; fields as in `Clip` without the batch axis."""

    z_FCHW: Tensor
    proprio_FP: Tensor
    action_FA: Tensor  # F - 1 rows
    progress_F: Tensor
    success_F: Tensor
    task: str = ""  # what it is to achieve
    weight: float = 1.0  # how often one of its windows is drawn, relative to those of others


class ClipSampler:
    """Draws clips from some episodes, which are padded in front by `history - 1` copies of their first frame.

    All latents of all episodes are held in memory.
    """

    def __init__(
        self,
        episodes: Sequence[EncodedEpisode],
        *,
        history: int,
        idle_A: Tensor,
        surprise: Sequence[Tensor] | None = None,
    ) -> None:
        """Pack episodes end to end.

        Args:
            episodes: At least one, each of at least two frames.
            history: K; the padding is what worlds do at an episode's start.
            idle_A: The action, in [-1, 1], that fills the padding.
            surprise: How unexpected each frame is, [F] per episode, for example a predictor's error; None to take
                what a linear model leaves unexplained.

        Raises:
            InvalidInputError: No episode has two frames, or `surprise` does not fit the episodes.
        """
        if surprise is not None and [len(s) for s in surprise] != [len(e.z_FCHW) for e in episodes]:
            raise InvalidInputError("surprise must hold one number per frame of each episode. Measure it on these.")
        usable = [e for e in episodes if e.z_FCHW.shape[0] >= 2]
        if not usable:
            raise InvalidInputError("No episode has two frames or more: there is nothing to learn from.")
        pad = history - 1
        self._z = torch.cat([_pad_front(e.z_FCHW, pad) for e in usable])
        self._proprio = torch.cat([_pad_front(e.proprio_FP, pad) for e in usable])
        self._progress = torch.cat([_pad_front(e.progress_F, pad) for e in usable])
        self._success = torch.cat([_pad_front(e.success_F, pad) for e in usable])
        idle = idle_A[None]
        self._action = torch.cat([torch.cat([idle.expand(pad, -1), e.action_FA, idle]) for e in usable])
        self._text = text_rows([e.task for e in usable]) if any(e.task for e in usable) else None
        weights = [e.weight for e in usable]
        self._weight = None if len(set(weights)) == 1 else torch.tensor(weights, dtype=torch.float64)
        self._lengths = torch.tensor([e.z_FCHW.shape[0] + pad for e in usable])
        self._offsets = self._lengths.cumsum(0) - self._lengths
        self._surprise = self._measure_surprise() if surprise is None else _join_surprise(episodes, surprise, pad)

    def _measure_surprise(self) -> Tensor:
        """How far each frame departs from what a linear model of the past and the action expects, per frame.

        A free motion is nearly linear; a contact is not. Least squares on (last change, this and the last action).
        """
        z = self._z.flatten(1)
        if z.shape[1] > _DIRECTIONS:  # random directions keep distances well enough, at a fraction of the memory
            generator = torch.Generator().manual_seed(0)
            z = z @ torch.linalg.qr(torch.randn(z.shape[1], _DIRECTIONS, generator=generator).to(z))[0]
        change = torch.zeros_like(z)
        change[1:] = z[1:] - z[:-1]
        inside = torch.ones(z.shape[0], dtype=torch.bool)
        for lag in range(2):
            inside[(self._offsets + lag).clamp_max(z.shape[0] - 1)] = False
        rows = inside.nonzero()[:, 0]
        past = change[rows - 1]
        inputs = torch.cat([past, self._action[rows - 1], self._action[rows - 2], torch.ones(len(rows), 1)], dim=1)
        wide = inputs.double()  # in float32 large latents make the system singular
        gram = wide.T @ wide
        ridge = 1e-6 * gram.diagonal().mean() + 1e-12
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram)), wide.T @ change[rows].double()).to(z)
        residual = (change[rows] - inputs @ weights).square().sum(1).sqrt()
        surprise = torch.zeros(z.shape[0])
        surprise[rows] = residual
        return surprise

    def windows(self, length: int) -> tuple[Tensor, Tensor]:
        """First frames of all windows of `length` frames, split into eventful and quiet: int64 [W], int64 [V].

        Eventful windows are the third with the largest single surprise.

        Raises:
            InvalidInputError: No episode is that long.
        """
        first = [
            torch.arange(int(o), int(o + n) - length + 1)
            for o, n in zip(self._offsets, self._lengths, strict=True)
            if n >= length
        ]
        if not first:
            raise InvalidInputError(f"No episode has {length} frames; the longest has {int(self._lengths.max())}.")
        start = torch.cat(first)
        peak = self._surprise[start[:, None] + torch.arange(length)].amax(1)
        limit = peak[:: len(peak) // 1_000_000 + 1].quantile(2 / 3)  # quantile takes no more
        eventful = peak >= limit if limit > peak.min() else peak > peak.min()  # where little happens, whatever does
        sides = [side if len(side) else start for side in (start[eventful], start[~eventful])]
        return sides[0], sides[1]

    def windows_by_success(self, length: int) -> tuple[Tensor, Tensor]:
        """First frames of all windows of `length` frames whose last frame is known solved, and known not: int64 [W], int64 [V].

        Where there is none of one kind, that side holds the other's.

        Raises:
            InvalidInputError: No window has a known last frame.
        """
        start = torch.cat(self.windows(length)).unique()
        last = self._success[start + length - 1]
        solved, unsolved = start[last > 0.5], start[last <= 0.5]
        if not len(solved) and not len(unsolved):
            raise InvalidInputError(
                "No window ends in a frame with a success label. Label episodes, or leave labels out."
            )
        return (solved if len(solved) else unsolved), (unsolved if len(unsolved) else solved)

    def batch(
        self, table: tuple[Tensor, Tensor], length: int, size: int, *, seed: int, step: int, eventful: float = 0.7
    ) -> Clip:
        """Draw B windows of T frames as a `Clip`, its latents [B, T, C, H, W]; a pure function of (seed, step).

        Args:
            table: What `windows(length)` returned, int64 [W] and [V].
            length: Frames T per window.
            size: Windows B in the batch.
            seed: Of the run.
            step: Of the optimiser.
            eventful: Share of the batch drawn from the eventful windows.
        """
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) & 0x7FFFFFFF)
        many = round(size * eventful)
        chosen = [
            rows[self._draw(rows, count, generator)] for rows, count in zip(table, (many, size - many), strict=True)
        ]
        start = torch.cat(chosen)
        index = start[:, None] + torch.arange(length)
        episode = self._episode(start)
        return Clip(
            z_BTCHW=self._z[index],
            proprio_BTP=self._proprio[index],
            action_BTA=self._action[index],
            progress_BT=self._progress[index],
            success_BT=self._success[index],
            start_BCHW=self._z[self._offsets[episode]],
            text_BL=None if self._text is None else self._text[episode],
        )

    def _draw(self, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Places int64 [count] in a table of first frames int64 [W], by the weights of their episodes."""
        if self._weight is None:
            return torch.randint(len(rows), (count,), generator=generator)
        limits = self._weight[self._episode(rows)].cumsum(0)
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * limits[-1]
        return torch.searchsorted(limits, drawn, right=True).clamp_max(len(rows) - 1)

    def _episode(self, start: Tensor) -> Tensor:
        """Which packed episode each frame, int64 [B], belongs to: int64 [B]."""
        return torch.searchsorted(self._offsets, start, right=True) - 1

    @property
    def z(self) -> Tensor:
        """All latents end to end, padding included: [N, C, H, W]."""
        return self._z


def _join_surprise(episodes: Sequence[EncodedEpisode], surprise: Sequence[Tensor], pad: int) -> Tensor:
    """The caller's surprise of the usable episodes, end to end; padding is never surprising."""
    nothing = torch.zeros(pad)
    pairs = zip(episodes, surprise, strict=True)
    return torch.cat([torch.cat([nothing, s.float()]) for e, s in pairs if e.z_FCHW.shape[0] >= 2])


def _pad_front(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows[:1].expand(count, *rows.shape[1:]), rows])
