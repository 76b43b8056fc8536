import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table
from rich.text import Text

from worldsim.cli import app
from worldsim.cli.console import show
from worldsim.decode import read_video
from worldsim.triage.run import read_ranking


def worldsim(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a folder with modules of their own."""
    command = [str(Path(sys.executable).with_name("worldsim")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a small world of somebody else's environment, both made by the command."""
    place = tmp_path_factory.mktemp("user")
    shutil.copy(Path(__file__).with_name("arena.py"), place / "dot_arena.py")
    env = ["--env", "dot_arena:make", "--steps", "12"]
    done = worldsim("collect", *env, "--episodes", "60", "--out", "data/dot", cwd=place)
    assert done.returncode == 0, done.stderr
    quick = ["tokenizer.schedule.steps=20", "predictor.schedule.steps=300", "predictor.unrolls=[[1,0.5],[3,1.0]]"]
    quick += ["predictor.options.width=64", "heads.steps=800", "predictor.schedule.batch=64"]
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
        "60",
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("triage", "--world", "pusch"), "push"),
        (("collect", "--env", "worldsim/Pusch-v0"), "worldsim/Push-v0"),
        (("collect", "--env", "no_such_module:make"), "no_such_module"),
        (("collect", "--env", "push", "--policies", "no/such/folder"), "no/such/folder"),
        (("collect", "--simulator"), "--simulator without --world"),
        (("train", "word"), "world"),
        (("train", "world", "dta=x"), "data"),
        (("train", "policy", "data=x", "out=y", "--device", "cuda:99"), "cuda:99"),
        (("train", "world", "data=nowhere", "out=x"), "nowhere"),
        (("triage", "no/such/folder"), "no/such/folder"),
        (("report", "nowhere"), "nowhere"),
        (("triage", "--k", "0"), "--k"),
        (("triage", "--budget", "0"), "--budget"),
        (("triage", "--budget", "999999999999"), "--budget"),
        (("triage", "--workers", "0"), "--workers"),
        (("triage", "--seed", "-1"), "--seed"),
        (("triage", "--roundtrip", "3", "--world", "push_state"), "--roundtrip"),
        (("triage", "--device", "cuda:99"), "cuda:99"),
        (("plan", "--device", "cuda:99"), "cuda:99"),
        (("plan", "--episodes", "0"), "--episodes"),
        (("plan", "--samples", "999999999999"), "--samples"),
        (("collect", "--episodes", "0"), "--episodes"),
        (("collect", "--steps", "0"), "--steps"),
        (("collect", "--policies", "bank", "--batch", "0"), "--batch"),
        (("collect", "--image-px", "-4"), "--image-px"),
        (("reason", "eval", "x", "--model", "y", "--batch", "0"), "--batch"),
        (("reason", "calibrate", "x", "--out", "y", "--band", "2"), "--band"),
        (("reason", "calibrate", "reason", "--out", "y", "--device", "cuda:99"), "cuda:99"),
        (("reason", "items", "--data", "nowhere", "--count", "0"), "--count"),
        (("triage", "--dtype", "float33"), "float32"),
        (("triage", "--bugdet", "3"), "--budget"),
    ],
)
def test_a_mistake_is_answered_in_one_clear_line(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = worldsim(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("worldsim: ") and done.stderr.count("\n") == 1
    assert re.search(r"[^.?]\.$", done.stderr) and not re.search(r"([^.?]|[.?]\.) See worldsim ", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_nothing_from_outside_reaches_the_terminal_as_markup_or_control(tmp_path: Path) -> None:
    for name in ("[/y]", "[red]x", "a\x1b[31mb", "a\u202eb"):
        done = worldsim("report", name, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr and "\u202e" not in done.stderr
        assert name.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd") in done.stderr


TELL = "import pathlib; pathlib.Path(__file__ + '.ran').touch()\n"
POLICY = "import numpy as np\ndef hold(seen):\n    return np.zeros((len(seen['observation.state']), 2))\nhold.needs = ('observation.state',)\n"


def test_the_working_folder_is_searched_last_and_a_run_folder_names_no_code(tmp_path: Path) -> None:
    for name in ("scipy", "numpy", "signal", "diffusers"):
        (tmp_path / f"{name}.py").write_text(TELL)
    (tmp_path / "mine.py").write_text(TELL + POLICY)
    ran = tmp_path / "mine.py.ran"
    few = ["--world", "push_state", "--k", "1", "--budget", "8", "--truth", "0", "--workers", "2", "--out", "run"]
    done = worldsim("triage", "mine:hold", *few, "--videos", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.glob("*.ran")] == [ran.name]  # what was typed, and nothing else
    ran.unlink()
    again = worldsim("report", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert not ran.exists()
    assert "mine:hold" in (tmp_path / "run" / "report.html").read_text()
    again = worldsim("report", "run", "--code", "mine:hold", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_dry_runs_cost_nothing(tmp_path: Path) -> None:
    for how in ("--dry-run", "dry_run=true"):
        said = worldsim("train", "world", "data=x", "out=y", how, cwd=tmp_path)
        assert "unrolls" in said.stdout and "x" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_help_text_loses_words_to_markup() -> None:
    def visit(command: Any) -> list[str]:
        texts = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
        return texts + [text for sub in getattr(command, "commands", {}).values() for text in visit(sub)]

    texts = visit(typer.main.get_command(app))
    assert any("default: one per core" in text for text in texts)
    for text in texts:
        assert Text.from_markup(text).plain == text.replace("\\[", "[")


def test_a_table_wider_than_the_terminal_keeps_every_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = Table("where", "success", box=None)
    table.add_row("the world push_state", "100.0% of 20 episodes")
    show(table)
    assert "the world push_state" in (shown := capsys.readouterr().out) and "100.0% of 20 episodes" in shown
