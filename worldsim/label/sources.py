"""Labels that no person has to give: success by a reward, by likeness to a goal picture, or by a critic that watches.

A source writes into the same file of labels as people do, under a name of its own (`worldsim.data.labels.SOURCES`). Where a
person has spoken, the person counts.

Shape legend: T + 1 observations of an episode, N episodes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from worldsim.arrays import Float64s
from worldsim.data.collect.success import ComparisonRule, success_rule
from worldsim.data.episode import Episode
from worldsim.data.labels import MAX_NAME, LabelFile, Outcome, by_episode
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent

Rewards = Callable[[int, Episode], Float64s]
"""Number of an episode and the episode -> what each of its observations is worth, [T + 1]; nan where that is not known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """What a source says of an episode: an outcome, and the first frame at which it shows."""

    outcome: Outcome
    frame: int | None = None


UNCLEAR = Said(outcome="unclear")


class Source(Protocol):
    """Says of recorded episodes how they ended."""

    @property
    def who(self) -> str:
        """Its name in the file of labels."""

    def __call__(self, index: int, episode: Episode) -> Said:
        """What it says of one episode."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a source has written.

    Attributes:
        who: Its name.
        counts: Episodes by outcome.
        unreadable: Episodes that could not be read, with the reason.
    """

    who: str
    counts: Mapping[Outcome, int]
    unreadable: Mapping[int, str]

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.counts.items())
        return f"{self.who} says: {counts}"


def source_name(kind: str, name: str) -> str:
    """What a source is called in the file of labels: its kind, and as much of its name as fits."""
    shown = "".join(c if c.isprintable() else "?" for c in name)
    room = MAX_NAME - len(kind) - 2
    return f"{kind}: {shown if len(shown) <= room else '...' + shown[-room + 3 :]}"


def label_by(source: Source, dataset: Dataset, file: LabelFile, *, progress: Progress = silent) -> Summary:
    """Let a source label all episodes; what it has said before and says again is not written again.

    Args:
        source: Who says it.
        dataset: The episodes, opened with all cameras.
        file: Their labels.
        progress: Called as it advances.

    Raises:
        InvalidInputError: No episode can be read, or the source does not fit them.
        StorageError: Labels could not be written.
    """
    before = {e: given[source.who] for e, given in by_episode(file.labels).items() if source.who in given}
    counts: dict[Outcome, int] = {"solved": 0, "failed": 0, "unclear": 0}
    unreadable: dict[int, str] = {}
    for index in range(dataset.episodes):
        try:
            episode = dataset.episode(index)
        except (StorageError, InvalidInputError) as error:
            unreadable[index] = str(error)
            continue
        said = source(index, episode)
        counts[said.outcome] += 1
        known = before.get(index)
        if known is None or (known.outcome, known.frame) != (said.outcome, said.frame):
            file.add(episode=index, outcome=said.outcome, frame=said.frame, who=source.who)
        progress("episodes", index + 1, dataset.episodes, {})
    if len(unreadable) == dataset.episodes:
        raise InvalidInputError(
            f"No episode of {dataset.name} can be read. The first: {next(iter(unreadable.values()))}"
        )
    return Summary(who=source.who, counts=counts, unreadable=unreadable)


