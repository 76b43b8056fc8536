"""What a few labels say of all episodes of a dataset: a Gaussian process on a few numbers of each.

The numbers are principal components of the mean colours of parts of a frame; an outcome shows in the last.

Shape legend: N episodes, L labelled ones, F frames, X colours, D numbers that are kept, H W pixels.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy import linalg, special
from scipy.spatial.distance import cdist

from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.data.episode import Episode
from worldsim.data.labels import Outcome
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent
from worldsim.stats.judge_rates import JudgeRates

KEPT = 16
"""D at most."""
_SIDE = 8
"""A frame is described by so many by so many mean colours."""
_QUIET = 0.1
"""Colours that vary less than so much of the most varying one stay small: noise."""
_TOGETHER = 64
_NOISE = 0.1
"""Variance of a label around -1 or 1: people err, and the numbers do not say all."""
_REACHES = (0.25, 0.5, 1.0, 2.0)
"""How far labels reach, in medians of the distances between episodes; the best by leave-one-out is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What is known of the episodes of a dataset.

    Attributes:
        ends_ND: Numbers of each episode's last frame, [N, D]; zero where an episode was not looked at.
        frames: Numbers of all its frames, [F, D], by episode; empty where only last frames were looked at.
        left_out: Episodes that were not looked at, with the reason.
    """

    ends_ND: Float64s
    frames: dict[int, Float64s]
    left_out: dict[int, str]


def describe_episodes(
    dataset: Dataset, *, most: int, all_frames: bool = False, progress: Progress = silent
) -> Described:
    """Look at episodes.

    Args:
        dataset: With all its cameras.
        most: Episodes to look at; of more, evenly many are left out.
        all_frames: Look at all frames, not only at the last.
        progress: Called as it advances.

    Raises:
        InvalidInputError: No episode can be read.
    """
    chosen = np.unique(np.linspace(0, dataset.episodes - 1, min(most, dataset.episodes)).round().astype(int)).tolist()
    left_out = {i: f"only {most} episodes are looked at" for i in set(range(dataset.episodes)) - set(chosen)}
    rows: dict[int, Float32s] = {}
    for done, index in enumerate(chosen):
        try:
            rows[index] = _look(dataset.episode(index), all_frames=all_frames)
        except (StorageError, InvalidInputError) as error:
            left_out[index] = str(error)
        progress("episodes", done + 1, len(chosen), {})
    if not rows:
        raise InvalidInputError(f"No episode of {dataset.name} can be read. The first: {left_out[chosen[0]]}")
    reduce = fit_reduction(np.stack([r[-1] for r in rows.values()]))
    frames = {i: reduce(r) for i, r in rows.items()}
    ends_ND = np.zeros((dataset.episodes, next(iter(frames.values())).shape[1]))
    ends_ND[list(frames)] = [f[-1] for f in frames.values()]
    return Described(ends_ND=ends_ND, frames=frames if all_frames else {}, left_out=left_out)


def fit_reduction(rows_NX: Float32s) -> Callable[[Float32s], Float64s]:
    """What brings numbers to comparable scales and keeps the principal components of these: [..., X] -> [..., D]."""
    wide_NX = rows_NX.astype(np.float64)
    mean_X, scale_X = wide_NX.mean(axis=0), wide_NX.std(axis=0)
    scale_X = np.maximum(scale_X, max(_QUIET * float(scale_X.max()), 1e-9))
    directions_DX = np.linalg.svd((wide_NX - mean_X) / scale_X, full_matrices=False)[2][:KEPT]
    return lambda rows: np.asarray((rows - mean_X) / scale_X @ directions_DX.T)


def _look(episode: Episode, *, all_frames: bool) -> Float32s:
    """Mean colours of parts of every camera's frames, [F, X]."""
    first = 0 if all_frames else -1
    return np.concatenate([mean_colours(frames[first:]) for frames in episode.frames.values()], axis=1)


