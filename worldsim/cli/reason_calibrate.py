"""`worldsim reason calibrate`: make a critic's probabilities believable, and say how good its verdicts are."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from worldsim.cli.options import MAX_COUNT, MAX_IMAGE_PX, MAX_SEED
from worldsim.errors import InvalidInputError
from worldsim.progress import progress_bars

if TYPE_CHECKING:
    from worldsim.reason.critic import ReasonCritic
    from worldsim.reason.sources import Source
    from worldsim.reason.trial import Errors


def calibrate(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a critic or of any image-text-to-text model; 'reason' is the shipped critic."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the calibrated critic; replaced whole.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Dataset of policies that the model did not learn from, with names and outcomes; may be repeated. "
            "[default: what the training of the model held out]"
        ),
    ] = None,
    videos: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Videos of each dataset at most, spread over it; 0 for all.")
    ] = 0,
    frames: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Frames shown. [default: as the model was trained]")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=MAX_IMAGE_PX, help="Their side in pixels. [default: as it was trained]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What the robot should do. [default: as it was trained]")] = None,
    think: Annotated[
        int,
        typer.Option(min=0, max=MAX_COUNT, help="Most tokens it may think before it answers; 0 is many times faster."),
    ] = 0,
    band: Annotated[
        float, typer.Option(min=0, max=0.5, help="Abstain where the probability is closer to 1/2 than this.")
    ] = 0.1,
    bias: Annotated[bool, typer.Option(help="Fit a bias beside the temperature.")] = True,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Parts the policies into those that fit and those that try.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Episodes judged at once.")] = 16,
) -> None:
    """Calibrate a critic on labelled videos of policies it did not learn from.

        worldsim reason calibrate critics/sft/model --data data/bank --data data/bank_dreams --out critics/push

    Without --data it takes the videos that the model's training held out; train with items.by=policy, so that they are of
    other policies.

    Temperature and bias are fitted on half of the policies; all figures are of the others. The critic's folder then works
    as `worldsim triage --judge critics/push`, and its sensitivity and specificity correct the ranking.
    """
    import dataclasses

    import torch

    from worldsim.reason.calibrate import calibrated, judge_sources
    from worldsim.reason.critic import ReasonCritic

    torch.set_num_threads(1)
    critic = ReasonCritic.from_pretrained(model, batch=batch)
    given = {"frames": frames, "size": size, "task": task, "think": think, "band": band}
    told: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    critic = critic.with_settings(dataclasses.replace(critic.settings, **told))
    paths, sources = opened(data) if data else held_out(model)
    with progress_bars() as progress:
        judged = judge_sources(
            critic,
            sources,
            most=videos,
            tell=lambda done, total: progress("episodes judged", done, total, {}),
        )
    command = " ".join(["worldsim", *sys.argv[1:]])
    made = calibrated(
        critic,
        judged,
        bias=bias,
        seed=seed,
        data={n: digest(p) for n, p in zip(sources, paths, strict=True)},
        command=command,
    )
    save(made, out, origin=model)
    show(made, unlabelled=judged.unlabelled)
    Console().print(f"Critic: {out}, version {made.version}", highlight=False, soft_wrap=True)


def opened(data: Sequence[str]) -> "tuple[list[str], dict[str, Source]]":
    """Datasets and folders of videos, and their paths; each by its folder's name.

    Raises:
        WorldsimError: One cannot be read, or is given twice.
    """
    from worldsim.reason.sources import tolerant
    from worldsim.reason.train.items import opened as open_folder

    return list(data), {name: tolerant(open_folder([path])) for name, path in zip(_names(data), data, strict=True)}


def held_out(model: str) -> "tuple[list[str], dict[str, Source]]":
    """The videos that a model's training held out, as its manifest tells; otherwise as `opened`.

    Raises:
        InvalidInputError: The folder does not say what its model was trained on.
    """
    from worldsim import storage
    from worldsim.reason.critic import critic_folder
    from worldsim.reason.sources import Joined, Subset, tolerant
    from worldsim.reason.split import split
    from worldsim.reason.train.items import opened as open_folder

    path = critic_folder(model) / storage.MANIFEST
    config = storage.read_json(path).get("config", {}) if path.is_file() else {}
    data, items = config.get("data"), config.get("items", {})
    if not data or "by" not in items:
        raise InvalidInputError(
            f"{path.parent} does not say what its model was trained on, so what it has not seen is unknown. Name data of "
            "other policies: --data FOLDER."
        )
    paths = [p.strip() for p in data.split(",")] if isinstance(data, str) else list(data)
    whole = [open_folder([p]) for p in paths]
    held = split(Joined(whole) if len(whole) > 1 else whole[0], by=items["by"], share=items["share"])[1].indices
    found: dict[str, Source] = {}
    begin = 0
    for name, source in zip(_names(paths), whole, strict=True):
        rows = [i - begin for i in held if begin <= i < begin + len(source)]
        found[name] = tolerant(Subset(source, rows))
        begin += len(source)
        if not rows:
            raise InvalidInputError(
                f"Training held out no video of {name}. Name data of other policies: --data FOLDER."
            )
    return paths, found


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of folders, each its own."""
    found: list[str] = []
    for path in paths:
        name = Path(path).name if Path(path).name not in found else path
        if name in found:
            raise InvalidInputError(f"{path} was given twice. Name each dataset once.")
        found.append(name)
    return found