class RewardSource:
    """Success by a rule on the reward or the state, as ``reward > 0.9`` or ``observation.state.2 >= 0.5``.

    Args:
        rule: As `worldsim.data.collect.success.success_rule` reads it; taken apart, never evaluated.
        success_at: Whether an episode is solved at its last step or at any.
        rewards: Of each observation; None for those that the recording holds.
        name: What the rewards are from; empty for the rule itself.

    Raises:
        InvalidInputError: It is no such rule.
    """

    def __init__(self, rule: str, *, success_at: str, rewards: Rewards | None = None, name: str = "") -> None:
        try:
            found = success_rule(rule) if ":" not in rule else None
        except InvalidInputError:
            found = None
        if not isinstance(found, ComparisonRule) or found.source == "info":
            raise InvalidInputError(
                f"{rule!r} is no rule on a recording, which holds rewards and states: compare one with a number, as in "
                "'reward > 0.9' or 'observation.state.2 >= 0.5'."
            )
        self._rule, self._at, self._rewards = found, success_at, rewards or recorded_rewards
        self.who = source_name("reward", f"{name} {rule}".strip() if name else rule)

    def __call__(self, index: int, episode: Episode) -> Said:
        """Solved where the rule holds at the end, or at any step, as the task says; unclear where it cannot be said."""
        reward_T = self._rewards(index, episode)
        holds_T = np.array(
            [
                self._rule({"state": state}, {}, float(reward))
                for state, reward in zip(episode.proprio, reward_T, strict=True)
            ]
        )
        return said_of(holds_T, success_at=self._at)


def said_of(holds_T: Float64s, *, success_at: str) -> Said:
    """An outcome from whether the task stands solved at each observation, [T + 1] of 1, 0 and nan."""
    known, solved = np.isfinite(holds_T), holds_T > 0.5
    if success_at == "any":
        if solved[1:].any():
            return Said(outcome="solved", frame=1 + int(np.argmax(solved[1:])))
        return Said(outcome="failed") if known[1:].any() else UNCLEAR
    if not known[-1]:
        return UNCLEAR
    open_T = np.flatnonzero(~solved)
    frame = int(open_T[-1]) + 1 if len(open_T) else 0
    return Said(outcome="solved", frame=frame) if solved[-1] else Said(outcome="failed")


def recorded_rewards(index: int, episode: Episode) -> Float64s:
    """What led to each observation was worth, [T + 1]; at the last the larger of that and what its own action paid."""
    reward_T = np.concatenate([[np.nan], episode.reward]).astype(np.float64)
    reward_T[-1] = np.fmax(reward_T[-1], episode.last_reward)
    return reward_T


def rewards_of_file(path: Path, dataset: Dataset) -> Rewards:
    """Progress that a reward model of LeRobot has written for every frame (``sarm_progress.parquet`` and its like).

    Args:
        path: The file, with columns episode_index, frame_index and progress_sparse, progress_dense or progress.
        dataset: Whose frames they are.

    Raises:
        StorageError: It cannot be read, or lacks a column.
        InvalidInputError: It is of other episodes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        name = next(c for c in ("progress_sparse", "progress_dense", "progress") if c in table.column_names)
        episode_R, frame_R = (table[c].to_numpy().astype(np.int64) for c in ("episode_index", "frame_index"))
        value_R = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    except (OSError, pa.ArrowException, KeyError, StopIteration, ValueError, TypeError) as error:
        raise StorageError(
            f"{path} is no progress file of a reward model of LeRobot ({error or 'it has no column of progress'}). It has the "
            "columns episode_index, frame_index and progress_sparse; `python -m lerobot.rewards.sarm.compute_rabc_weights` "
            "and those of robometer and topreward write it."
        ) from error
    lengths = np.array([dataset.length(i) for i in range(dataset.episodes)])
    if not len(episode_R) or episode_R.min() < 0 or episode_R.max() >= len(lengths) or frame_R.min() < 0:
        raise InvalidInputError(f"{path} is of other episodes: {dataset.name} has episodes 0 to {len(lengths) - 1}.")
    if (frame_R >= lengths[episode_R]).any():
        wrong = int(episode_R[frame_R >= lengths[episode_R]][0])
        raise InvalidInputError(
            f"{path} is of other episodes: its episode {wrong} is longer than that of {dataset.name}."
        )

    def rewards(index: int, episode: Episode) -> Float64s:
        found = np.full(len(episode.proprio), np.nan)
        here = episode_R == index
        found[frame_R[here]] = value_R[here]
        return found

    return rewards
