"""`worldsim report`: draw the report of a run again, from what the run folder holds."""

import datetime
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worldsim.triage.engine.replay import Results
    from worldsim.triage.report import Clip


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a triage.")],
    videos: Annotated[int, typer.Option(help="Films of each kind; needs the world and policies of the run.")] = 2,
    picture: Annotated[Path | None, typer.Option(help="Also write one PNG: ranking, agreement, frames.")] = None,
) -> None:
    """Redraw report.html, and print the leaderboard."""
    from worldsim import storage
    from worldsim.cli.triage import show
    from worldsim.errors import WorldsimError
    from worldsim.triage.report import assemble, draw_picture
    from worldsim.triage.run import read_results

    results = read_results(run)
    remarks: list[str] = []
    clips: list[Clip] = []
    try:
        clips = _films(results, each=videos) if videos else []
    except WorldsimError as error:
        remarks.append(f"Episodes could not be filmed: {error}")
    made = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    data = assemble(results, command=f"worldsim report {run}", made=made, clips=clips, remarks=remarks)
    if picture is not None:
        storage.write_bytes(picture, draw_picture(data))
    show(data, run)


def _films(results: "Results", *, each: int) -> "list[Clip]":
    """Film a few episodes of a finished run again."""
    from worldsim.evaluate import loaders
    from worldsim.triage.film import film
    from worldsim.triage.report import choose
    from worldsim.worlds import load_world

    where = results.plan.request.world
    load = functools.partial(load_world, where.source)
    truth = [a for a in results.plan.arenas if a.kind == "truth"]
    arenas = loaders.arenas(load(), where, truth=truth[0].episodes, roundtrip=0) if truth else []
    pairs = choose(results.ranking, world=results.triage, truth=results.arenas.get("truth"), each=each)
    real = arenas[0].load if arenas else None
    return film(results, pairs, load_world=load, load_policy=loaders.policy_of, load_truth=real)
