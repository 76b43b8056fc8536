"""Films for the report: which episodes to film, and clips as data URIs."""

import base64
import dataclasses
from collections.abc import Sequence

import numpy as np

from worldsim.arrays import Bools
from worldsim.stats.correlation import SOLVED
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report.data import Clip, Kind
from worldsim.video import Frames, encode_mp4, encode_png, side_by_side

KINDS: tuple[Kind, ...] = ("win", "loss", "optimistic", "pessimistic")
"""In the order in which they are shown."""
_GAP_PX = 8
PANE_PX = 192  # a pane is enlarged by a integer factor to about this height, so that pixels stay crisp
_LIMIT_BYTES = 5_000_000  # all films of a page together; those beyond are left out, and the page says so


@dataclasses.dataclass(frozen=True, kw_only=True)
class Film:
    """A clip ready for a page.

    Attributes:
        clip: What it shows.
        video: MP4 as a data URI.
        poster: Its last frame, PNG as a data URI.
        width_px: Of the film.
        height_px: Of the film.
        last_frame: Number of its last frame, from 0.
    """

    clip: Clip
    video: str
    poster: str
    width_px: int
    height_px: int
    last_frame: int


def choose(ranking: Ranking, *, world: Evidence, truth: Evidence | None = None, each: int = 3) -> list[tuple[int, int]]:
    """Choose episodes worth watching: wins, losses, and episodes on which world and truth disagree.

    Wins and losses come from the best policies, disagreements from anywhere in rank order; every pick is of another
    policy while there are any.

    Args:
        ranking: The leaderboard.
        world: Outcomes in the world, [K, N].
        truth: Outcomes of the same episodes in the truth, [K, M]; episodes unknown there are not chosen.
        each: How many of each kind.

    Returns:
        (policy, episode) pairs, kind by kind.
    """
    stop = world.episodes if truth is None else min(world.episodes, truth.episodes)
    known, solved = world.done[:, :stop].copy(), world.success[:, :stop] >= SOLVED
    masks = [known & solved, known & ~solved]
    if truth is not None:
        known &= truth.done[:, :stop]
        real = truth.success[:, :stop] >= SOLVED
        masks = [known & solved & real, known & ~solved & ~real, known & solved & ~real, known & ~solved & real]
    ranked = [line.policy for line in ranking.policies if line.failed is None]
    chosen: list[tuple[int, int]] = []
    for mask in masks:
        chosen += _pick(mask, ranked, each)
    return chosen


def _pick(mask: Bools, ranked: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Take the first fitting episode of each policy in rank order, then the second of each, until there are enough."""
    columns = {policy: np.flatnonzero(mask[policy]) for policy in ranked}
    found: list[tuple[int, int]] = []
    for turn in range(count):
        for policy in ranked:
            if len(found) == count:
                return found
            if turn < len(columns[policy]):
                found.append((policy, int(columns[policy][turn])))
    return found


def encode_films(clips: Sequence[Clip]) -> tuple[Film, ...]:
    """Encode clips in the order of `KINDS`, as many as fit on a page.

    A shorter side is held at its last frame. World left, truth right.
    """
    found, spent = [], 0
    for clip in sorted(clips, key=lambda c: KINDS.index(c.kind)):
        film = _encode_film(clip)
        spent += len(film.video) + len(film.poster)
        if spent > _LIMIT_BYTES:
            break
        found.append(film)
    return tuple(found)


def _encode_film(clip: Clip) -> Film:
    panes = [enlarge(side, height_px=PANE_PX) for side in (clip.world, clip.truth) if side is not None]
    height = max(pane.shape[1] for pane in panes)
    panes = [np.pad(p, [(0, 0), (0, height - p.shape[1]), (0, 0), (0, 0)], constant_values=255) for p in panes]
    frames = side_by_side(panes, gap_px=_GAP_PX)
    return Film(
        clip=clip,
        video=_to_uri("video/mp4", encode_mp4(frames, rate_hz=clip.rate_hz)),
        poster=_to_uri("image/png", encode_png(frames[-1])),
        width_px=int(frames.shape[2]),
        height_px=int(frames.shape[1]),
        last_frame=max(1, len(frames) - 1),
    )


def enlarge(frames: Frames, *, height_px: int) -> Frames:
    """Enlarge [T, H, W, 3] by the integer factor that comes nearest to `height_px` from below, at least 1."""
    factor = max(1, height_px // frames.shape[1])
    return np.ascontiguousarray(frames.repeat(factor, axis=1).repeat(factor, axis=2))


def _to_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
