"""The recipes by name, and their configs from command-line overrides; Hydra and OmegaConf are used in this file and nowhere else."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldsim import storage
from worldsim.compute import find_device
from worldsim.data.lerobot.join import open_datasets
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.progress import Progress, ignore, silent
from worldsim.reason.train.grpo import TrainReasonGrpo, train_reason_grpo
from worldsim.reason.train.sft import TrainReasonSft, train_reason_sft
from worldsim.train.recipes.cost import TrainingPlan
from worldsim.train.recipes.policy import TrainPolicy, train_policy
from worldsim.train.recipes.world import TrainWorld, plan_world, train_world


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A config class, the function that runs it and returns the folder it made, and the one that says what it would cost.

    `says`: the first function takes `say`, which gets lines for people.
    """

    config: Any
    make: Callable[..., Path]
    says: bool = False
    plan: Callable[..., TrainingPlan] | None = None


RECIPES = {
    "world": Recipe(TrainWorld, train_world, says=True, plan=plan_world),
    "policy": Recipe(TrainPolicy, train_policy, says=True),
    "reason-sft": Recipe(TrainReasonSft, train_reason_sft),
    "reason-grpo": Recipe(TrainReasonGrpo, train_reason_grpo),
}


def run(what: str, config: Any, *, progress: Progress = silent, say: Callable[[str], None] = ignore) -> Path:
    """Run a recipe; `say` takes lines for people."""
    recipe = RECIPES[what]
    return recipe.make(config, progress=progress, **({"say": say} if recipe.says else {}))


def plan(what: str, config: Any, *, progress: Progress = silent) -> str:
    """What a recipe would choose and what it would cost, in lines for people; empty where it cannot say."""
    make = RECIPES[what].plan
    return "" if make is None else str(make(config, progress=progress))


def data_notes(config: Any) -> tuple[str, ...]:
    """What is left out of the data of a world or policies, joined or assumed, in sentences; errors as `open_datasets`."""
    if not isinstance(config, TrainWorld | TrainPolicy):
        return ()
    return open_datasets(config.data, cameras=config.cameras, action=config.action, proprio=config.proprio).notes


_MISSING = "???"
_OPEN = (".options.", ".overrides.")
"""Free-form mappings: keys inside them are added, not only changed."""


def resolve(what: str, overrides: Sequence[str], *, device: str | None = None) -> Any:
    """Compose a recipe's config from its defaults and ``key=value`` overrides.

    Args:
        what: Name of the recipe.
        overrides: Hydra overrides, for example ``data=data/push`` or ``predictor.schedule.steps=500``.
        device: Where to train, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None leaves it to the overrides.

    Returns:
        The recipe's frozen dataclass.

    Raises:
        UnknownNameError: A key does not exist; the closest is named.
        InvalidInputError: A value cannot be read, a required key is not given, or there is no such device.
    """
    kind = RECIPES[what].config
    if device is not None:
        overrides = [*overrides, _device_override(kind, device)]
    required = [name for name in ("data", "out") if name in kind.__dataclass_fields__]
    defaults = storage.to_json(kind(**dict.fromkeys(required, _MISSING)))
    _refuse_unknown(overrides, defaults)
    ConfigStore.instance().store(name=f"worldsim_{what}", node=OmegaConf.create(defaults))
    opened = [f"++{o}" if _is_open(o.split("=")[0]) and o[0] not in "+~" else o for o in overrides]
    try:
        with initialize(config_path=None, version_base="1.3"):
            composed = compose(config_name=f"worldsim_{what}", overrides=opened)
        values = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InvalidInputError(f"The settings could not be read: {str(error).splitlines()[0]}") from error
    absent = [name for name in required if isinstance(values, dict) and values.get(name) == _MISSING]
    if absent:
        raise InvalidInputError(f"Required but not given: {', '.join(f'{n}=...' for n in absent)}.")
    return storage.from_json(kind, values)


def _device_override(kind: Any, device: str) -> str:
    """The override that makes a recipe train on a device that is there."""
    find_device(device)
    if "device" in kind.__dataclass_fields__:
        return f"device={device}"
    if device not in ("cpu", "cuda"):
        raise InvalidInputError(
            f"This recipe trains on cpu or on cuda; got {device!r}. Choose among several GPUs with CUDA_VISIBLE_DEVICES."
        )
    return f"cpu={str(device == 'cpu').lower()}"


def to_yaml(config: Any) -> str:
    """A config as YAML, for people."""
    return OmegaConf.to_yaml(OmegaConf.create(storage.to_json(config)))


def _refuse_unknown(overrides: Sequence[str], defaults: dict[str, Any]) -> None:
    """Name the closest key before Hydra complains in its own words."""
    known = set(_keys(defaults))
    for override in overrides:
        if "=" not in override:
            raise InvalidInputError(f"Settings are key=value; got {override!r}.")
        key = override.split("=", 1)[0].lstrip("+~")
        if key not in known and not _is_open(key):
            raise unknown_name("setting", key, known)


def _is_open(key: str) -> bool:
    """Whether a key lies inside a free-form mapping."""
    return any(part in f".{key}" for part in _OPEN)


def _keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        found.append(prefix + name)
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{name}.")
    return found
