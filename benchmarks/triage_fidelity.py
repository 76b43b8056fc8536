"""How far the ranking of the shipped bank inside the shipped world agrees with the simulator, on held-out episodes.

    python -m benchmarks.triage_fidelity [--episodes 320] [--workers 2]

Every checkpoint plays every episode in the world, in the simulator from the same starts, and in the simulator seen
through the world's tokenizer (the round trip). The run folder is kept: the same command continues it.
"""

import functools
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import record
from benchmarks.record import Figure, write
from worldsim.evaluate import loaders
from worldsim.evaluate.policies import load_ref, policy_refs
from worldsim.progress import progress_bars
from worldsim.stats.agreement import Agreement, measure_agreement
from worldsim.triage.request import TriageRequest
from worldsim.triage.run import run
from worldsim.worlds import load_world

TOP = 5


def main(
    world: Annotated[str, typer.Option(help="World name or folder.")] = "push",
    episodes: Annotated[int, typer.Option(help="Episodes per checkpoint in the world and in the simulator.")] = 320,
    roundtrip: Annotated[int, typer.Option(help="Episodes per checkpoint through the tokenizer.")] = 48,
    workers: Annotated[int, typer.Option(help="Processes.")] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/fidelity"),
) -> None:
    """Measure and write benchmarks/results/triage_fidelity.json."""
    torch.set_num_threads(1)
    refs, where = policy_refs([]), loaders.world_ref(world)
    request = TriageRequest(
        policies=refs, world=where, k=TOP, budget=episodes * len(refs), allocator="uniform", audit=0.0, workers=workers
    )
    arenas = loaders.arenas(where, truth=episodes, roundtrip=roundtrip)
    with progress_bars() as show:
        results = run(
            request,
            load_world=functools.partial(load_world, where.source),
            load_policy=load_ref,
            out=out,
            arenas=arenas,
            progress=show,
        )
    truth, seen = results.arenas["truth"], results.arenas["roundtrip"]
    success, progress_ = (
        measure_agreement(getattr(truth, q), world=getattr(results.triage, q), k=TOP, matched=True, quantity=q)
        for q in ("success", "progress")
    )
    both = slice(0, roundtrip)
    gaps = truth.success[:, both].mean(1) - seen.success[:, both].mean(1)
    figures = [
        _figure(success, "pearson"),
        _figure(success, "mmrv"),
        Figure(name="success: absolute mean bias", value=_absolute(success["bias"].value)),
        _figure(progress_, "spearman"),
        _figure(success, "recall"),
        Figure(name="round-trip gap, mean over checkpoints", value=float(gaps.mean())),
        Figure(name="round-trip gap, worst checkpoint (48 episodes)", value=float(np.abs(gaps).max())),
        *[
            _figure(success, n)
            for n in ("spearman", "kendall", "noise_ceiling", "order_accuracy", "mean_absolute_error")
            if _has(success, n)
        ],
        *[_figure(progress_, n) for n in ("pearson", "bias") if _has(progress_, n)],
    ]
    table = [
        {
            "checkpoint": ref.name,
            "truth": round(float(truth.success[i].mean()), 4),
            "world": round(float(results.triage.success[i].mean()), 4),
            "truth_progress": round(float(truth.progress[i].mean()), 4),
            "world_progress": round(float(results.triage.progress[i].mean()), 4),
            "roundtrip": round(float(seen.success[i].mean()), 4),
        }
        for i, ref in enumerate(refs)
    ]
    estimates = {a.quantity: [str(e) for e in a.estimates] for a in (success, progress_)}
    details = {
        "checkpoints": table,
        "estimates": estimates,
        "episodes": episodes,
        "ranking_digest": results.ranking.digest,
    }
    write("triage_fidelity", figures=figures, seeds=[request.seed], details=details)


def _has(agreement: Agreement, name: str) -> bool:
    return any(e.name == name for e in agreement.estimates)


def _figure(agreement: Agreement, name: str) -> Figure:
    """An estimate as a figure, undefined where the estimate is."""
    return Figure(name=f"{agreement.quantity}: {name}", value=agreement[name].value)


def _absolute(value: float | None) -> float | None:
    return None if value is None else abs(value)


if __name__ == "__main__":
    record.run(main)
