"""`worldsim report`: draw the report of a run again, from what the run folder holds."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsim.cli.options import Env, Imports, Success
from worldsim.text import command_text

if TYPE_CHECKING:
    from worldsim.core import WorldSpec
    from worldsim.triage.engine.replay import Results


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a triage.")],
    videos: Annotated[
        int, typer.Option(min=0, help="Films of each kind; needs the world and policies of the run.")
    ] = 2,
    code: Annotated[
        list[str] | None,
        typer.Option(help="A module:function policy of the run that may be imported for its films; repeatable."),
    ] = None,
    env: Env = None,
    imports: Imports = None,
    success: Success = None,
    picture: Annotated[Path | None, typer.Option(help="Also write one PNG: ranking, agreement, frames.")] = None,
) -> None:
    """Redraw report.html, and print the leaderboard.

    Nothing that the run folder names is imported, unless you name it too: policies with --code, the true environment with
    --env, --import and --success as the run did.
    """
    from worldsim import storage
    from worldsim.cli.triage import show_report
    from worldsim.compute import one_thread
    from worldsim.evaluate.dreams import rates_of_run
    from worldsim.evaluate.policies import load_ref
    from worldsim.evaluate.triage import report_of
    from worldsim.evaluate.true_env import TrueEnv
    from worldsim.triage.report import draw_picture
    from worldsim.triage.run import read_results

    with one_thread():
        results = read_results(run, judge_rates=rates_of_run(run))
        load_policy = functools.partial(load_ref, code=tuple(code or ()), spec=_spec(results))
        there = TrueEnv.from_options(env, imports=imports, success=success)
        data = report_of(results, load_policy=load_policy, command=command_text(), videos=videos, env=there)
        if picture is not None:
            storage.write_bytes(picture, draw_picture(data))
        show_report(data, run)


def _spec(results: "Results") -> "WorldSpec | None":
    """Of the world of a run; None where its folder is gone, which the report then says of its films."""
    from worldsim.errors import WorldsimError
    from worldsim.worlds import world_spec

    try:
        return world_spec(results.plan.request.world.source)
    except WorldsimError:
        return None
