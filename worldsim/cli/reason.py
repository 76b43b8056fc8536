"""`worldsim reason ...`: calibrate a critic, examine one on a benchmark, write questions as a benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worldsim.cli.console import say, show
from worldsim.cli.options import Device, DryRun, Seed
from worldsim.limits import MAX_COUNT, MAX_IMAGE_PX
from worldsim.progress import progress_bars
from worldsim.text import command_text, printable

if TYPE_CHECKING:
    from worldsim.reason.benchmark.ask import BenchmarkResult
    from worldsim.reason.benchmark.read import Wording
    from worldsim.reason.benchmark.run import Prepared
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
            "\\[default: what the training of the model held out]"
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="File of labels of that dataset (worldsim label); a few dozen are enough to calibrate.")
    ] = "",
    videos: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Videos of each dataset at most, spread over it; 0 for all.")
    ] = 0,
    frames: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Frames shown. \\[default: as the model was trained]")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=MAX_IMAGE_PX, help="Their side in pixels. \\[default: as it was trained]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What the robot should do. \\[default: as it was trained]")] = None,
    think: Annotated[
        int,
        typer.Option(min=0, max=MAX_COUNT, help="Most tokens it may think before it answers; 0 is many times faster."),
    ] = 0,
    band: Annotated[
        float, typer.Option(min=0, max=0.5, help="Abstain where the probability is closer to 1/2 than this.")
    ] = 0.1,
    bias: Annotated[bool, typer.Option(help="Fit a bias beside the temperature.")] = True,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Episodes judged at once.")] = 16,
    device: Device = "cpu",
) -> None:
    """Calibrate a critic on labelled videos of policies it did not learn from.

        worldsim reason calibrate critics/sft/model --data data/bank --data data/bank_dreams --out critics/push

    Without --data it takes the videos that the model's training held out; train with items.by=policy, so that they are of
    other policies.

    Recordings of one robot, of which people labelled a few dozen episodes:

        worldsim reason calibrate reason --data data/robot --labels labels.jsonl --out critics/robot

    Temperature and bias are fitted on half of the policies (of the labelled episodes where none is named); all figures
    are of the others. The critic's folder then works as `worldsim triage --judge critics/push`, and its sensitivity and
    specificity correct the ranking.
    """
    from worldsim.compute import one_thread
    from worldsim.evaluate.critics import calibrate_critic

    with one_thread(), progress_bars() as progress:
        made, unlabelled = calibrate_critic(
            model,
            out,
            data=data or (),
            labels=labels,
            videos=videos,
            settings={"frames": frames, "size": size, "task": task, "think": think, "band": band},
            bias=bias,
            seed=seed,
            batch=batch,
            device=device,
            command=command_text(),
            progress=progress,
        )
    _show_calibration(made, unlabelled=unlabelled)
    say(f"Critic: {out}, version {made.version}")


def _show_calibration(critic: "ReasonCritic", *, unlabelled: int) -> None:
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


def evaluate(
    folder: Annotated[
        Path, typer.Argument(help="Benchmark folder: DATASET/DATASET_benchmark_qa_pairs.json and DATASET/clips/*.mp4.")
    ],
    model: Annotated[
        Path, typer.Option(help="Model folder: a critic of worldsim, Qwen2.5-VL, Qwen3-VL, Cosmos-Reason, Cosmos 3.")
    ],
    fast: Annotated[
        bool, typer.Option("--fast", help="Score the options instead of letting the model think and reply.")
    ] = False,
    frames: Annotated[int, typer.Option(min=1, max=4096, help="Most frames of a clip, at even distances.")] = 8,
    size: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_IMAGE_PX,
            help="Side of the frames in pixels; by default the model's own, or 256.",
            show_default=False,
        ),
    ] = 0,
    wording: Annotated[
        str | None,
        typer.Option(help="How options are named: letters or words; by default words for critics of worldsim."),
    ] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Which of the folder's, separated by commas; by default all.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Most questions of each dataset; may grow later.")
    ] = None,
    seed: Seed = 0,
    blind: Annotated[bool, typer.Option(help="Ask once more with the frames of other questions.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Longest reply.")] = 1024,
    batch: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Questions at a time.")] = 16,
    bad_share: Annotated[float, typer.Option(min=0, max=1, help="Most questions that may be bad, as a share.")] = 0.05,
    device: Annotated[
        str, typer.Option(help="cpu or cuda; by default cuda where there is one.", show_default=False)
    ] = "",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16 or float16; by default float32 on a CPU, else bfloat16.", show_default=False
        ),
    ] = "",
    sheet: Annotated[Path | None, typer.Option(help="Also draw a few questions as the model sees them, a PNG.")] = None,
    out: Annotated[Path, typer.Option(help="Run folder; the same command continues it.")] = Path("runs/reason_eval"),
    dry_run: DryRun = False,
) -> None:
    """Examine a vision-language model on multiple-choice questions about videos.

        worldsim reason eval data/benchmark --model models/Cosmos-Reason1-7B --out runs/cosmos

    Every accuracy comes with an exact interval, chance level, and accuracy with the frames of other questions.
    """
    from worldsim.compute import one_thread
    from worldsim.reason.benchmark.run import EvalRequest, prepare

    request = EvalRequest(
        folder=str(folder),
        model=str(model),
        datasets=tuple(n.strip() for n in (datasets or "").split(",") if n.strip()),
        limit=limit,
        seed=seed,
        frames=frames,
        size=size,
        wording=cast("Wording | None", wording),
        fast=fast,
        blind=blind,
        max_new_tokens=max_new_tokens,
        batch=batch,
        bad_share=bad_share,
        device=device,
        dtype=dtype,
    )
    with one_thread():
        _examine(prepare(request), sheet, out, dry_run=dry_run)


def _examine(prepared: "Prepared", sheet: Path | None, out: Path, *, dry_run: bool) -> None:
    """Draw, estimate or ask."""
    if sheet is not None:
        from worldsim.reason.items.item import draw_items

        draw_items(prepared.preview(), sheet)
    if dry_run:
        _dry_run(prepared)
    else:
        _show_answers(prepared, _run(prepared, out), out)


def _dry_run(prepared: "Prepared") -> None:
    """Say what is there and what asking would cost."""
    with progress_bars() as progress:
        seconds, bad = prepared.dry_run(progress=progress)
    questions, view = prepared.questions, prepared.how.view
    chance = sum(1 / len(q.options) for q in questions) / len(questions)
    datasets = {q.dataset: sum(o.dataset == q.dataset for o in questions) for q in questions}
    parts = ", ".join(f"{n} of {name}" for name, n in datasets.items())
    say(
        f"{len(questions)} questions ({parts}), asked in {view.wording}, {view.frames} frames of {view.size} px; guessing "
        f"reaches {chance:.1%}.\nOne question took {seconds:.2f} s: at most {seconds * len(questions):.0f} s for all."
    )
    _say_skipped({**prepared.benchmark.bad, **bad})


def _run(prepared: "Prepared", out: Path) -> "BenchmarkResult":
    """Ask, with a bar, in a locked folder."""
    from worldsim.runs import hold_folder

    with hold_folder(out), progress_bars() as progress:
        return prepared.run(
            out,
            command=command_text(),
            progress=progress,
        )


def _show_answers(prepared: "Prepared", outcome: "BenchmarkResult", out: Path) -> None:
    """The table, and what it needs to be understood."""
    from worldsim.reason.benchmark.tally import FILE, mean_of_datasets, table, tally

    Console().print(table(tally(outcome.responses), fast=prepared.how.fast), soft_wrap=True)
    if len({a.dataset for a in outcome.responses}) > 1:
        say(f"Mean of the datasets: {mean_of_datasets(outcome.responses):.1%}")
    _say_skipped(outcome.bad)
    before = len(outcome.responses) - outcome.asked
    known = f", {before} known from an earlier run" if before else ""
    say(f"{outcome.asked} questions asked{known}: {out / FILE}")


def _say_skipped(bad: dict[str, str]) -> None:
    """How many were skipped, and why the first of them."""
    if bad:
        lines = "\n".join(f"  {line}" for line in list(bad.values())[:5])
        say(f"Skipped {len(bad)} bad questions:\n{lines}")


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
    from worldsim.compute import one_thread
    from worldsim.reason.benchmark.write import SHEET, write_items
    from worldsim.reason.items.sources import By
    from worldsim.reason.train.items import ItemsConfig, open_task_items

    names = tuple(n.strip() for n in tasks.split(",") if n.strip())
    with one_thread():
        asked = ItemsConfig(tasks=names, videos=videos, held_out=held_out, by=cast("By", by))
        made_items = open_task_items(data, asked, size=size, seed=0)
        command = command_text()
        made = write_items(made_items.held_out(count), out, origin={"command": command, "data": data})
    skipped = f", {len(made_items.bad)} bad videos skipped" if made_items.bad else ""
    say(f"{count} questions of each of {len(names)} tasks{skipped}: {made}, {made / SHEET}")
    say(f"Next: worldsim reason eval {made} --model FOLDER")


app = typer.Typer(
    name="reason",
    help="Critics that watch videos: calibrate one on held-out policies, examine one, write questions to look at.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("calibrate")(calibrate)
app.command("eval")(evaluate)
app.command("items")(items)
