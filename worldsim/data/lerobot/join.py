"""Several datasets as one: they must agree in everything but their episodes, and may be drawn from unevenly.

Shape legend: A action.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.errors import InvalidInputError

Data = str | tuple[str, ...]
"""One dataset, or several: folders, or names on the hub."""


def open_datasets(
    data: Data,
    *,
    cameras: Sequence[str] = (),
    action: Sequence[str] = (),
    proprio: Sequence[str] = (),
    weights: Sequence[float] = (),
) -> Dataset:
    """Open one dataset or several as one; what the episodes hold must be the same in all.

    Args:
        data: Folders, or names on the hub.
        cameras: As in `open_dataset`, for each; empty for all.
        action: As in `open_dataset`; empty for the default.
        proprio: As in `open_dataset`; empty for the default.
        weights: How often an episode's frames of each dataset are drawn, relative to each other, whatever its size; empty
            to draw from all frames alike.

    Raises:
        StorageError: As `open_dataset`.
        UnknownNameError: As `open_dataset`.
        InvalidInputError: As `open_dataset`; no dataset is given, weights do not fit, or the datasets differ.
    """
    names = (data,) if isinstance(data, str) else tuple(data)
    if not names:
        raise InvalidInputError("data=[] names no dataset. Give one, or several as data=[a,b].")
    if weights and (len(weights) != len(names) or not all(0 < w < float("inf") for w in weights)):
        raise InvalidInputError(
            f"weights are one positive number per dataset; got {list(weights)} for {len(names)} datasets."
        )
    parts = [
        open_dataset(name, cameras=cameras or None, action=action or None, proprio=proprio or None) for name in names
    ]
    return parts[0] if len(parts) == 1 else JoinedDatasets(parts, weights)


class JoinedDatasets(Dataset):
    """Several datasets, one after another; made by `open_datasets`."""

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[float]) -> None:
        first = parts[0]
        for part in parts[1:]:
            _compare(first, part)
        super().__init__(first._contents)
        self._parts, self._weights = tuple(parts), tuple(weights)
        self._where = [(part, i) for part in parts for i in range(part.episodes)]
        self._spec = _widest([part.action_spec for part in parts])

    @property
    def name(self) -> str:
        """The folders, for messages."""
        return " + ".join(part.name for part in self._parts)

    @property
    def episodes(self) -> int:
        """How many episodes there are in all."""
        return len(self._where)

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the actions; limits are the widest of the datasets."""
        return self._spec

    @property
    def tasks(self) -> tuple[str, ...]:
        """The sentences of all tasks of all datasets, each once."""
        return tuple(dict.fromkeys(task for part in self._parts for task in part.tasks))

    @property
    def task_id(self) -> str:
        """Gymnasium id of the environment, where all have the same."""
        ids = {part.task_id for part in self._parts}
        return ids.pop() if len(ids) == 1 else ""

    @property
    def env(self) -> str:
        """What the environment was called, where all have the same."""
        names = {part.env for part in self._parts}
        return names.pop() if len(names) == 1 else ""

    @property
    def success_rule(self) -> str:
        """By which rule success was recorded, where all have the same."""
        rules = {part.success_rule for part in self._parts}
        return rules.pop() if len(rules) == 1 else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, joined or assumed in any of them, and where their success means different things."""
        rules = [part.success_rule for part in self._parts]
        said = "; ".join(f"{part.name}: {part.success_rule or 'as it was reported'}" for part in self._parts)
        mixed = [f"Success was recorded by different rules ({said})."] if len(set(rules)) > 1 else []
        return tuple(dict.fromkeys([*mixed, *(note for part in self._parts for note in part.notes)]))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """What each episode was drawn from; -1 where it is not known."""
        return tuple(seed for part in self._parts for seed in part.seeds)

    @cached_property
    def behaviours(self) -> tuple[str, ...]:
        """What acted in each episode; empty where it is not known."""
        return tuple(name for part in self._parts for name in part.behaviours)

    @property
    def weights(self) -> tuple[float, ...]:
        """How often a frame of each episode is drawn, relative to each other; empty for all alike."""
        if not self._weights:
            return ()
        frames = [sum(part.length(i) for i in range(part.episodes)) for part in self._parts]
        return tuple(
            weight / count
            for part, weight, count in zip(self._parts, self._weights, frames, strict=True)
            for _ in range(part.episodes)
        )

    def length(self, index: int) -> int:
        """Observations of an episode, T + 1."""
        part, number = self._find(index)
        return part.length(number)

    @cached_property
    def digest(self) -> str:
        """sha256 of the content of all."""
        return storage.digest_bytes("\n".join(part.digest for part in self._parts).encode())

    def episode(self, index: int) -> Episode:
        """Read one episode; errors as `Dataset.episode`."""
        part, number = self._find(index)
        return _with_task(part.episode(number), part)

    def _first(self, index: int) -> Episode:
        """The first observation of an episode."""
        part, number = self._find(index)
        return _with_task(part._first(number), part)

    def _find(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < self.episodes:
            raise InvalidInputError(f"Episode {index} given; {self.name} has episodes 0 to {self.episodes - 1}.")
        return self._where[index]


def _with_task(episode: Episode, part: Dataset) -> Episode:
    """An episode that brings its sentence along, where its dataset has one for all."""
    return episode if episode.task else dataclasses.replace(episode, task=part.task)


def _compare(first: Dataset, other: Dataset) -> None:
    """Refuse datasets that do not hold the same kinds of values."""
    pairs: dict[str, list[Any]] = {
        "cameras": [[(c.key, *c.size) for c in d.cameras] for d in (first, other)],
        "actions": [list(d.action_spec.names) for d in (first, other)],
        "units of actions": [
            list(d.action_spec.units) for d in (first, other) if set(d.action_spec.units) != {"unknown"}
        ],
        "parts of actions": [d.action_spec.parts for d in (first, other)],
        "rates": [d.rate_hz for d in (first, other)],
        "numbers of proprioception": [d._first(0).proprio.shape[1] for d in (first, other) if d.episodes],
        "rules of success": [d.success_at for d in (first, other)],
    }
    for what, values in pairs.items():
        if any(value != values[0] for value in values):
            raise InvalidInputError(
                f"{first.name} and {other.name} have different {what}: {values[0]} and {values[-1]}. Datasets of one training "
                "must agree: choose with cameras=[...], action=[...] or proprio=[...], or train on one of them."
            )


def _widest(specs: Sequence[ActionSpec]) -> ActionSpec:
    """One spec with the widest limits."""
    low, high = zip(*(spec.low for spec in specs), strict=True), zip(*(spec.high for spec in specs), strict=True)
    return dataclasses.replace(specs[0], low=tuple(map(min, low)), high=tuple(map(max, high)))
