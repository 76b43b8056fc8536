"""`worldsim inspect`: what a dataset holds, what is wrong with it, and what worldsim can do with it, in one screen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldsim.cli.console import say
from worldsim.text import printable, shorten

if TYPE_CHECKING:
    from worldsim.evaluate.inspection import Channel, Inspection

_CHANNELS, _UNREADABLE = 16, 5


def inspect(
    dataset: Annotated[str, typer.Argument(help="LeRobotDataset v3: a folder, or hf://OWNER/NAME.")],
    page: Annotated[Path | None, typer.Option(help="Also write one self-contained page with pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Look at every episode instead of at most 20.")] = False,
) -> None:
    """Say what a dataset holds, what is wrong with it, and what worldsim can do with it.

        worldsim inspect data/push --page push.html

    Faults are frozen, repeated and missing frames, video that is late or early, joints that jump, angles that wrap, NaN, dead
    channels, pauses, cut episodes and missing labels, each with its episode and frames. What the data cannot show is not
    reported: most is found by comparison with what the same dataset does most of the time.

    What to record more of is said as worldsim train world says it, with the command that collects it where there is a simulator.

    Other formats are made readable by worldsim import. Next step: worldsim train world data=DATASET out=worlds/NAME
    """
    from worldsim.evaluate.inspection import inspect_dataset
    from worldsim.evaluate.inspection_page import write_page
    from worldsim.progress import progress_bars
    from worldsim.storage import to_json

    with progress_bars() as progress:
        found, pictures = inspect_dataset(dataset, everything=everything, progress=progress)
    if page is not None:
        write_page(page, found, pictures)
    if as_json:
        say(json.dumps(to_json(found), indent=2, allow_nan=False))
        return
    _print(found)
    if page is not None:
        say(f"Page: {page}")


def _print(found: "Inspection") -> None:
    """The screen."""
    from worldsim.data.faults import faulty_episodes, group_faults

    least, median, most = found.length
    known = [
        f"{c.name} known in {c.known}, reached in {c.reached}" if c.known else f"no {c.name}" for c in found.labels
    ]
    tasks = [f"{shorten(printable(task), width=60) or '(no sentence)'} ({count})" for task, count in found.tasks]
    some = len(found.looked_at) < found.episodes
    rows = [
        (
            "episodes",
            f"{found.episodes}, {found.frames} frames, {least} to {most} each (median {median}) at {found.rate_hz:g} Hz",
        ),
        ("looked at", f"{len(found.looked_at)} episodes, evenly spread; --all for all" if some else "all"),
        ("cameras", ", ".join(f"{name} {width}x{height}" for name, height, width in found.cameras)),
        ("actions", _channels(found.actions)),
        ("state", _channels(found.states) or "none"),
        ("tasks", "; ".join(tasks)),
        ("labels", ", ".join(known)),
        ("idle", f"{found.idle:.0%} of steps"),
        *([("drawn by", f"the learned world {found.dreamed_by}")] if found.dreamed_by else []),
        *[
            ("unreadable", f"episode {i}: {shorten(why, width=200)}")
            for i, why in list(found.unreadable.items())[:_UNREADABLE]
        ],
        *[("note", note) for note in found.notes],
        ("scene", _scene(found.scene)),
        *[("data", sentence) for sentence in found.advice],
        *[("can" if use.possible else "cannot", f"{use.what}: {use.why}") for use in found.uses],
    ]
    faults: list[tuple[str, str]] = [
        (fault.kind, f"{fault.where + ', ' if fault.where else ''}{places}. {fault.meaning} {fault.remedy}")
        for fault, places in group_faults(found.faults)
    ]
    named = len(faulty_episodes(found.faults))
    total = [("faults", f"in {named} of the {len(found.looked_at)} episodes that were looked at")] if named else []
    _show([*rows, *total, *(faults or [("faults", "none found")])])


def _scene(shares: Mapping[str, float | None]) -> str:
    """What a sample shows, as far as it is known."""
    said = {
        "moving": "something that is not the robot moves from {} of the moments",
        "explained": "proprioception explains {} of what changes",
        "out_of_view": "{} of the episodes begin with little of the things in view",
    }
    known = [text.format(f"{share:.0%}") for name, text in said.items() if (share := shares.get(name)) is not None]
    return "; ".join(known) or "too little is there to tell what moves"


def _show(rows: Sequence[tuple[str, str]]) -> None:
    """Names and texts: on a terminal wrapped beside each other, else one line each."""
    console = Console()
    if not console.is_terminal:
        width = max(len(name) for name, _ in rows)
        say("\n".join(f"{name:<{width}}  {printable(text)}" for name, text in rows))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in rows:
        table.add_row(name, Text(printable(text)))
    console.print(table, highlight=False)


def _channels(channels: "tuple[Channel, ...]") -> str:
    """Names with their ranges, the first ones of many."""
    parts = [
        f"{c.name} [{c.low:g}, {c.high:g}]" + ("" if c.unit == "unknown" else f" {c.unit}")
        for c in channels[:_CHANNELS]
    ]
    more = f" and {len(channels) - _CHANNELS} more" if len(channels) > _CHANNELS else ""
    return ", ".join(parts) + more
