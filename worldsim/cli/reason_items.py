"""`worldsim reason items`: write worldsim's own held-out questions as a benchmark folder, to look at and to ask."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from worldsim.cli.console import say
from worldsim.cli.options import MAX_COUNT, MAX_IMAGE_PX


def items(
    data: Annotated[str, typer.Option(help="LeRobotDataset folders or folders of video files, separated by commas.")],
    tasks: Annotated[str, typer.Option(help="Which, separated by commas: arrow, puzzle, permanence, order, ...")] = (
        "arrow,puzzle,permanence"
    ),
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Questions of each task.")] = 64,
    size: Annotated[int, typer.Option(min=1, max=MAX_IMAGE_PX, help="Side of the frames in pixels.")] = 64,
    videos: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Most training videos to look at; they scale the read-outs only.")
    ] = 500,
    held_out: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Most held-out videos to ask about.")] = 200,
    by: Annotated[str, typer.Option(help="What training and held-out videos do not share: episode, seed, policy.")] = (
        "episode"
    ),
    out: Annotated[Path, typer.Option(help="Folder to write; replaced if this command wrote it.")] = Path("data/items"),
) -> None:
    """Write held-out questions of worldsim's own tasks in the layout of the Cosmos-Reason1 benchmark.

        worldsim reason items --data data/push --tasks arrow,puzzle --count 64 --out data/items

    They are the first of those that `worldsim train reason-sft` examines on. A sheet of a few lies beside them.

    Next step: worldsim reason eval OUT --model FOLDER
    """
    from typing import cast

    from worldsim.compute import one_thread
    from worldsim.reason.benchmark.write import SHEET, write_items
    from worldsim.reason.items.sources import By
    from worldsim.reason.train.items import ItemsConfig, open_task_items

    names = tuple(n.strip() for n in tasks.split(",") if n.strip())
    with one_thread():
        asked = ItemsConfig(tasks=names, videos=videos, held_out=held_out, by=cast("By", by))
        made_items = open_task_items(data, asked, size=size, seed=0)
        command = " ".join(["worldsim", *sys.argv[1:]])
        made = write_items(made_items.held_out(count), out, origin={"command": command, "data": data})
    skipped = f", {len(made_items.bad)} bad videos skipped" if made_items.bad else ""
    say(f"{count} questions of each of {len(names)} tasks{skipped}: {made}, {made / SHEET}")
    say(f"Next: worldsim reason eval {made} --model FOLDER")