def mean_colours(frames_FHWC: Bytes) -> Float32s:
    """Mean colours of 8 x 8 parts of frames uint8 [F, H, W, 3], [F, X]."""
    x_FCHW = torch.from_numpy(np.ascontiguousarray(frames_FHWC)).permute(0, 3, 1, 2)
    parts = [F.adaptive_avg_pool2d(x.float(), _SIDE).flatten(1) for x in x_FCHW.split(_TOGETHER)]
    return np.asarray(torch.cat(parts).numpy())


def guess_outcomes(
    features_ND: Float64s, said: Mapping[int, Outcome], *, chance_N: Float64s | None = None
) -> Float64s | None:
    """Probability that each episode (or frame) is solved, [N, D] -> [N], by the labels of some.

    Gaussian process regression of -1 and 1 (Rasmussen and Williams, eq. 2.25 and 2.26), its reach by leave-one-out
    (eq. 5.10 to 5.12).

    Args:
        features_ND: What is known of each episode.
        said: Outcome by episode; unclear ones say nothing.
        chance_N: Probability by a head or judge that exists already, from which the labels depart; None where there is none.

    Returns:
        The probabilities; `chance_N` before both outcomes are known.
    """
    fitted = _fit(features_ND, said, chance_N)
    if fitted is None:
        return chance_N
    prior_N, kernel_NL, known, rest_L = fitted
    factor = linalg.cho_factor(kernel_NL[known] + _NOISE * np.eye(len(known)), lower=True)
    mean_N = prior_N + kernel_NL @ linalg.cho_solve(factor, rest_L)
    variance_N = 1 - np.einsum("nl,ln->n", kernel_NL, linalg.cho_solve(factor, kernel_NL.T))
    return np.asarray(special.ndtr(mean_N / np.sqrt(variance_N.clip(0) + _NOISE)))


def check_outcomes(features_ND: Float64s, said: Mapping[int, Outcome]) -> JudgeRates | None:
    """How often a labelled episode is guessed right from all others, [N, D]; None before both outcomes are known.

    Args:
        features_ND: What is known of each episode.
        said: Outcome by episode; unclear ones say nothing.
    """
    fitted = _fit(features_ND, said, None)
    if fitted is None:
        return None
    prior_N, kernel_NL, known, rest_L = fitted
    _, miss_L = _without_each(kernel_NL[known], rest_L)
    solved_L = np.array([said[i] == "solved" for i in known])
    return JudgeRates.of(prior_N[known] + rest_L - miss_L > 0, solved_L)


def _fit(
    features_ND: Float64s, said: Mapping[int, Outcome], chance_N: Float64s | None
) -> tuple[Float64s, Float64s, list[int], Float64s] | None:
    """Prior [N], kernel [N, L], the labelled episodes, and by how much their labels depart from the prior, [L]."""
    known = [i for i, outcome in said.items() if outcome != "unclear"]
    target_L = np.array([1.0 if said[i] == "solved" else -1.0 for i in known])
    if len(set(target_L.tolist())) < 2:
        return None
    prior_N = np.full(len(features_ND), target_L.mean()) if chance_N is None else 2 * chance_N - 1
    distance_NL = cdist(features_ND, features_ND[known])
    unit = float(np.median(distance_NL)) or 1.0
    rest_L = target_L - prior_N[known]
    kernels = [np.exp(-0.5 * (distance_NL / (unit * reach)) ** 2) for reach in _REACHES]
    return prior_N, max(kernels, key=lambda k: _leave_one_out(k[known], rest_L)), known, rest_L


def _leave_one_out(kernel_LL: Float64s, rest_L: Float64s) -> float:
    """Log predictive probability of every label from all others."""
    variance_L, miss_L = _without_each(kernel_LL, rest_L)
    return float(-0.5 * (np.log(variance_L) + miss_L**2 / variance_L).sum())


def _without_each(kernel_LL: Float64s, rest_L: Float64s) -> tuple[Float64s, Float64s]:
    """Predictive variance and miss of every label from all others, [L] each."""
    inverse = linalg.inv(kernel_LL + _NOISE * np.eye(len(rest_L)))
    variance_L = 1 / np.diag(inverse)
    return variance_L, (inverse @ rest_L) * variance_L
