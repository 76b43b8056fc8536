"""`worldsim reason eval`: ask a vision-language model the questions of a benchmark folder, and print how it did."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from worldsim.cli.console import say
from worldsim.cli.options import MAX_COUNT, MAX_IMAGE_PX, MAX_SEED
from worldsim.progress import progress_bars

if TYPE_CHECKING:
    from worldsim.reason.benchmark.ask import BenchmarkResult
    from worldsim.reason.benchmark.read import Wording
    from worldsim.reason.benchmark.run import Prepared


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
    seed: Annotated[
        int,
        typer.Option(min=0, max=MAX_SEED, help="Draws the questions of --limit, and the frames of the blind control."),
    ] = 0,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open every clip, ask one question, say what the rest would cost.")
    ] = False,
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
        from worldsim.reason.items.preview import draw_items

        draw_items(prepared.preview(), sheet)
    if dry_run:
        _dry_run(prepared)
    else:
        _show(prepared, _run(prepared, out), out)


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
            command=" ".join(["worldsim", *sys.argv[1:]]),
            progress=progress,
        )


def _show(prepared: "Prepared", outcome: "BenchmarkResult", out: Path) -> None:
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
