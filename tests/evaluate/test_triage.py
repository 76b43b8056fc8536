import json
import shutil
from pathlib import Path

import pytest

from worldsim.errors import InvalidInputError
from worldsim.evaluate.triage import Triage, prepare
from worldsim.worlds import world_folder


def short_world(folder: Path, *, horizon: int) -> str:
    """The shipped state world, as if it were valid for so many actions."""
    made = shutil.copytree(world_folder("push_state"), folder / f"valid_{horizon}")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["validity"]["horizon"] = horizon
    (made / "manifest.json").write_text(json.dumps(manifest))
    return str(made)


def ready(world: str, **more: int) -> Triage:
    return prepare(["planner:weighted"], world=world, budget=8, truth=0, **more)


def test_episodes_are_played_as_far_as_the_world_is_valid(tmp_path: Path) -> None:
    world = short_world(tmp_path, horizon=16)
    job = ready(world)
    assert job.request.steps == 16
    assert any("is valid up to 16 actions ahead" in r and "played for 16 of 50" in r for r in job.remarks)
    assert ready("push_state").request.steps is None  # valid to the end of its episodes
    unusable = ready(short_world(tmp_path, horizon=0))
    assert unusable.request.steps is None and "NOT usable" in unusable.warning


def test_another_length_may_be_asked_for_and_is_warned_of_where_it_is_too_long(tmp_path: Path) -> None:
    world = short_world(tmp_path, horizon=16)
    for asked, steps, warned in ((8, 8, False), (30, 30, True), (50, None, True)):
        job = ready(world, steps=asked)
        assert job.request.steps == steps
        assert any(f"played for {asked}: what happens later" in r for r in job.remarks) == warned
    with pytest.raises(InvalidInputError, match=r"--steps lies in 1\.\.50"):
        ready(world, steps=51)


def test_a_short_run_says_how_it_was_ranked(tmp_path: Path) -> None:
    job = prepare(["planner:weighted?samples=12&iterations=1", "planner:cem?samples=12&iterations=1"], k=1, budget=8, truth=2,
                  workers=1, world=short_world(tmp_path, horizon=4))  # fmt: skip
    data = job.run(tmp_path / "run", videos=0)
    assert "Episodes end after 4 of 50 actions, as far as this world is valid (4 actions ahead)." in data.playing[0]
    assert "no ranking by success" in data.playing[1] and "True episodes are read at the same action" in data.playing[1]
    assert data.manifest.settings["episode length"] == "4 of 50 steps"
    assert data.ranked_by == "progress" and data.truth is not None
