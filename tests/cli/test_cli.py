import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table
from rich.text import Text

from worldsim.cli import app, main
from worldsim.cli.console import show


def worldsim(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a folder with modules of their own."""
    command = [str(Path(sys.executable).with_name("worldsim")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


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
def test_a_mistake_is_answered_in_one_clear_line(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["worldsim", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in said
    assert said.startswith("worldsim: ") and said.count("\n") == 1
    assert re.search(r"[^.?]\.$", said) and not re.search(r"([^.?]|[.?]\.) See worldsim ", said)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_process_with_2(tmp_path: Path) -> None:
    done = worldsim("triage", "--world", "pusch", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("worldsim: ") and "push" in done.stderr


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
