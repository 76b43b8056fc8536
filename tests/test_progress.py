"""Where output is no terminal, a plain line now and then says how far a long job has come."""

import pytest

from worldsim.progress import EVERY_S, progress_bars


def test_a_pipe_gets_a_plain_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with progress_bars(clock=lambda: now) as progress:
        for step in range(8):
            now = step * EVERY_S / 2
            progress("predictor [bold]rigid[/bold]", step, 8, {"loss": 0.123456})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"predictor [bold]rigid[/bold]: {step} of 8  loss 0.1235" for step in (2, 4, 6)]


def test_a_short_job_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(clock=lambda: 0.0) as progress:
        progress("rehearsal", 1, 1, {})
    assert capsys.readouterr().err == ""
