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
