import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.cli.test_cli import worldsim
from worldsim.cli import app
from worldsim.decode import read_video
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.evaluate.closed_loop import EPISODES, evaluate
from worldsim.evaluate.film import worth_filming
from worldsim.evaluate.planner_refs import PlannerSettings
from worldsim.evaluate.play import BATCH, Place, play, play_all, summarise
from worldsim.rollout.episodes import block
from worldsim.runs import Ledger
from worldsim.worlds import load_world

TINY = ["--world", "push_state", "--episodes", "2", "--samples", "8", "--iterations", "1", "--horizon", "4"]


def lines(folder: Path) -> list[dict[str, Any]]:
    """The finished episodes without their timings."""
    path = folder / EPISODES
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [{k: v for k, v in r.items() if k != "plan_ms"} for r in found]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    place = tmp_path_factory.mktemp("straight")
    done = worldsim("plan", *TINY, "--video", "--out", "x", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "world push_state" in done.stdout
    assert "simulator" in done.stdout
    assert done.stderr == ""  # no bar without a terminal
    return place / "x"


def test_a_run_leaves_numbers_pictures_and_films(straight: Path) -> None:
    saved = json.loads((straight / "plan.json").read_text())
    world, truth = saved["places"]
    assert (world["where"], truth["where"]) == ("world", "simulator")
    assert world["episodes"] == truth["episodes"] == 2
    assert 0 <= world["low"] <= world["success"] <= world["high"] <= 1
    records = lines(straight)
    assert [(r["where"], r["episode"]) for r in records] == [(p, e) for p in ("world", "simulator") for e in (0, 1)]
    pairs = [(r["start"], r["key"]) for r in records]
    assert pairs[:2] == pairs[2:]  # the same episodes in both places
    assert pairs[0] != pairs[1]
    over = [r["promised"] - r["progress"][-1] for r in records[2:]]
    assert truth["optimism"] == pytest.approx(np.mean(over))
    assert [d["step"] for d in records[0]["dreams"]] == [0, 8, 16, 24, 32, 40, 48]
    assert (straight / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (straight / "plan.svg").read_bytes()
    films = sorted(straight.glob("*.mp4"))
    assert len(films) == 2
    frames, rate_hz = read_video(films[0])
    assert (len(frames), rate_hz) == (51, 10)
    assert frames.shape[1:3] == (256, 2 * 256 + 8)  # what the simulator did, beside what plans imagined, drawn by it
    real, imagined = frames[:, :, :256].astype(float), frames[:, :, -256:].astype(float)
    assert abs(real[0] - imagined[0]).mean() < 1 < abs(real[0] - real[-1]).mean()
    assert real[0].std() > 5


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_run_that_was_ended_goes_on_where_it_was(end: signal.Signals, straight: Path, tmp_path: Path) -> None:
    hear = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [str(Path(sys.executable).with_name("worldsim")), "plan", *TINY, "--out", "x"]
    command = [sys.executable, "-c", hear, *command]  # what is started in a shell's background does not hear Ctrl-C
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not lines(tmp_path / "x"):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(end)
    _, said = running.communicate(timeout=60)
    if end == signal.SIGINT:
        assert running.returncode == 130
        assert "again" in said
    before = lines(tmp_path / "x")
    assert [r["where"] for r in before] == ["world", "world"]
    with (tmp_path / "x" / EPISODES).open("ab") as file:
        file.write(b'{"where": "simulator", "epi')  # as a kill in the middle of a write would leave it
    done = worldsim("plan", *TINY, "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "x") == lines(straight)
    stamp = os.stat(tmp_path / "x" / EPISODES).st_mtime_ns
    assert worldsim("plan", *TINY, "--out", "x", cwd=tmp_path).returncode == 0
    assert os.stat(tmp_path / "x" / EPISODES).st_mtime_ns == stamp  # nothing was left to do


def test_a_folder_of_other_settings_is_refused(straight: Path) -> None:
    before = (straight / EPISODES).read_bytes()
    for other in (["--risk", "0.5"], ["--caution", "1"], ["--world", "push"], ["--seed", "3"], ["--planner", "cem"]):
        error = CliRunner().invoke(app, ["plan", *TINY, *other, "--out", str(straight)]).exception
        assert isinstance(error, InvalidInputError)
        assert "another request" in str(error)
        assert other[0].strip("-") in str(error)
    assert (straight / EPISODES).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--planner", "wieghted"), "'weighted'"),
        (("--world", "pusch_state"), "'push_state'"),
        (("--where", "simulater"), "'simulator'"),
        (("--cost", "progres"), "'progress'"),
        (("--cost", "goal"), "--goal"),
        (("--goal", "nowhere.png"), "nowhere.png"),
        (("--goal", "nowhere.png", "--cost", "success"), "--cost goal"),
        (("--horizon", "100000", "--samples", "100000"), "samples"),
        (("--deadline-ms", "-3"), "deadline"),
        (("--receding", "99"), "between 1 and the horizon"),
        (("--caution", "2", "--deadline-ms", "50"), "rerank="),
        (("--where", "world", "--env", "push"), "--where world leaves it out"),
        (("--env", "worldsim/Pusch-v0"), "worldsim/Push-v0"),
        (("--env", "CartPole-v1", "--success", "reward > 2"), "takes actions of Discrete"),
        (("--success", "info.progres > 0.9"), "Did you mean 'info.progress'"),
        (("--success", "coverage"), "no success rule"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_begun(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    error = CliRunner().invoke(app, ["plan", *arguments, "--out", str(tmp_path / "x")]).exception
    assert isinstance(error, WorldsimError)
    assert words in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_reads_as_one_line(tmp_path: Path) -> None:
    done = worldsim("plan", "--planner", "wieghted", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'weighted'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_says_what_it_would_cost_and_costs_nothing(tmp_path: Path) -> None:
    done = worldsim("plan", *TINY, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "25 plans an episode" in done.stdout
    assert f"{2 * 2 * 25 * 11:,} evaluations" in done.stdout  # 8 candidates, then initial, best and mean once more
    assert list(tmp_path.iterdir()) == []


def test_a_goal_picture_and_a_deadline_steer_a_pixel_world(tmp_path: Path) -> None:
    world = load_world("push")
    frame = world.first_observations.rows["observation.image"][0]
    Image.fromarray(frame.numpy()).save(tmp_path / "goal.png")
    few = ["--world", "push", "--episodes", "1", "--samples", "6", "--iterations", "1", "--horizon", "2"]
    more = ["--goal", "goal.png", "--deadline-ms", "200", "--where", "simulator", "--video", "--out", "x"]
    done = worldsim("plan", *few, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frames, _ = read_video(next((tmp_path / "x").glob("*.mp4")))
    assert frames.shape == (51, 256, 520, 3)  # the truth beside what the plans imagined
    left, right = frames[:, :, :256].astype(int), frames[:, :, 264:].astype(int)
    assert np.abs(left[0] - right[0]).mean() < 2  # imagination begins at what was seen
    (tmp_path / "no.png").write_bytes(b"no picture")
    error = CliRunner().invoke(app, ["plan", *few, "--goal", str(tmp_path / "no.png")]).exception
    assert "readable picture" in str(error)
    error = CliRunner().invoke(app, ["plan", *TINY, "--goal", str(tmp_path / "goal.png")]).exception
    assert "world of pixels" in str(error)


def test_an_interrupted_batch_is_played_again_and_known_episodes_stay(tmp_path: Path) -> None:
    world = load_world("push_state")
    mpc = PlannerSettings(samples=8, iterations=1, horizon=2, repeat=4).controller(world)
    place = Place(where="world", name="world", plant=world)
    reports: list[tuple[int, int]] = []
    file, key = tmp_path / EPISODES, ("where", "episode")
    ledger = Ledger(file, key=key)
    five = block("plan", seed=0, episodes=5, num_starts=world.num_starts)
    play_all(
        mpc,
        world,
        place,
        episodes=five,
        ledger=ledger,
        batch=3,
        progress=lambda stage, done, total, values: reports.append((done, total)),
    )
    assert reports == sorted(reports)
    assert reports[-1] == (5 * 50, 5 * 50)
    before = [ledger["world", e] for e in range(5)]
    kept = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(kept[i] for i in (0, 4)))
    again = Ledger(file, key=key)
    assert [e for e in range(5) if ("world", e) not in again] == [1, 2, 3]
    play_all(mpc, world, place, episodes=five, ledger=again, batch=3)
    drop = [{k: v for k, v in r.items() if k != "plan_ms"} for r in [again["world", e] for e in range(5)]]
    assert drop == [{k: v for k, v in r.items() if k != "plan_ms"} for r in before]


def test_the_evaluation_can_be_called_from_python(straight: Path, tmp_path: Path) -> None:
    settings = PlannerSettings(samples=8, iterations=1, horizon=4)
    made = evaluate("push_state", settings, episodes=2, out=tmp_path / "x")
    assert [p.where for p in made.places] == ["world", "simulator"]
    assert lines(tmp_path / "x") == lines(straight)  # the command does just this
    assert [p.name for p in made.files] == ["plan.json", "plan.png", "plan.svg"]


def test_the_defaults_solve_the_true_task() -> None:
    from worldsim.envs.simulator import SimulatorWorld

    world, n = load_world("push_state"), 4
    assert n <= BATCH
    plant = Place(where="simulator", name="simulator", plant=SimulatorWorld("worldsim/Push-v0"))
    outcomes = play(
        PlannerSettings(samples=32).controller(world), plant.plant, world.starts(torch.arange(n)), torch.arange(n)
    )
    summary = summarise(plant, outcomes)
    assert summary.success >= 0.75
    assert summary.progress > 0.9
    assert abs(summary.optimism or 1) < 0.2
    assert summary.evaluations == 25 * (32 * 3 + 3)


def test_films_show_failures_and_successes() -> None:
    records = [{"episode": e, "success": float(e not in (3, 5, 6))} for e in range(9)]
    assert [r["episode"] for r in worth_filming(records)] == [0, 1, 3, 5]
    assert [r["episode"] for r in worth_filming([r for r in records if not r["success"]])] == [3, 5, 6]
    assert [r["episode"] for r in worth_filming(records[:3])] == [0, 1, 2]
