"""`worldsim label`: say of recorded episodes whether they were solved, on a local page."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from worldsim.cli.console import say
from worldsim.limits import MAX_EPISODES


def label(
    data: Annotated[str, typer.Argument(help="Dataset folder.", metavar="DATASET")],
    who: Annotated[
        str | None, typer.Option(help="Your name; two people's labels are compared. \\[default: your login]")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="File of labels; continued if it exists. It must not lie in the dataset.")
    ] = Path("labels.jsonl"),
    most: Annotated[
        int, typer.Option(min=1, max=MAX_EPISODES, help="Episodes to choose from; evenly many of more.")
    ] = 400,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
) -> None:
    """Label recorded episodes: solved, failed, unclear, and where. Opens a page on this machine; one key each.

        worldsim label data/robot

        worldsim train world data=data/robot out=worlds/robot labels=labels.jsonl

    It asks for the episodes from which most is learned; a few dozen are often enough. Labels are kept at once: stop
    whenever you like, the same command continues.
    """
    from worldsim.compute import one_thread
    from worldsim.label.server import LabelServer, require_server
    from worldsim.label.session import open_session
    from worldsim.progress import progress_bars

    require_server()
    with one_thread():
        with progress_bars() as progress:
            session = open_session(data, out, who=who or getpass.getuser(), most=most, progress=progress)
        server = LabelServer(session, port=port)
        say(f"Open {server.address} in a browser. Stop with Ctrl-C; labels are in {out}.")
        server.run()
