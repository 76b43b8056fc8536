"""A world is usable where it beats copying; what was not measured is not claimed."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.validity.examples import FAILED, GOOD, curve, validity
from worldsim.errors import StorageError
from worldsim.json_values import to_json
from worldsim.validity.coverage import Coverage
from worldsim.validity.curve import ErrorCurve
from worldsim.validity.validity import Outcomes, Response, Spread, Validity
from worldsim.worlds import shipped, world_spec


def test_a_world_that_beats_copying_beyond_one_action_is_usable() -> None:
    assert GOOD.usable is True and GOOD.reasons == () and "is usable" in GOOD.verdict
    assert "up to 16 actions ahead, by pictures" in GOOD.verdict
    assert "pictures after 8 actions   34.2 dB  28.1 dB" in GOOD.table()
    assert GOOD.summary() == "pictures after 16 actions 32.6 dB (copying: 25.2 dB)"
    assert re.search(r"after 8 actions +34.2 dB +28.1 dB +28.1 dB +22.1 dB +24", GOOD.full_table())


PROGRESS = curve(0.3, 0.3, 0.3, quantity="progress", unit="progress", copying=(0.2, 0.2, 0.2))
SUCCESS = curve(0.5, 0.5, 0.5, quantity="success", unit="wrong", copying=(0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            curve(5.0, 5.0, 15.0, quantity="pictures of side"),
            "Pictures of side after 16 actions: 24.6 dB, and copying 25.2",
        ),
        (PROGRESS, "Progress is off by 0.300"),
        (SUCCESS, "Success is misread in 50.0 %"),
    ],
)
def test_one_that_does_not_says_where(extra: ErrorCurve, words: str) -> None:
    held = dataclasses.replace(GOOD, curves=(*GOOD.curves, extra))
    assert held.usable is False
    assert words in held.verdict and "NOT usable" in held.verdict


def test_a_world_that_never_beats_copying_says_where_it_loses() -> None:
    assert FAILED.usable is False and FAILED.extent == ""
    assert FAILED.reasons[0] == "Pictures after 8 actions: 27.3 dB, and copying 28.1 dB, a constant 22.1 dB."


def test_labels_that_hardly_change_say_nothing_against_a_world() -> None:
    small = (0.001, 0.001, 0.001)
    still = curve(0.01, 0.01, 0.01, quantity="progress", unit="progress", copying=small)
    read = curve(0.02, 0.02, 0.02, quantity="success", unit="wrong", copying=small)
    assert validity(curve(5.0, 5.0, 6.0), still, read).usable


def test_a_world_that_calls_no_episode_solved_is_not_usable() -> None:
    held = dataclasses.replace(GOOD, outcomes=Outcomes(solved=12, unsolved=8, solved_right=0.0, unsolved_right=1.0))
    assert held.usable is False and "calls solved 0.0 % of the 12 that end solved, and 0.0 % of the 8" in held.verdict
    assert ("solved episodes end alike", "0.0 %", "-") in held.rows()
    for solved, unsolved, usable in ((1.0, 0.0, False), (0.5, 0.75, True)):
        ends = Outcomes(solved=12, unsolved=8, solved_right=solved, unsolved_right=unsolved)
        assert dataclasses.replace(GOOD, outcomes=ends).usable is usable
    assert not GOOD.untold


def test_few_episodes_of_an_outcome_say_nothing_for_or_against() -> None:
    for ends in (
        Outcomes(solved=2, unsolved=22, solved_right=0.0, unsolved_right=1.0),
        Outcomes(solved=0, unsolved=24),
    ):
        held = dataclasses.replace(GOOD, outcomes=ends)
        assert held.usable and "is not known" in held.verdict and "24 held-out episodes end solved" in held.verdict


def test_a_world_that_ignores_actions_is_not_usable() -> None:
    deaf = Response(quantity="proprioception", true=1.0, shuffled=1.0, idle=1.2)
    assert deaf.score == 0 and "ignores actions" in dataclasses.replace(GOOD, response=deaf).verdict
    heard = Response(quantity="proprioception", true=0.25, shuffled=1.25, idle=1.0)
    assert heard.score == 0.75 and dataclasses.replace(GOOD, response=heard).usable


def test_pictures_that_lack_what_changes_are_said() -> None:
    pale = validity(curve(5.0, 5.0, 6.0), drawn=0.7)
    assert pale.usable and "70.0 % of what differs" in pale.verdict and "70.0 %" in pale.describe()
    assert not validity(curve(5.0, 5.0, 6.0), drawn=0.93).undrawn and not GOOD.undrawn


def test_a_spread_that_does_not_rank_errors_is_said() -> None:
    spread = Spread(quantity="pictures", horizons=(8, 16), mean=(0.2, 0.3), rank=(0.1, 0.7))
    held = dataclasses.replace(GOOD, spread=spread)
    assert spread.rises and not dataclasses.replace(spread, mean=(0.2, 0.2)).rises
    assert held.usable and held.unaware.endswith(
        "the rank correlation of its spread with them is 0.10 after 8 actions."
    )
    assert "0.10 after 8 actions, 0.70 after 16" in held.describe() and held.unaware in held.verdict


def test_coverage_names_what_lies_outside() -> None:
    generator = np.random.default_rng(0)
    proprio, action = generator.normal(size=(4000, 2)), generator.normal(size=(4000, 1))
    proprio[:, 1] = proprio[:, 0] + 0.1 * proprio[:, 1]
    covered = Coverage.measure(proprio, action)
    assert covered.outside(proprio, action).mean() == pytest.approx(0.01, abs=0.002)
    odd = np.array([[1.0, -1.0]])  # within both ranges, but never together
    assert (
        covered.outside(odd, np.zeros((1, 1))).all()
        and not covered.outside(np.array([[1.0, 1.0]]), np.zeros((1, 1))).any()
    )
    assert covered.proprio_low[0] < -2 and covered.action_high[0] > 2


def test_a_manifest_gives_back_what_was_written_and_a_wrong_one_is_refused() -> None:
    spread = Spread(quantity="pictures", horizons=(8, 16), mean=(0.2, 0.3), rank=(None, 0.7))
    coverage = Coverage.measure(np.eye(3), np.eye(3)[:, :1])
    full = dataclasses.replace(
        GOOD, spread=spread, coverage=coverage, outcomes=Outcomes(solved=1, unsolved=0, solved_right=1.0)
    )
    values = json.loads(json.dumps({"validity": to_json(full)}))
    assert Validity.of_manifest(values, source="w") == full
    assert Validity.of_manifest({}, source="w") is None and Validity.of_manifest([], source="w") is None
    with pytest.raises(StorageError, match="wrong validity"):
        Validity.of_manifest({"validity": {"horizon": "far"}}, source="w")


def test_worlds_made_before_are_refused_if_they_said_that_they_are_not_usable() -> None:
    failed = Validity.of_manifest({"usable": False, "why": ["It froze."]}, source="w")
    assert failed is not None and failed.usable is False and failed.reasons == ("It froze.",)
    assert Validity.of_manifest({"figures": {"psnr_db_h1": 3.0}, "usable": True}, source="w") is None
    assert Validity().usable is None and "not known" in Validity().verdict


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_worlds_are_valid_to_the_end(name: str) -> None:
    spec = world_spec(name)
    assert spec.validity is not None and spec.validity.usable and spec.validity.horizon == spec.horizon
    assert spec.validity.spread is not None and spec.validity.spread.rises
