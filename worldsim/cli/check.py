"""`worldsim check`: what a world is good for, up to how many actions ahead, and how that was measured."""

import json
from pathlib import Path
from typing import Annotated

import typer

from worldsim.cli.console import remark, say
from worldsim.cli.options import Device


def check(
    world: Annotated[str, typer.Argument(help="World folder, or the name of a shipped world.")],
    data: Annotated[
        str, typer.Option(help="Measure it again, on recordings that it was not trained on: a LeRobotDataset v3.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Also draw the errors by horizon into this PNG.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --data: keep what was measured in the world's folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    device: Device = "cpu",
) -> None:
    """Say what a world is good for: its errors by how many actions ahead, and whether to rely on it.

    What was measured when it was made:

        worldsim check worlds/mine --out mine.png

    The same on other recordings of the same robot and cameras:

        worldsim collect --env push --seed 9 --episodes 60 --out data/others

        worldsim check push --data data/others

    Every error stands beside that of copying the first frame and of always saying the same. 90 % of episodes stay below the
    bound. The valid horizon is how many actions ahead the world is better than both, in what the outcome of a rollout is read
    from: where things are, else progress, else pictures. Planners plan no farther; triage recommends nothing where it is 0.

    A spread that ranks errors (correlation towards 1) lets planners stay where the world knows: worldsim plan --risk 2
    """
    from worldsim import storage
    from worldsim.compute import one_thread
    from worldsim.evaluate.check import check_world
    from worldsim.evaluate.validity_picture import draw_curves
    from worldsim.progress import progress_bars

    with one_thread(), progress_bars() as progress:
        found = check_world(world, data, write=write, device=device, progress=progress)
    validity = found.validity
    remark(found.remarks)
    if as_json:
        say(json.dumps(storage.to_json(validity), indent=2, allow_nan=False))
    else:
        say("\n\n".join(filter(None, (validity.full_table(), validity.describe(), validity.verdict))))
    if out is not None and validity.curves:
        storage.write_bytes(out, draw_curves(validity))
        remark([f"Errors by horizon: {out}"])
        if found.picture is not None:
            sheet = out.with_name(f"{out.stem}_frames.png")
            storage.write_bytes(sheet, found.picture)
            remark([f"Truth above, prediction below: {sheet}"])
