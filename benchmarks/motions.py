"""Made-up recordings of three kinds of motion, clean and with rows or frames missing, to measure how well gaps are found.

A camera looks at a textured plane that moves with two joints. Actions are velocities, or targets that the joints follow.

Shape legend: T actions, H W image.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from worldsim.arrays import Float64s
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.faults import Fault, find_faults, signals_of

Rng = np.random.Generator
STEPS, EPISODES = 60, 12
LONGEST, NEAR = 4, 2
"""Rows or frames that are missing at once, at most; and how far from its row a gap may be reported."""


def smooth(r: Rng) -> Float64s:
    """Velocities [T, 2] that change slowly."""
    velocity = np.zeros((STEPS, 2))
    for t in range(1, STEPS):
        velocity[t] = 0.9 * velocity[t - 1] + 0.35 * r.normal(size=2)
    return velocity + 1.2


def jerky(r: Rng) -> Float64s:
    """Velocities [T, 2] that take another value every one to four steps, from slow to fast, and sometimes back."""
    parts = list[Float64s]()
    while sum(len(part) for part in parts) < STEPS:
        speed = r.choice([0.3, 1.0, 3.0], size=2) * r.choice([-0.5, 1], size=2, p=[0.3, 0.7])
        parts.append(np.repeat(speed[None] * r.uniform(0.7, 1.3, 2), r.integers(1, 5), axis=0))
    return np.concatenate(parts)[:STEPS]


def idle(r: Rng) -> Float64s:
    """Velocities [T, 2] of short smooth reaches between long pauses."""
    active = np.zeros(STEPS)
    for first in r.integers(2, STEPS - 14, 2):
        active[first : first + 12] = np.hanning(14)[1:-1]
    return active[:, None] * (np.array([2.0, 1.5]) + 0.2 * r.normal(size=(STEPS, 2)))


MOTIONS: Mapping[str, Callable[[Rng], Float64s]] = {"smooth": smooth, "jerky": jerky, "idle": idle}


def record(velocity: Float64s, r: Rng, *, targets: bool) -> Episode:
    """A recording of velocities [T, 2] in pixels a step, the joints somewhat noisy."""
    place = np.concatenate([[[0.0, 0.0]], np.cumsum(velocity, axis=0)])
    place += 30 - place.min(axis=0)
    size = np.ceil(place.max(axis=0)).astype(int) + 40
    coarse = r.integers(90, 160, (size[1] // 6 + 8, size[0] // 6 + 8, 3))
    texture = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1).astype(np.uint8)
    rows = [texture[int(y) : int(y) + 24, int(x) : int(x) + 32] for x, y in place]
    known = np.zeros(STEPS + 1, np.float32)
    return Episode(
        frames={IMAGE: np.stack(rows)},
        proprio=((place + 0.02 * r.normal(size=place.shape)) / 100).astype(np.float32),
        action=(place[1:] / 100 if targets else velocity).astype(np.float32),
        success=known,
        progress=known,
        reward=known[1:],
    )


def keep_rows(episode: Episode, rows: list[int]) -> Episode:
    """Only some of the observations of an episode with one camera, and the actions taken at them."""
    return dataclasses.replace(
        episode,
        frames={IMAGE: episode.frames[IMAGE][rows]},
        proprio=episode.proprio[rows],
        action=episode.action[rows[:-1]],
        success=episode.success[rows],
        progress=episode.progress[rows],
        reward=episode.reward[rows[:-1]],
    )


def drop_rows(episode: Episode, first: int, count: int) -> Episode:
    """Without some rows after row `first`."""
    return keep_rows(episode, [t for t in range(STEPS + 1) if not first < t <= first + count])


def drop_frames(episode: Episode, first: int, count: int) -> Episode:
    """All rows, and a video that lacks some frames after row `first`: the later ones come early, the last one stays."""
    shown = np.minimum(np.arange(STEPS + 1) + count * (np.arange(STEPS + 1) > first), STEPS)
    return dataclasses.replace(episode, frames={IMAGE: episode.frames[IMAGE][shown]})


DROPS: Mapping[str, Callable[[Episode, int, int], Episode]] = {"rows": drop_rows, "frames": drop_frames}


@dataclasses.dataclass(kw_only=True)
class Tally:
    """Gaps that were planted where the robot moves, those found at their row, and alarms in episodes where there is nothing."""

    planted: int = 0
    found: int = 0
    false_alarms: int = 0
    episodes: int = 0


def faults_of(episodes: list[Episode]) -> tuple[Fault, ...]:
    """Missing rows and frames, and leaps of pictures or joints, that are found in recordings."""
    found = find_faults([signals_of(i, e, rate_hz=10, idle=(0, 0)) for i, e in enumerate(episodes)])
    return tuple(f for f in found if f.kind in ("dropped_frames", "picture_jump", "joint_jump"))


def tally(motion: str, drop: str, seeds: range) -> Tally:
    """Plant a gap in every fourth episode of a dataset, and count; alarms are counted in the clean dataset and elsewhere."""
    count = Tally()
    for seed in seeds:
        r = np.random.default_rng([seed, *map(ord, motion + drop)])
        velocities = [MOTIONS[motion](r) for _ in range(EPISODES)]
        clean = [record(v, r, targets=bool(seed % 2)) for v in velocities]
        count.false_alarms += len(faults_of(clean))
        count.episodes += 2 * EPISODES - len(range(0, EPISODES, 4))
        planted = {}
        for i in range(0, EPISODES, 4):
            gap = int(r.integers(1, LONGEST + 1))
            far = [np.linalg.norm(velocities[i][t + 1 : t + 1 + gap].sum(axis=0)) for t in range(2, STEPS - 8)]
            first = 2 + int(r.choice(np.flatnonzero(np.array(far) >= 1)))  # a gap in which nothing moves is none
            planted[i] = (first, DROPS[drop](clean[i], first, gap))
        faulty = [planted[i][1] if i in planted else e for i, e in enumerate(clean)]
        found = faults_of(faulty)
        hits = {
            f.episode
            for f in found
            if f.episode in planted and f.frames and abs(f.frames[0] - planted[f.episode][0]) <= NEAR
        }
        count.planted += len(planted)
        count.found += len(hits)
        count.false_alarms += sum(f.episode not in planted for f in found)
    return count


def tally_all(seeds: range) -> dict[str, Tally]:
    """A tally of every kind of motion and of what is missing, by ``motion, what``."""
    return {f"{motion}, {drop}": tally(motion, drop, seeds) for motion in MOTIONS for drop in DROPS}
