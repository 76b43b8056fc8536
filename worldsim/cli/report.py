"""`worldsim report`: draw the report of a run again, from what the run folder holds."""

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a triage.")],
    videos: Annotated[int, typer.Option(help="Films of each kind; needs the world and policies of the run.")] = 2,
    picture: Annotated[Path | None, typer.Option(help="Also write one PNG: ranking, agreement, frames.")] = None,
) -> None:
    """Redraw report.html, and print the leaderboard."""
    import functools

    from worldsim import storage
    from worldsim.cli import loaders
    from worldsim.errors import WorldsimError
    from worldsim.triage.film import film
    from worldsim.triage.leaderboard import leaderboard
    from worldsim.triage.report import choose, from_results, write_report
    from worldsim.triage.report import picture as draw
    from worldsim.triage.run import read_results
    from worldsim.worlds import load_world

    results = read_results(run)
    console, remarks = Console(), []
    clips = []
    if videos:
        where = results.plan.request.world
        load = functools.partial(load_world, where.source)
        try:
            kinds = {a.kind: a for a in results.plan.arenas}
            real = None
            if "truth" in kinds:
                real = loaders.arenas(load(), where, truth=kinds["truth"].episodes, roundtrip=0)[0].load
            pairs = choose(results.ranking, world=results.triage, truth=results.arenas.get("truth"), each=videos)
            clips = film(results, pairs, load_world=load, load_policy=loaders.policy_of, load_truth=real)
        except WorldsimError as error:
            remarks.append(f"Episodes could not be filmed: {error}")
    made = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    data = from_results(results, command=f"worldsim report {run}", made=made, clips=clips, remarks=remarks)
    write_report(run / "report.html", data)
    if picture is not None:
        storage.write_bytes(picture, draw(data))
    console.print(leaderboard(results.ranking), soft_wrap=True)
    console.print(f"Report: {run / 'report.html'}", highlight=False, soft_wrap=True)
