"""Statistics that LeRobot datasets carry: per episode, and over all episodes.

An episode's are exact; the dataset's are merged from them as LeRobot merges (parallel variance; quantiles averaged by
count). Nothing in worldsim is normalised with them: `ActionSpec` and the models do that themselves.

Shape legend: R rows, D values of a row, E episodes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.arrays import Bytes

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
"""Every statistic but the count."""
Stats = Mapping[str, Sequence[float]]
"""Statistic name -> one number per value of the row; `count` -> [R]."""


def numeric_stats(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, dict[str, list[float]]]:
    """Statistics of an episode's low-dimensional columns.

    Args:
        columns: Name -> [R] or [R, D].

    Returns:
        Name -> statistic -> D numbers.
    """
    parts = {k: v.reshape(len(v), -1).astype(np.float64) for k, v in columns.items()}
    everything = np.concatenate(list(parts.values()), axis=1)
    table = np.concatenate(
        [
            [everything.min(0), everything.max(0), everything.mean(0), everything.std(0)],
            np.quantile(everything, list(QUANTILES.values()), axis=0),
        ]
    )
    found, column = {}, 0
    for name, part in parts.items():
        width = part.shape[1]
        found[name] = {s: table[i, column : column + width].tolist() for i, s in enumerate(NAMES)} | {
            "count": [len(part)]
        }
        column += width
    return found


def image_stats(frames: Bytes) -> dict[str, list[float]]:
    """Statistics of frames uint8 [R, H, W, 3] per colour, as fractions of 255; `count` is that of frames."""
    counts = np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])  # [3, 256]
    levels = np.arange(256) / 255
    total = counts[0].sum()
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0))
    below = counts.cumsum(1)
    found = {"min": (counts > 0).argmax(1) / 255, "max": (255 - (counts[:, ::-1] > 0).argmax(1)) / 255}
    found |= {"mean": mean, "std": std}
    found |= {name: (below > q * (total - 1)).argmax(1) / 255 for name, q in QUANTILES.items()}
    return {k: v.tolist() for k, v in found.items()} | {"count": [len(frames)]}


def merge_stats(episodes: Sequence[Stats]) -> dict[str, list[float]]:
    """Statistics over all episodes, from those of each."""
    count = np.array([e["count"][0] for e in episodes], np.float64)
    weight = (count / count.sum())[:, None]
    table = {s: np.array([e[s] for e in episodes], np.float64) for s in NAMES}  # each [E, D]
    mean = (weight * table["mean"]).sum(0)
    variance = (weight * (table["std"] ** 2 + (table["mean"] - mean) ** 2)).sum(0)
    merged = {"min": table["min"].min(0), "max": table["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    merged |= {q: (weight * table[q]).sum(0) for q in QUANTILES}
    return {k: v.tolist() for k, v in merged.items()} | {"count": [int(count.sum())]}
