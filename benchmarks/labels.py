"""How many labels of people a world's success head needs: the episodes that `worldsim label` asks for against random ones.

    python -m benchmarks.labels [--data runs/labels_push]

Labels are those of the simulator, of a pool of episodes that have no success or progress of their own; other episodes are judged.
The curves are of what labels say by pictures (`worldsim.data.guess`), which is also what spreads them to the frames that heads
learn from; the heads themselves, trained as in `worldsim train world labels=FILE`, are measured at the ends of the curves.
Several pools, and five random orders of each.

Shape legend: N episodes, or numbers of labels.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.record import ROOT, Figure, run, write
from worldsim.arrays import Bools, Float64s
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.guess import Described, describe_episodes, guess_outcomes
from worldsim.data.labels import Agreed, Outcome
from worldsim.data.latents import EncodedEpisodes, encode_episodes
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.label.choose import order_episodes
from worldsim.optimize import Schedule, fit
from worldsim.stats.judge_rates import JudgeRates
from worldsim.train.recipes.heads import prepare_heads
from worldsim.train.recipes.labels import judge_episodes
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

EPISODES, POOL = 384, 256
POOLS, ORDERS = 4, 5
HEAD_POOLS = 2
SCHEDULE = Schedule(steps=2000, batch=256, lr=2e-3)
ASKED = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50)
DRAWN = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 120, 140, 160, 200)
NEAR = 0.02
"""Balanced accuracy this near to that of all labels counts as reached."""
_NO_THIRD_PARTY = "gym-pusht is not installed here, and no third-party task has recordings with a known outcome"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """Encoded episodes without success and progress, how each ended, and what describes each."""

    dataset: Dataset
    world: LatentWorld
    encoded: EncodedEpisodes
    solved_N: Bools
    looked: Described

    def some(self, chosen: Sequence[int]) -> EncodedEpisodes:
        """Some of the episodes."""
        return EncodedEpisodes(episodes=tuple(self.encoded.episodes[i] for i in chosen), indices=tuple(chosen))

    def outcome(self, index: int) -> Outcome:
        """The true label of an episode."""
        return "solved" if self.solved_N[index] else "failed"


def main(
    data: Annotated[Path, typer.Option(help="Dataset of the bank's episodes; recorded if it is missing.")] = ROOT
    / "runs"
    / "labels_push",
) -> None:
    """Measure, print and record."""
    recorded = read(data)
    full, asked, drawn, heads = [], [], [], []
    for pool_seed in range(POOLS):
        order = np.random.default_rng(pool_seed).permutation(EPISODES).tolist()
        pool, others = order[:POOL], order[POOL:]
        full.append(score_guess(recorded, others, pool))
        best = ask(recorded, pool, most=max(ASKED))
        asked.append([score_guess(recorded, others, best[:n]) for n in ASKED])
        for seed in range(ORDERS):
            random = np.random.default_rng([pool_seed, seed]).permutation(pool).tolist()
            drawn.append([score_guess(recorded, others, random[:n]) for n in DRAWN])
        if pool_seed < HEAD_POOLS:
            heads.append([score_heads(recorded, pool, others, labelled) for labelled in (best, pool)])
    report(np.array(full), np.array(asked), np.array(drawn), np.array(heads))


def report(full_P: Float64s, asked_PN: Float64s, drawn_ON: Float64s, heads_P2: Float64s) -> None:
    """Write the record, of balanced accuracies: P pools, O random orders, N numbers of labels; heads with 50 and all labels."""
    full, asked, drawn = float(full_P.mean()), asked_PN.mean(axis=0).tolist(), drawn_ON.mean(axis=0).tolist()
    active, random = reached(ASKED, asked, full), reached(DRAWN, drawn, full)
    few, all_labels = heads_P2.mean(axis=0).tolist()
    never = f"not reached with {max(ASKED)} labels"
    figures = [
        Figure(name="push: balanced accuracy, all labels", value=full),
        Figure(name="push: labels until within 2 points, asked for", value=active, reason="" if active else never),
        Figure(name="push: labels until within 2 points, random", value=random or max(DRAWN)),
        Figure(name="push: labels asked for over random", value=active / (random or max(DRAWN)) if active else None),
        Figure(name="push: balanced accuracy of heads, all labels", value=all_labels),
        Figure(name="push: loss of heads by 50 asked labels", value=100 * (all_labels - few), unit="points"),
        Figure(name="third-party task: labels until within 2 points", value=None, reason=_NO_THIRD_PARTY),
    ]
    details: dict[str, Any] = {
        "asked": dict(zip(map(str, ASKED), asked, strict=True)),
        "random": dict(zip(map(str, DRAWN), drawn, strict=True)),
        "random reached it": random is not None,
        "episodes in a pool": POOL,
        "pools": POOLS,
        "random orders": POOLS * ORDERS,
        "heads, 50 and all labels": heads_P2.tolist(),
    }
    write("labels", figures=figures, seeds=list(range(POOLS)), details=details)


def reached(counts: Sequence[int], curve: Sequence[float], full: float) -> int | None:
    """The fewest labels from which on a curve stays near the accuracy of all; None where it never does."""
    near = [value >= full - NEAR for value in curve]
    return next((n for i, n in enumerate(counts) if all(near[i:])), None)


def read(data: Path) -> Recorded:
    """Record the bank's episodes where that is not done yet, and encode them by the shipped world."""
    command = ("collect", "--env", "push", "--policies", "bank", "--episodes", str(EPISODES), "--seed", "5")
    if not (data / "meta" / "info.json").exists():
        subprocess.run(
            [sys.executable, "-c", "import worldsim.cli; worldsim.cli.main()", *command, "--out", str(data)],
            check=True,
            cwd=ROOT,
        )
    dataset, world = open_dataset(data), load_world("push")
    assert isinstance(world, LatentWorld)

    def encode(episode: Episode) -> torch.Tensor:
        return world.encode({IMAGE: torch.tensor(episode.frames[IMAGE])})

    with tempfile.TemporaryDirectory() as scratch:
        encoded = encode_episodes(
            dataset.episode,
            EPISODES,
            encode=encode,
            normalize=dataset.action_spec.normalize,
            path=Path(scratch) / "latents",
            key="labels",
        )
    solved_N = np.array([bool(e.success_F[-1] > 0.5) for e in encoded.episodes])
    bare = tuple(
        dataclasses.replace(e, success_F=e.success_F * torch.nan, progress_F=e.progress_F * torch.nan)
        for e in encoded.episodes
    )
    looked = describe_episodes(dataset, most=EPISODES, all_frames=True)
    encoded = dataclasses.replace(encoded, episodes=bare)
    return Recorded(dataset=dataset, world=world, encoded=encoded, solved_N=solved_N, looked=looked)


