"""`worldsim label`: say of recorded episodes whether they were solved, on a local page, or let a source say it."""

import getpass
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldsim.cli.console import say
from worldsim.cli.options import Device
from worldsim.limits import MAX_EPISODES

if TYPE_CHECKING:
    from worldsim.label.automatic import Automatic
    from worldsim.worlds.latent import LatentWorld


def label(
    data: Annotated[
        str, typer.Argument(help="Dataset folder, or the run folder of a triage: its dreams.", metavar="DATASET|RUN")
    ],
    who: Annotated[
        str | None, typer.Option(help="Your name; two people's labels are compared. \\[default: your login]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of labels; continued if it exists. It must not lie in the dataset. \\[default: labels.jsonl; RUN/labels.jsonl]"
        ),
    ] = None,
    most: Annotated[
        int,
        typer.Option(min=1, max=MAX_EPISODES, help="Episodes to choose from; evenly many of more, of dreams by lot."),
    ] = 400,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    world: Annotated[
        str | None, typer.Option(help="A world of this data: episodes of which its heads are unsure are asked first.")
    ] = None,
    goal: Annotated[
        Path | None, typer.Option(help="No page: solved is what ends like this picture of the main camera.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            help="With --goal: how near; 0 is the goal, 1 where most begin. \\[default: as labels of people say]"
        ),
    ] = None,
    success: Annotated[
        str | None,
        typer.Option(help="No page: a rule on the recording, 'reward > 0.9' or 'observation.state.2 < 0.1'."),
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(
            help="No page: a reward model of LeRobot, its progress file (.parquet) or a reward classifier's folder."
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="No page: a critic's folder, or 'reason' for the shipped one.")
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            help="A module:function policy of the run that may be imported to draw its dreams again; repeatable."
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Label recorded episodes: solved, failed, unclear, and where. Opens a page on this machine; one key each.

        worldsim label data/robot

        worldsim train world data=data/robot out=worlds/robot labels=labels.jsonl

    It asks for the episodes from which most is learned; a few dozen are often enough. Labels are kept at once: stop
    whenever you like, the same command continues. A goal picture, a rule, a reward model or a critic can label
    instead; where people have spoken too, they count, and how far both agree is shown.

    Of a triage run it shows dreams, drawn again by the world; their labels say how often the run's judge is right, and
    its ranking is corrected by that:

        worldsim label runs/x

        worldsim report runs/x
    """
    from worldsim.compute import one_thread
    from worldsim.evaluate.dreams import LABELS, is_run
    from worldsim.label.automatic import Automatic

    automatic = Automatic(goal=goal, within=within, success=success, rewards=rewards, judge=judge)
    run = Path(data) if is_run(data) else None
    file = out or (Path("labels.jsonl") if run is None else run / LABELS)
    with one_thread():
        seen = _world(world, device)
        episodes = data if run is None else _dreams(run, most, code or [], device)
        if automatic:
            _label_by(automatic, episodes, file, seen, device)
        else:
            _serve(episodes, file, who or getpass.getuser(), most, port, seen, run)


def _dreams(run: Path, most: int, code: list[str], device: str) -> str:
    """Draw the dreams of a run again, where that is not done yet."""
    from worldsim.evaluate.dreams import record_dreams
    from worldsim.progress import progress_bars

    with progress_bars() as progress:
        folder, remarks = record_dreams(run, most=most, code=code, device=device, progress=progress)
    for remark in remarks:
        say(remark, error=True)
    return str(folder)


def _world(name: str | None, device: str) -> "LatentWorld | None":
    """The world whose heads help; it must see pictures."""
    from worldsim.errors import InvalidInputError
    from worldsim.worlds import load_world
    from worldsim.worlds.latent import LatentWorld

    if name is None:
        return None
    found = load_world(name, device=device)
    if not isinstance(found, LatentWorld):
        raise InvalidInputError(f"World {name!r} sees no pictures, so its heads cannot judge recordings. Name another.")
    return found


def _label_by(automatic: "Automatic", data: str, out: Path, world: "LatentWorld | None", device: str) -> None:
    """Let a source label all episodes, and say how far it agrees with everybody else."""
    from worldsim.data.labels import compare
    from worldsim.label.session import open_labels
    from worldsim.label.sources import label_by
    from worldsim.progress import progress_bars

    dataset, file = open_labels(data, out)
    source = automatic.open(dataset, file, world=world, device=device)
    with progress_bars() as progress:
        found = label_by(source, dataset, file, progress=progress)
    if automatic.goal is not None:
        say(str(source))
    say(f"{found}. Labels are in {out}.")
    for index, reason in list(found.unreadable.items())[:3]:
        say(f"Episode {index} was left out: {reason}", error=True)
    for comparison in compare(file.labels):
        if source.who in comparison.people:
            say(f"{comparison}. People count where both have spoken.")
    say(f"Look at those of which most is learned yourself: worldsim label {data} --out {out}")


def _serve(data: str, out: Path, who: str, most: int, port: int, world: "LatentWorld | None", run: Path | None) -> None:
    """Open the page, and serve it until the process is interrupted."""
    from worldsim.label.server import LabelServer, require_server
    from worldsim.label.session import open_session
    from worldsim.progress import progress_bars

    require_server()
    with progress_bars() as progress:
        session = open_session(data, out, who=who, most=most, world=world, run=run, progress=progress)
    server = LabelServer(session, port=port)
    say(f"Open {server.address} in a browser. Stop with Ctrl-C; labels are in {out}.")
    with suppress(KeyboardInterrupt):
        server.run()
    if run is not None:
        _say_rates(run)


def _say_rates(run: Path) -> None:
    """How often the run's judge was right on the labelled dreams, and what follows."""
    from worldsim.evaluate.dreams import FEWEST, dream_rates, rates_of_run

    rates = dream_rates(run)
    if rates is not None:
        parts = f"solved ones {rates.sensitivity or 'none'}, failed ones {rates.specificity or 'none'}"
        say(
            f"The run's judge was right on labelled dreams: {parts}, balanced accuracy {rates.balanced or 'not known'}."
        )
    if rates_of_run(run):
        say(f"Its ranking, corrected for that: worldsim report {run}")
    else:
        say(f"The ranking is corrected once {FEWEST} solved and {FEWEST} failed dreams are labelled.")
