"""How many frames one signal of an episode lags behind another, how sure that is, and silence where it cannot be said.

Two signals that have the same cause (how much the robot moves, how much its picture changes) correlate best at the delay
between them. Slow trends, which correlate at every delay, are taken out first.

Shape legend: T transitions of an episode, K delays.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from worldsim.arrays import Float64s

_TREND = 5
"""Half width of the moving average that is taken out, in transitions."""
_LEAST = 12
"""Transitions that are compared at least: fewer correlate well by chance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lag:
    """A delay between two signals.

    Attributes:
        frames: Transitions by which the second signal comes after the first; negative where it comes before.
        correlation: Of the signals at that delay.
        expected: Of the signals at the delay that was expected.
        confidence: Probability that the delay is not the expected one, all delays that were tried taken into account;
            0 where it is.
    """

    frames: int
    correlation: float
    expected: float
    confidence: float


def measure_lag(pairs: Sequence[tuple[Float64s, Float64s]], *, most: int, expected: int = 0) -> Lag | None:
    """Find the delay at which signals of some episodes correlate best.

    Args:
        pairs: For each episode two signals [T] each, at least 0 everywhere.
        most: Largest delay that is tried, in transitions, either way.
        expected: The delay that would surprise no one, within -most to most.

    Returns:
        The delay, or None where the signals are too short or do not vary.
    """
    long = [(x, y) for x, y in pairs if len(x) >= 2 * most + _LEAST]
    ready = [(_detrend(x), _detrend(y)) for x, y in long]
    if not ready or not all(sum(float(p[i] @ p[i]) for p in ready) > 1e-9 for i in (0, 1)):
        return None
    scores = _correlations(ready, range(-most, most + 1), most)
    best, usual = int(scores.argmax()) - most, float(scores[most + expected])
    peak = float(scores[most + best])
    confidence = 0.0
    if best != expected:
        z = (_fisher(peak) - _fisher(usual)) * math.sqrt(max(0.0, _independent(ready, most) - 3) / 2)
        confidence = max(0.0, 1 - 2 * most * float(ndtr(-z)))
    return Lag(frames=best, correlation=peak, expected=usual, confidence=confidence)


def _detrend(signal_T: Float64s) -> Float64s:
    """The logarithm of a signal without its moving average; a logarithm, since pictures change by orders of magnitude."""
    floor = 0.1 * float(np.median(signal_T)) + 1e-9
    log_T = np.log(np.maximum(signal_T, 0) + floor)
    kernel = np.ones(2 * _TREND + 1)
    weight = np.convolve(np.ones(len(log_T)), kernel, mode="same")
    result: Float64s = log_T - np.convolve(log_T, kernel, mode="same") / weight
    return result


def _correlations(ready: Sequence[tuple[Float64s, Float64s]], delays: range, most: int) -> Float64s:
    """Correlation at every delay, [K], over the same transitions of the first signal."""
    x = np.concatenate([x[most : len(x) - most] for x, _ in ready])
    scores = np.empty(len(delays))
    for number, delay in enumerate(delays):
        y = np.concatenate([y[most + delay : len(y) - most + delay] for _, y in ready])
        scores[number] = float(x @ y) / math.sqrt(max(float(x @ x) * float(y @ y), 1e-24))
    return scores


def _fisher(correlation: float) -> float:
    """Fisher's transformation, whose spread does not depend on the correlation."""
    return math.atanh(min(0.999, max(-0.999, correlation)))


def _independent(ready: Sequence[tuple[Float64s, Float64s]], most: int) -> float:
    """How many independent samples the transitions are worth (Bartlett's formula)."""
    count = sum(len(x) - 2 * most for x, _ in ready)
    own = [_correlations([(p[i], p[i]) for p in ready], range(most + 1), most) for i in (0, 1)]
    return count / (1 + 2 * float(np.maximum(0, own[0][1:] * own[1][1:]).sum()))
