"""The record of a benchmark: what it holds, and that a miss is written down as a miss."""

import json

import pytest

from benchmarks.record import Figure, write


@pytest.mark.parametrize(
    ("value", "reach", "order", "met"),
    [
        (8.0, 8.0, ">=", True),
        (7.9, 8.0, ">=", False),
        (5.0, 5.0, "<=", True),
        (5.1, 5.0, "<=", False),
        (1, None, ">=", None),
    ],
)
def test_a_figure_knows_whether_it_is_met(value, reach, order, met):
    assert Figure(name="x", value=value, reach=reach, order=order).met is met


def test_the_file_says_what_was_run_and_what_came_out(tmp_path, capsys):
    figures = [Figure(name="rollouts saved", value=7.5, reach=8.0), Figure(name="error", value=4.0, unit="mm")]
    path = write("toy", figures=figures, seeds=[1, 2], details={"tried": ["a"]}, folder=tmp_path / "results")
    record = json.loads(path.read_text())
    assert path.name == "toy.json" and list(path.parent.iterdir()) == [path]
    assert record["command"].startswith("python -m benchmarks.toy") and record["seeds"] == [1, 2]
    assert record["versions"].keys() >= {"python", "numpy"} and record["core_seconds"] > 0 and record["commit"]
    first = {"name": "rollouts saved", "value": 7.5, "unit": "", "reach": 8.0, "order": ">=", "met": False}
    assert record["figures"][0] == first and record["figures"][1]["met"] is None
    assert record["details"] == {"tried": ["a"]}
    printed = capsys.readouterr().out
    assert "rollouts saved" in printed and "missed" in printed and "4 mm" in printed