def ask(recorded: Recorded, pool: Sequence[int], *, most: int) -> list[int]:
    """The episodes that are asked for, one after the other, each with what was said before."""
    features_ND = recorded.looked.ends_ND[list(pool)]
    said: dict[int, Outcome] = {}
    while len(said) < most:
        row = order_episodes(features_ND, said)[0]
        said[row] = recorded.outcome(pool[row])
    return [pool[row] for row in said]


def score_guess(recorded: Recorded, others: Sequence[int], labelled: Sequence[int]) -> float:
    """Balanced accuracy on other episodes of what the labels of some say by pictures."""
    chance_N = guess_outcomes(recorded.looked.ends_ND, {i: recorded.outcome(i) for i in labelled})
    return 0.5 if chance_N is None else balanced(recorded, others, chance_N[list(others)] > 0.5)


def balanced(recorded: Recorded, episodes: Sequence[int], judged: Bools) -> float:
    """Balanced accuracy of verdicts bool [N] on episodes."""
    rates = JudgeRates.of(judged, recorded.solved_N[list(episodes)])
    assert rates.sensitivity is not None and rates.specificity is not None
    return (rates.sensitivity.value + rates.specificity.value) / 2


def score_heads(recorded: Recorded, pool: Sequence[int], others: Sequence[int], labelled: Sequence[int]) -> float:
    """Balanced accuracy on other episodes of heads that learned from the labels of some."""
    labels = {i: Agreed(outcome=recorded.outcome(i), frame=None, disputed=False) for i in labelled}
    looked = dataclasses.replace(recorded.looked, frames={i: recorded.looked.frames[i] for i in pool})
    episodes = recorded.some(pool)
    heads, loss_at = prepare_heads(
        episodes,
        episodes,
        recorded.world.tokenizer,
        recorded.dataset,
        SCHEDULE,
        labels=labels,
        looked=looked,
        seed=0,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as scratch:
        fit(heads, loss_at, SCHEDULE, folder=Path(scratch), stage="heads")
    judged = judge_episodes(heads, recorded.some(others).episodes, success_at=recorded.dataset.success_at)
    return balanced(recorded, others, np.array(judged))


if __name__ == "__main__":
    run(main)
