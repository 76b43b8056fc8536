"""`worldsim reason calibrate`: make a critic's probabilities believable, and say how good its verdicts are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from worldsim.cli.progress import advance, bars
from worldsim.errors import InvalidInputError

if TYPE_CHECKING:
    from worldsim.reason.critic import ReasonCritic
    from worldsim.reason.sources import Source
    from worldsim.reason.trial import Errors


def calibrate(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a critic or of any image-text-to-text model; 'reason' is the shipped critic."),
    ],
    data: Annotated[
        list[str], typer.Option(help="Dataset of held-out policies, with their names and outcomes. May be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the calibrated critic; replaced whole.")],
    videos: Annotated[int, typer.Option(help="Videos of each dataset at most, spread over it; 0 for all.")] = 0,
    frames: Annotated[int | None, typer.Option(help="Frames shown. [default: as the model was trained]")] = None,
    size: Annotated[int | None, typer.Option(help="Their side in pixels. [default: as it was trained]")] = None,
    task: Annotated[str | None, typer.Option(help="What the robot should do. [default: as it was trained]")] = None,
    band: Annotated[float, typer.Option(help="Abstain where the probability is closer to 1/2 than this.")] = 0.1,
    bias: Annotated[bool, typer.Option(help="Fit a bias beside the temperature.")] = True,
    seed: Annotated[int, typer.Option(help="Parts the policies into those that fit and those that try.")] = 0,
    batch: Annotated[int, typer.Option(help="Episodes judged at once.")] = 16,
) -> None:
    """Calibrate a critic on labelled videos of policies it did not learn from.

        worldsim reason calibrate critics/sft/model --data data/bank --data data/bank_dreams --out critics/push

    Temperature and bias are fitted on half of the policies; all figures are of the others. The critic's folder then works
    as `worldsim triage --judge critics/push`, and its sensitivity and specificity correct the ranking.
    """
    import dataclasses

    import torch

    from worldsim.reason.calibrate import calibrated, judge_sources
    from worldsim.reason.critic import ReasonCritic

    torch.set_num_threads(1)
    critic = ReasonCritic.from_pretrained(model, batch=batch)
    given = {"frames": frames, "size": size, "task": task, "band": band}
    told: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    critic = critic.with_settings(dataclasses.replace(critic.settings, **told))
    sources = opened(data)
    with bars() as progress:
        judged = judge_sources(
            critic,
            sources,
            most=videos,
            tell=lambda done, total: advance(progress, "episodes judged", done=done, total=total),
        )
    command = " ".join(["worldsim", *sys.argv[1:]])
    made = calibrated(
        critic,
        judged,
        bias=bias,
        seed=seed,
        data={n: digest(d) for n, d in zip(sources, data, strict=True)},
        command=command,
    )
    save(made, out, origin=model)
    show(made, unlabelled=judged.unlabelled)
    Console().print(f"Critic: {out}, version {made.version}", highlight=False, soft_wrap=True)


def opened(data: list[str]) -> "dict[str, Source]":
    """Datasets and folders of videos by short names.

    Raises:
        WorldsimError: One cannot be read.
    """
    from worldsim.reason.sources import DatasetVideos, FolderVideos, tolerant

    if not data:
        raise InvalidInputError("No data was given. Name a dataset: --data FOLDER.")
    found: dict[str, Source] = {}
    for path in data:
        name = Path(path).name if Path(path).name not in found else path
        if name in found:
            raise InvalidInputError(f"{path} was given twice. Name each dataset once.")
        whole = DatasetVideos(path) if (Path(path) / "meta/info.json").is_file() else FolderVideos(path)
        found[name] = tolerant(whole)
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
        f"Tried on {trial.episodes} episodes of {len(trial.groups)} others: ECE {trial.ece:.3f} ({trial.bins} bins of "
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
