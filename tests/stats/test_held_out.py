"""A world is usable where it beats copying; what was not measured is not claimed."""

import json

import pytest

from worldsim.stats.held_out import HeldOut
from worldsim.worlds import world_folder

GOOD = {"psnr_db_h1": 30.0, "copy_psnr_db_h1": 33.0, "psnr_db_h8": 28.0, "copy_psnr_db_h8": 25.0}


def test_a_world_that_beats_copying_beyond_one_action_is_usable() -> None:
    held = HeldOut(figures=GOOD)
    assert held.usable is True and held.reasons == () and "is usable" in held.verdict
    assert "pictures after 8 actions  28.0 dB  25.0 dB" in held.table()
    assert held.summary() == "pictures after 8 actions 28.0 dB (copying: 25.0 dB)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psnr_db_h8": 24.9}, "Pictures after 8 actions: 24.9 dB, and copying 25.0 dB."),
        ({"psnr_db_h8/side": 20.0, "copy_psnr_db_h8/side": 21.0}, "Pictures of side after 8 actions"),
        ({"state_error_h8": 0.5, "copy_state_error_h8": 0.4}, "States after 8 actions: 0.500 sd"),
        ({"progress_mae": 0.3, "copy_progress_mae": 0.2}, "Progress is off by 0.300"),
        ({"success_accuracy": 0.5, "copy_success_accuracy": 0.9}, "Success is right in 50.0 %"),
    ],
)
def test_one_that_does_not_says_where(changes: dict[str, float], words: str) -> None:
    held = HeldOut(figures={**GOOD, **changes})
    assert held.usable is False
    assert words in held.verdict and "NOT usable" in held.verdict


def test_labels_that_hardly_change_say_nothing_against_a_world() -> None:
    assert HeldOut(figures={**GOOD, "progress_mae": 0.01, "copy_progress_mae": 0.001}).usable
    assert HeldOut(figures={**GOOD, "success_accuracy": 0.98, "copy_success_accuracy": 1.0}).usable


def outcomes(solved: float, of: int, unsolved: float, out_of: int) -> dict[str, float]:
    return {"solved_right": solved, "solved_episodes": of, "unsolved_right": unsolved, "unsolved_episodes": out_of}


def test_a_world_that_calls_no_episode_solved_is_not_usable() -> None:
    held = HeldOut(figures={**GOOD, **outcomes(0.0, 12, 1.0, 8)})
    assert held.usable is False and "calls solved 0.0 % of the 12 that end solved, and 0.0 % of the 8" in held.verdict
    assert ("solved episodes end alike", "0.0 %", "-") in held.rows()
    assert HeldOut(figures={**GOOD, **outcomes(1.0, 12, 0.0, 8)}).usable is False  # it calls all solved
    assert HeldOut(figures={**GOOD, **outcomes(0.5, 12, 0.75, 8)}).usable and not HeldOut(figures=GOOD).untold


def test_few_episodes_of_an_outcome_say_nothing_for_or_against() -> None:
    for figures in (outcomes(0.0, 2, 1.0, 22), {"unsolved_right": 1.0, "unsolved_episodes": 24}):
        held = HeldOut(figures={**GOOD, **figures})
        assert held.usable and "is not known" in held.verdict and "24 held-out episodes end solved" in held.verdict


def test_a_manifest_is_read_as_far_as_it_makes_sense() -> None:
    assert HeldOut.of_manifest({}) is None and HeldOut.of_manifest([]) is None
    odd = {"figures": {**GOOD, "psnr_db_h16": "high", "progress_mae": float("nan")}}
    assert HeldOut.of_manifest(odd) == HeldOut(figures=GOOD)
    failed = HeldOut.of_manifest({"figures": GOOD, "usable": False, "why": ["It froze."]})
    assert failed is not None and failed.usable is False and failed.reasons == ("It froze.",)


def test_the_shipped_worlds_read_right() -> None:
    held = {
        name: HeldOut.of_manifest(json.loads((world_folder(name) / "manifest.json").read_text()))
        for name in ("push", "push_state")
    }
    assert held["push"] is not None and held["push"].usable
    assert "pictures after 32 actions 31.3 dB (copying: 21.9 dB)" in held["push"].summary()
    assert held["push_state"] is not None and held["push_state"].usable
    assert "states after 32 actions 0.164 sd (copying: 0.638 sd)" in held["push_state"].summary()
    for world in held.values():
        assert world is not None and list(world.uncertainty) == [1, 8, 16, 32]
        assert world.unaware == "" and world.verdict.endswith("first frame does.")


def test_uncertainty_that_falls_while_errors_rise_is_said() -> None:
    curve = {"uncertainty_h1": 0.94, "uncertainty_h8": 0.7}
    held = HeldOut(figures={**GOOD, **curve})
    assert held.usable and held.verdict.endswith(
        "It is unaware of its errors: from 1 to 8 actions ahead its uncertainty falls from 0.94 to 0.7, while pictures get "
        "worse, from 30.0 dB to 28.0 dB."
    )
    assert ("uncertainty after 8 actions", "0.7", "-") in held.rows()
    states = {"state_error_h1": 0.1, "state_error_h8": 0.2, "copy_state_error_h8": 0.9, **curve}
    assert "states get worse, from 0.100 sd to 0.200 sd" in HeldOut(figures=states).unaware
    for other in ({"uncertainty_h8": 0.93}, {"psnr_db_h8": 31.0}, {"uncertainty_h1": 0.5}):
        assert HeldOut(figures={**GOOD, **curve, **other}).unaware == ""
