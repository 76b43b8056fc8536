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
    assert held["push_state"] is not None and held["push_state"].usable is None
    assert "not known" in held["push_state"].verdict
