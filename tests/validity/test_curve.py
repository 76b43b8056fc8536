"""How far a world is valid, and bounds that hold for one more episode."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.validity.examples import curve
from worldsim.validity.curve import conformal_bound, valid_horizon


@pytest.mark.parametrize(
    ("world", "reach"),
    [
        ((5.0, 5.0, 6.0), 16),  # worse than copying where little has changed yet
        ((1.0, 5.0, 13.0), 8),  # by less than the margin in the end
        ((3.0, 9.5, 5.0), 1),  # what comes after a gap does not count
        ((5.0, 11.0, 15.0), 0),
        ((0.0, 0.0, 0.0), 16),
    ],
)
def test_a_world_is_valid_as_long_as_it_beats_copying_by_the_margin(world: tuple[float, ...], reach: int) -> None:
    assert curve(*world).reach == reach


def test_what_is_no_better_than_a_constant_does_not_count_and_small_errors_are_none() -> None:
    assert curve(1.0, 5.0, 6.0, constant=(20.0, 5.0, 5.0)).reach == 1
    assert curve(1.0, 9.5, 9.5).reach == 1
    assert curve(1.0, 9.5, 9.5, tolerance=9.6).reach == 16


def test_the_worst_of_several_quantities_decides_and_the_end_is_that_of_what_was_recorded() -> None:
    near, far = curve(1.0, 5.0, 13.0), curve(1.0, 1.0, 1.0)
    assert valid_horizon([near, far], recorded=20, horizon=30) == 8
    assert valid_horizon([far], recorded=20, horizon=30) == 20
    assert valid_horizon([far], recorded=40, horizon=30) == 30


def test_too_few_episodes_state_no_bound() -> None:
    assert conformal_bound([1.0] * 8) is None and conformal_bound([]) is None
    assert conformal_bound([float(i) for i in range(9)]) == 8.0  # the largest of nine
    assert conformal_bound([float(i) for i in range(19)]) == 17.0


@hypothesis.given(st.integers(9, 80), st.integers(0, 1000))
@hypothesis.settings(max_examples=25)
def test_a_bound_holds_for_nine_of_ten_more_episodes(count: int, seed: int) -> None:
    """Averaged over draws: the share is at least .9, and at most 1 / (n + 1) more."""
    errors = np.random.default_rng(seed).exponential(size=(400, count + 1))
    held = np.mean([row[-1] <= (conformal_bound(row[:-1].tolist()) or 0.0) for row in errors])
    assert 0.9 - 4 * 0.015 <= held <= 0.9 + 1 / (count + 1) + 4 * 0.015


def test_figures_read_as_people_read_them() -> None:
    assert curve(25.5).figure(25.5) == "20.0 dB" and curve(1.0).figure(None) == "unknown"
    assert curve(1.0, unit="px").figure(1.26) == "1.26 px" and curve(1.0, unit="wrong").figure(0.125) == "12.5 %"
    assert not math.isinf(float(curve(0.0).figure(0.0).split()[0]))
