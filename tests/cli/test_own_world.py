import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_cli import worldsim
from worldsim.decode import read_video
from worldsim.triage.run import read_ranking


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a small world of somebody else's environment, both made by the command."""
    place = tmp_path_factory.mktemp("user")
    shutil.copy(Path(__file__).with_name("arena.py"), place / "dot_arena.py")
    env = ["--env", "dot_arena:make", "--steps", "12"]
    done = worldsim("collect", *env, "--episodes", "60", "--out", "data/dot", cwd=place)
    assert done.returncode == 0, done.stderr
    quick = ["tokenizer.schedule.steps=20", "predictor.schedule.steps=200", "predictor.unrolls=[[1,0.5],[3,1.0]]"]
    quick += ["predictor.options.width=64", "heads.steps=300", "predictor.schedule.batch=64"]
    done = worldsim("train", "world", "data=data/dot", "out=worlds/dot", *quick, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def test_policies_of_ones_own_are_ranked_in_a_world_of_ones_own(place: Path) -> None:
    names = ["bad", "good", "lazy", "broken"]
    refs = [f"dot_arena:{n}" for n in names]
    done = worldsim(
        "triage",
        *refs,
        "--world",
        "worlds/dot",
        "--k",
        "1",
        "--budget",
        "24",
        "--videos",
        "1",
        "--workers",
        "1",
        "--out",
        "runs/x",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    ranking = read_ranking(place / "runs/x")
    assert ranking.top[0].name == "dot_arena:good"
    failed = {line.name: line.failed for line in ranking.policies if line.failed}
    assert list(failed) == ["dot_arena:broken"]
    assert "broken" in done.stdout
    page = (place / "runs/x/report.html").read_text()
    assert "<video" in page
    again = worldsim("report", "runs/x", "--picture", "picture.png", cwd=place)
    assert again.returncode == 0, again.stderr
    assert (place / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_planner_drives_in_a_world_of_ones_own(place: Path) -> None:
    few = ["--samples", "16", "--iterations", "2", "--horizon", "5", "--repeat", "1", "--episodes", "2"]
    done = worldsim("plan", "--world", "worlds/dot", *few, "--video", "--out", "runs/p", cwd=place)
    assert done.returncode == 0, done.stderr
    saved = json.loads((place / "runs/p/plan.json").read_text())
    assert [p["where"] for p in saved["places"]] == ["world"]  # no simulator is known of this task
    assert saved["places"][0]["progress"] > 0.7
    frames, rate_hz = read_video(next((place / "runs/p").glob("world_*.mp4")))
    assert rate_hz == 5
    assert frames.shape == (13, 256, 520, 3)
    refused = worldsim("plan", "--world", "worlds/dot", "--where", "simulator", cwd=place)
    assert refused.returncode == 2
    assert "--where world" in refused.stderr