def digest(path: str) -> str:
    """Digest of a folder's file names and sizes: tells datasets apart without reading them whole."""
    from worldsim.storage import digest_bytes

    files = sorted(p for p in Path(path).rglob("*") if p.is_file())
    return digest_bytes("\n".join(f"{p.relative_to(path).as_posix()} {p.stat().st_size}" for p in files).encode())


def save(critic: "ReasonCritic", out: Path, *, origin: str) -> None:
    """Write the folder; what the model's manifest knew is kept."""
    from worldsim import storage
    from worldsim.reason.calibrate import summary
    from worldsim.reason.critic import critic_folder

    path = critic_folder(origin) / storage.MANIFEST
    known = storage.read_json(path) if path.is_file() else {}
    kept = {k: v for k, v in known.items() if k not in ("sha256", "kind")}
    critic.save_pretrained(out, manifest={**kept, "judge": summary(critic)})


def show(critic: "ReasonCritic", *, unlabelled: int) -> None:
    """Print what the trial came to."""
    calibration, console = critic.settings.calibration, Console()
    assert calibration is not None
    trial, platt = calibration.trial, critic.settings.platt
    text = (
        f"Fitted on {calibration.fitted_episodes} episodes of {len(calibration.fitted_on)} policies: temperature "
        f"{platt.temperature:.3f}, bias {platt.bias:+.3f}.\n"
        f"Tried on {trial.episodes} episodes of {trial.policies} others: ECE {trial.ece:.3f} ({trial.bins} bins of "
        f"equal mass), Brier {trial.brier:.3f}, balanced accuracy {_number(trial.balanced_accuracy)}, "
        f"progress off by {_number(trial.progress_error)}, abstained on {100 * trial.abstained:.1f} %."
    )
    if unlabelled:
        text += f"\n{unlabelled} videos without an outcome were left out."
    console.print(text, highlight=False, soft_wrap=True)
    table = Table(box=None)
    for name in ("policy", "sensitivity", "specificity"):
        table.add_column(name, no_wrap=True)
    rows = [
        ("all", trial.errors),
        *((f"data {e.group}", e) for e in trial.sources),
        *((e.group, e) for e in trial.groups),
    ]
    for label, errors in rows:
        table.add_row(label, *_shares(errors))
    console.print(table, soft_wrap=True, highlight=False, markup=False)


def _shares(errors: "Errors") -> tuple[str, str]:
    found = ["-" if s is None else str(s) for s in (errors.sensitivity, errors.specificity)]
    return found[0], found[1]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
