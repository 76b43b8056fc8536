"""`worldsim report`: draw the report of a run again, from what the run folder holds."""

import functools
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a triage.")],
    videos: Annotated[
        int, typer.Option(min=0, help="Films of each kind; needs the world and policies of the run.")
    ] = 2,
    code: Annotated[
        list[str] | None,
        typer.Option(help="A module:function policy of the run that may be imported for its films; repeatable."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also write one PNG: ranking, agreement, frames.")] = None,
) -> None:
    """Redraw report.html, and print the leaderboard.

    Nothing that the run folder names is imported, unless you name it too, with --code.
    """
    from worldsim import storage
    from worldsim.cli.triage import show_report
    from worldsim.compute import one_thread
    from worldsim.evaluate.policies import load_ref
    from worldsim.evaluate.triage import report_of
    from worldsim.triage.report import draw_picture
    from worldsim.triage.run import read_results

    with one_thread():
        load_policy = functools.partial(load_ref, code=tuple(code or ()))
        data = report_of(read_results(run), load_policy=load_policy, command=f"worldsim report {run}", videos=videos)
        if picture is not None:
            storage.write_bytes(picture, draw_picture(data))
        show_report(data, run)
