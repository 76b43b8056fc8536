"""The record of a benchmark: what it holds, that a miss is written down as a miss, and an undefined figure as undefined."""

import json
import subprocess

import pytest

from benchmarks import record
from benchmarks.goals import at_least, at_most
from benchmarks.record import Figure, write


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (8.0, at_least(8), True),
        (7.9, at_least(8), False),
        (5.0, at_most(5), True),
        (5.1, at_most(5), False),
        (None, at_most(5), False),
        (None, at_least(0), False),
        (float("nan"), at_most(5), False),
        (float("-inf"), at_most(5), False),
    ],
)
def test_a_goal_knows_whether_it_is_met_and_nothing_undefined_meets_one(value, goal, met):
    assert goal.met(value) is met


def test_the_file_says_what_was_run_and_what_came_out(tmp_path, capsys):
    figures = [Figure(name="rollouts saved", value=7.5), Figure(name="error", value=4.0, unit="mm")]
    goals = {"rollouts saved": at_least(8)}
    path = write(
        "toy", figures=figures, seeds=[1, 2], details={"tried": ["a"]}, folder=tmp_path / "results", goals=goals
    )
    found = json.loads(path.read_text())
    assert path.name == "toy.json" and list(path.parent.iterdir()) == [path]
    assert found["command"].startswith("python -m benchmarks.toy") and found["seeds"] == [1, 2]
    assert found["versions"].keys() >= {"python", "numpy"} and found["core_seconds"] > 0 and found["commit"]
    first = {"name": "rollouts saved", "value": 7.5, "unit": "", "reach": 8.0, "order": ">=", "met": False}
    assert found["figures"][0] == first and found["figures"][1]["met"] is None
    assert found["details"] == {"tried": ["a"]}
    printed = capsys.readouterr().out
    assert "rollouts saved" in printed and "missed" in printed and "4 mm" in printed


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_an_undefined_figure_is_null_and_missed(tmp_path, value):
    goals = {"mmrv": at_most(0.05)}
    path = write("toy", figures=[Figure(name="mmrv", value=value)], folder=tmp_path, goals=goals)
    (row,) = json.loads(path.read_text())["figures"]
    assert row["value"] is None and row["met"] is False and "reason" not in row


def test_a_reason_stands_beside_a_miss_only(tmp_path):
    goals = {name: at_most(1, accepted="needs a GPU") for name in ("met", "missed")}
    figures = [Figure(name="met", value=1.0), Figure(name="missed", value=2.0)]
    rows = json.loads(write("toy", figures=figures, folder=tmp_path, goals=goals).read_text())["figures"]
    assert "reason" not in rows[0] and rows[1]["reason"] == "needs a GPU" and rows[1]["met"] is False


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one committed source file and one record."""

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    for name in ("worldsim/a.py", "benchmarks/results/a.json", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def test_nothing_is_measured_from_a_changed_tree(checkout, monkeypatch):
    measured = []
    monkeypatch.setattr("sys.argv", ["benchmark"])
    (checkout / "benchmarks/results/a.json").write_text("2\n")  # records of this very run are no change of source
    assert not record.commit().endswith("+")
    (checkout / "worldsim/b.py").write_text("2\n")
    with pytest.raises(SystemExit, match=r"worldsim/b\.py"):
        record.run(lambda: measured.append(1))
    assert not measured and record.commit().endswith("+")
    monkeypatch.setattr("sys.argv", ["benchmark", "--dirty"])
    with pytest.raises(SystemExit) as ended:  # Typer's own end
        record.run(lambda: measured.append(1))
    assert ended.value.code == 0 and measured == [1]


def test_a_commit_is_looked_up(checkout):
    assert record.is_known(record.commit()) and not record.is_known("0" * 40) and not record.is_known("unknown")
