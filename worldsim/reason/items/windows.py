"""Which clips are asked about: where something happens, and so that no single frame gives the answer away.

Clips of goal-directed agents lean: what comes late looks different from what comes early, so one frame would give
away which way time runs. `balance` picks clips whose leanings cancel.

Shape legend: N windows, F frames of a window, D numbers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.arrays import Float32s
from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import KeyedChoices

_WEIGHT = 5.0
"""How much more places count than pixels."""
_LEANINGS = 192
"""Directions that are levelled at most, the strongest: what is weaker cannot be read off a frame."""
MOST = 4096
"""Windows that are compared with each other at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Some frames of one video.

    Attributes:
        video: Its number.
        frames: Numbers of its frames.
        difficulty: 0 easy to 1 hard.
    """

    video: int
    frames: tuple[int, ...]
    difficulty: float = 0.5


def find_windows(
    footage: Footage, offsets: tuple[int, ...], *, key: int, after: int = 0, most: int = MOST
) -> list[Window]:
    """All windows with frames at these offsets from their beginning; at most `most` of them, chosen by the key.

    Args:
        footage: The videos; those too short are passed over.
        offsets: Increasing, beginning with 0.
        key: Chooses among too many.
        after: Frames that must follow the last one.
        most: How many to return at most.

    Raises:
        InvalidInputError: No video is long enough.
    """
    span = offsets[-1] + after
    places = [(v, f) for v, about in enumerate(footage.summaries) for f in range(about.frames - span)]
    if not places:
        longest = max(footage.summaries, key=lambda c: c.frames)
        raise InvalidInputError(
            f"This task needs videos of {span + 1} frames; the longest of {len(footage)} has "
            f"{longest.frames} (video {longest.provenance.episode}). "
            "Record longer ones, or configure fewer frames or a smaller stride."
        )
    if len(places) > most:
        drawn = np.array(KeyedChoices(key, "windows").uniform(len(places)))
        places = [places[i] for i in np.sort(np.argsort(drawn, kind="stable")[:most])]
    return [Window(video=v, frames=tuple(f + o for o in offsets)) for v, f in places]


def most_eventful(footage: Footage, found: list[Window], *, share: float) -> list[Window]:
    """The windows in which most happens, with their difficulty: the less happens, the harder.

    Args:
        footage: The videos.
        found: Windows.
        share: Of them, to keep.

    Raises:
        InvalidInputError: Nothing ever happens.
    """
    activity = footage.activity()
    total = np.array([float(activity[w.video][w.frames[0] : w.frames[-1]].sum()) for w in found])
    order = np.argsort(-total, kind="stable")[: max(1, round(share * len(found)))]
    order = order[total[order] > 0]
    if not len(order):
        raise InvalidInputError(f"Nothing moves in {len(found)} clips. Use videos in which something happens.")
    return [dataclasses.replace(found[i], difficulty=r / max(1, len(order) - 1)) for r, i in enumerate(order)]


def thumbnails(footage: Footage, window: Window) -> Float32s:
    """Thumbnails of a window's frames, float32 [F, D] in 0..1."""
    small = footage.summaries[window.video].thumbnails[list(window.frames)]
    flat: Float32s = small.reshape(len(small), -1).astype(np.float32) / np.float32(255)
    return flat


def frame_features(footage: Footage, windows: Sequence[Window]) -> Float32s:
    """What single frames of windows show, float32 [N, F, D]: thumbnails, and places where all videos have them.

    Places are those of object and agent, how far apart the two are, and how far the object is from the middle of the
    footage; they count more than pixels.
    """
    small = np.stack([thumbnails(footage, w) for w in windows])
    if any(s.object_xy is None or s.agent_xy is None for s in footage.summaries):
        return small
    middle = np.array(footage.limits, np.float32).mean(axis=1)
    rows = []
    for w in windows:
        about, frames = footage.summaries[w.video], list(w.frames)
        assert about.object_xy is not None and about.agent_xy is not None, "asked above"
        thing, agent = about.object_xy[frames] - middle, about.agent_xy[frames] - middle
        apart, far = np.linalg.norm(thing - agent, axis=1), np.linalg.norm(thing, axis=1)
        rows.append(np.column_stack([thing, agent, apart, np.square(apart), far, np.square(far)]))
    places = np.stack(rows)
    places -= places.mean(axis=(0, 1))
    places *= _WEIGHT * float(small.std(axis=(0, 1)).mean()) / (places.std(axis=(0, 1)) + 1e-9)
    found: Float32s = np.concatenate([small, places], axis=2).astype(np.float32)
    return found


def balance(lean_ND: Float32s, *, keep: float) -> NDArray[np.int64]:
    """Choose rows whose sum stays near zero for every prefix of the result.

    Rows are whitened, so that a small thing's place counts as much as a large one's; then each next row points most
    against the sum so far (herding: Welling, ICML 2009). A row's own length does not count against it: clips in which
    much happens are as welcome as others.

    Args:
        lean_ND: What each row would give away, on average zero for a harmless set.
        keep: Share of the rows to choose.

    Returns:
        Chosen rows in order, int64 [round(keep * N)], at least one.
    """
    power_DD = lean_ND.T @ lean_ND / len(lean_ND)
    power_DD += np.eye(len(power_DD), dtype=np.float32) * (np.trace(power_DD) / len(power_DD) + 1e-12)
    value_D, vector_DD = np.linalg.eigh(power_DD)
    strong = slice(-_LEANINGS, None)  # eigenvalues come in rising order
    white_ND = (lean_ND @ vector_DD[:, strong] / np.sqrt(value_D[strong])).astype(np.float32)
    running_D = np.zeros(white_ND.shape[1], np.float32)
    left = np.ones(len(white_ND), bool)
    chosen = []
    for _ in range(max(1, round(keep * len(white_ND)))):
        best = int(np.where(left, white_ND @ running_D, np.inf).argmin())
        chosen.append(best)
        left[best] = False
        running_D += white_ND[best]
    return np.array(chosen, np.int64)


def shuffle(pool: Sequence[Window], key: int) -> tuple[Window, ...]:
    """The pool in keyed order, so that its beginning is like the rest."""
    return tuple(pool[i] for i in KeyedChoices(key, "mixed").order(len(pool)))
