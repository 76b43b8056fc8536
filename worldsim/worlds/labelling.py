"""What a world folder says of itself: its labels, and how its data was recorded; loads no weights."""

import dataclasses
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInputError, StorageError
from worldsim.json_values import from_json
from worldsim.stats.judge_rates import JudgeRates, Proportion
from worldsim.storage import MANIFEST, read_json
from worldsim.worlds import world_folder, world_spec

RARE = 0.02
"""Share of frames below which a label is called rare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """How the data of a world was recorded, as far as its manifest says. These names come from a file: import none of them.

    Attributes:
        env: What the environment was called; empty where `WorldSpec.task_id` says it, or nothing does.
        success: The success rule; empty where success is what the environment reported, or labels.
    """

    env: str = ""
    success: str = ""


def recorded_of(name: str | Path) -> Recorded:
    """How the data of a world was recorded.

    Args:
        name: A world folder or a shipped name.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: Its manifest is missing or corrupt.
    """
    said = _entry(name, "recorded")
    return Recorded(**{field.name: str(said.get(field.name, "")) for field in dataclasses.fields(Recorded)})


def describe_labels(name: str | Path) -> str:
    """What the success of a world rests on, in a sentence or a few lines.

    Args:
        name: A world folder or a shipped name.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: Its config or manifest is missing or corrupt.
    """
    if "success" in world_spec(name).unlabelled:
        return (
            "No success labels: this world cannot say which episodes are solved, and triage will not rank by it. Label "
            "some episodes (worldsim label DATASET) and train again with labels=FILE, or give triage a judge (--judge)."
        )
    said = _entry(name, "labels")
    if not said:
        return f"Success labels: those of the data.{_describe_positives(name)}"
    counts = ", ".join(f"{said.get(kind, 0)} {kind}" for kind in ("solved", "failed", "unclear"))
    sources = f"; {said['sources']} of them by sources, not people" if said.get("sources") else ""
    lines = [f"Success labels of people: {counts}{sources}.", *map(str, said.get("agreements", ()))]
    rates = label_rates(name)
    if rates is None:
        return "\n".join(
            [*lines, "Too few of each outcome to measure what they are worth: label at least two of each."]
        )
    right = Proportion(hits=rates.solved_right + rates.unsolved_right, count=rates.solved + rates.unsolved)
    lines.append(f"Heads trained without them judge as labelled: {right}; balanced accuracy {rates.balanced}")
    lines += [f"  of the solved: {rates.sensitivity}", f"  of the failed: {rates.specificity}"]
    return "\n".join(lines)


def _describe_positives(name: str | Path) -> str:
    """How much of a world's data is solved or nearly, and what to do where that is rare; empty where it does not say."""
    said = {k: v for k, v in _entry(name, "positives").items() if isinstance(v, int | float)}
    words = {"success": "solved", "progress": "with progress above one half"}
    parts = [f"{100 * said[kind]:.2g} % of frames are {text}" for kind, text in words.items() if kind in said]
    if not parts:
        return ""
    advice = (
        " That is rare, and what is learned of it is little: add recordings that succeed (data=[a,b] weights=[1,1])."
        if min(said.values()) < RARE
        else ""
    )
    return f" {'; '.join(parts)}.{advice}"


def label_rates(name: str | Path) -> JudgeRates | None:
    """How often heads were right on labelled episodes that they did not learn from; None where that is not known.

    Args:
        name: A world folder or a shipped name.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: Its manifest is missing or corrupt.
    """
    found = _entry(name, "labels").get("rates")
    try:
        return None if found is None else from_json(JudgeRates, found)
    except (InvalidInputError, LookupError) as error:
        raise StorageError(f"The manifest of {name} holds wrong rates of its labels ({error}). Restore it.") from error


def _entry(name: str | Path, key: str) -> dict[str, Any]:
    """An entry of a world's manifest; empty where it has none."""
    manifest = read_json(world_folder(name) / MANIFEST)
    found = manifest.get(key) if isinstance(manifest, dict) else None
    return found if isinstance(found, dict) else {}
