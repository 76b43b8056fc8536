"""`worldsim reason calibrate`: make a critic's probabilities believable, and say how good its verdicts are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worldsim.cli.console import say, show
from worldsim.cli.options import MAX_COUNT, MAX_IMAGE_PX, MAX_SEED
from worldsim.progress import progress_bars
from worldsim.text import printable

if TYPE_CHECKING:
    from worldsim.reason.critic import ReasonCritic
    from worldsim.stats.judge_rates import JudgeRates


def calibrate(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a critic or of any image-text-to-text model; 'reason' is the shipped critic."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the calibrated critic; replaced as a unit.")],
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
    from worldsim.compute import one_thread
    from worldsim.evaluate.critics import calibrate_critic

    with one_thread(), progress_bars() as progress:
        made, unlabelled = calibrate_critic(
            model,
            out,
            data=data or (),
            videos=videos,
            settings={"frames": frames, "size": size, "task": task, "think": think, "band": band},
            bias=bias,
            seed=seed,
            batch=batch,
            command=" ".join(["worldsim", *sys.argv[1:]]),
            progress=progress,
        )
    _show(made, unlabelled=unlabelled)
    say(f"Critic: {out}, version {made.version}")


def _show(critic: "ReasonCritic", *, unlabelled: int) -> None:
    """Print the calibration's metrics."""
    calibration = critic.settings.calibration
    assert calibration is not None
    metrics, platt = calibration.metrics, critic.settings.platt
    text = (
        f"Fitted on {calibration.fitted_episodes} episodes of {len(calibration.fitted_on)} policies: temperature "
        f"{platt.temperature:.3f}, bias {platt.bias:+.3f}.\n"
        f"Tested on {metrics.episodes} episodes of {metrics.policies} others: ECE {metrics.ece:.3f} ({metrics.bins} bins of "
        f"equal mass), Brier {metrics.brier:.3f}, balanced accuracy {_number(metrics.balanced_accuracy)}, "
        f"progress off by {_number(metrics.progress_error)}, abstained on {100 * metrics.abstained:.1f} %."
    )
    if unlabelled:
        text += f"\n{unlabelled} videos without an outcome were left out."
    say(text)
    table = Table(box=None)
    for name in ("policy", "sensitivity", "specificity"):
        table.add_column(name, no_wrap=True)
    rows = [
        ("all", metrics.rates),
        *((f"data {e.group}", e) for e in metrics.sources),
        *((e.group, e) for e in metrics.groups),
    ]
    for label, rates in rows:
        table.add_row(escape(printable(label)), *_shares(rates))
    show(table)


def _shares(rates: "JudgeRates") -> tuple[str, str]:
    found = ["-" if s is None else str(s) for s in (rates.sensitivity, rates.specificity)]
    return found[0], found[1]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
