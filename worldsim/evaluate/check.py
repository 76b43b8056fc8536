"""What a world folder says of its validity, and the same measured again on other recordings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from worldsim import storage
from worldsim.core import STATE, TRUE_STATE
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError
from worldsim.evaluate.validity import Measured, measure_validity
from worldsim.progress import Progress, silent
from worldsim.validity.validity import Validity
from worldsim.worlds import load_world, world_folder, world_spec
from worldsim.worlds.latent import LearnedWorld

_MUCH = 0.05
"""Share of moments outside of the training data that is worth a word."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """What is known of a world.

    Attributes:
        validity: What its folder says, or what was measured now.
        picture: Truth above prediction as PNG, where it was measured now and the world draws.
        remarks: What to know of the recordings that it was measured on.
    """

    validity: Validity
    picture: bytes | None = None
    remarks: tuple[str, ...] = ()


def check_world(
    name: str, data: str = "", *, write: bool = False, device: str = "cpu", progress: Progress = silent
) -> Checked:
    """Read the validity of a world, or measure it on recordings.

    Args:
        name: A world folder or a shipped name.
        data: Recordings to measure on; empty to read what the folder says. Of those that the world was trained on, only
            the episodes that were held out are used.
        write: Keep what was measured in the folder's manifest.
        device: Where to compute.
        progress: Called before and after measuring.

    Raises:
        UnknownNameError: No such world.
        StorageError: The world or the recordings cannot be read, or the folder cannot be written.
        InvalidInputError: Nothing was measured and no recordings are given, or the recordings do not fit the world.
    """
    folder = world_folder(name)
    if not data:
        validity = world_spec(name).validity
        if validity is None or write:
            why = "There is nothing to write without recordings" if write else f"Nothing was measured of {name} yet"
            raise InvalidInputError(
                f"{why}. Measure it on some that it was not trained on: worldsim check {name} --data RECORDINGS --write"
            )
        return Checked(validity=validity)
    manifest = storage.read_json(folder / storage.MANIFEST)
    dataset = _open(data, manifest)
    world = load_world(name, device=device)
    _require_fit(world, dataset, data)
    episodes, remarks = _choose(dataset, manifest, name)
    progress("measuring", 0, 1, {})
    coverage = None if world.spec.validity is None else world.spec.validity.coverage
    measured = measure_validity(world, episodes, dataset, coverage=coverage)
    remarks += _remark_on_coverage(measured)
    progress("measuring", 1, 1, {})
    if write:
        storage.write_json(folder / storage.MANIFEST, {**manifest, "validity": storage.to_json(measured.validity)})
    return Checked(validity=measured.validity, picture=measured.picture, remarks=tuple(remarks))


def _open(data: str, manifest: Mapping[str, Any]) -> Dataset:
    """The recordings, with the features that the world was trained on."""
    config = manifest.get("config")
    asked = config if isinstance(config, Mapping) else {}
    cameras, action, proprio = (
        tuple(map(str, asked[k])) if isinstance(asked.get(k), list) else () for k in ("cameras", "action", "proprio")
    )
    return open_datasets(data, cameras=cameras, action=action, proprio=proprio)


def _require_fit(world: LearnedWorld, dataset: Dataset, data: str) -> None:
    """Refuse recordings that another world is for."""
    spec, theirs = world.spec, dataset.action_spec
    sides = [
        ("actions", spec.action.names, theirs.names),
        ("cameras", [(c.key, c.size) for c in spec.cameras], [(c.key, c.size) for c in dataset.cameras]),
    ]
    for what, own, other in sides:
        if own and list(own) != list(other):
            raise InvalidInputError(
                f"{data} does not fit this world: its {what} are {_listed(other)}, the world's {_listed(own)}. Give recordings "
                "of the same robot and cameras, at the same size."
            )
    first = dataset.starts(dataset.used[:1]).select(torch.zeros(1, dtype=torch.int64))
    if first[STATE].shape[1] != spec.proprio_dim:
        raise InvalidInputError(
            f"{data} does not fit this world: its proprioception has {first[STATE].shape[1]} numbers, the world's "
            f"{spec.proprio_dim}."
        )
    if TRUE_STATE in spec.observes and TRUE_STATE not in first:
        raise InvalidInputError(f"{data} does not fit this world, which begins from true states: it holds none.")


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def _choose(dataset: Dataset, manifest: Mapping[str, Any], name: str) -> tuple[list[int], list[str]]:
    """The episodes to measure on; of those that the world was trained on the ones that were held out."""
    if manifest.get("data_digest") != dataset.digest:
        return dataset.used, []
    held_out = manifest.get("held_out")
    if not isinstance(held_out, list) or not held_out:
        raise InvalidInputError(
            f"{name} was trained on these recordings and does not say which of them were held out. Record others."
        )
    return [int(i) for i in held_out], [f"{name} was trained on these recordings; only those held out are used."]


def _remark_on_coverage(measured: Measured) -> list[str]:
    """How much of the recordings lies where the world was not trained."""
    if measured.outside is None or measured.outside <= _MUCH:
        return []
    return [
        f"{100 * measured.outside:.0f} % of these moments lie where the world was hardly trained (1 % of its own data do): its "
        "errors on recordings like its own may be smaller."
    ]
