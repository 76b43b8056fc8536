"""`worldsim import`: recordings of other formats become a LeRobotDataset v3."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worldsim.cli.console import say
from worldsim.limits import MAX_EPISODES


class Turn(StrEnum):
    """How pictures are turned."""

    none = "none"
    rows = "rows"
    half = "half"


def import_data(
    source: Annotated[Path, typer.Argument(help="RLDS folder (Open X-Embodiment), or HDF5 of robomimic or LIBERO.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make; an import that was killed is continued.")],
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=10_000, help="Rows a second. \\[default: what the source says]", show_default=False),
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Field to join to the actions; repeatable, in this order.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Field to join to the proprioception; repeatable, in this order.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera to take, the main one first; repeatable (default: all).")
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_EPISODES, help="Only the first so many. \\[default: all]", show_default=False),
    ] = None,
    turn: Annotated[
        Turn, typer.Option(help="Turn pictures upside down (rows) or by half a turn (half), as LIBERO needs it.")
    ] = Turn.none,
    video: Annotated[bool, typer.Option(help="Store mp4 instead of lossless pictures.")] = False,
) -> None:
    r"""Import recordings of other formats, and say what was joined, taken and left out.

        worldsim import bridge_dataset/1.0.0 --out data/bridge

        worldsim import lift/ph/image.hdf5 --out data/lift --camera agentview

    RLDS needs nothing else; HDF5 needs pip install "worldsim\[import]". An instruction becomes the task. Success is taken
    from rewards where these are 0 or 1 and some is 1; otherwise it is not known.

    Next step: worldsim inspect OUT
    """
    from worldsim.data.importers import ImportOptions, import_dataset
    from worldsim.progress import progress_bars

    options = ImportOptions(
        action=tuple(action or ()),
        state=tuple(state or ()),
        cameras=tuple(camera or ()),
        rate_hz=rate,
        episodes=episodes,
        turn=turn.value,
        video=video,
    )
    with progress_bars() as progress:
        made = import_dataset(source, out, options, progress=progress)
    for note in made.notes:
        say(note)
    say(f"{made.episodes} episodes, {made.frames} frames, in {out}\nNext: worldsim inspect {out}")
