"""Reading a LeRobot checkpoint folder strictly and offline: configuration, network, processors.

LeRobot's own loader ignores missing weights, downloads backbone weights that the checkpoint holds anyway, and looks on
the hub for files that are missing; this one does none of that. Not for running it
(`worldsim.integrations.lerobot.policies`).
"""

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model

from worldsim.errors import StorageError, missing_extra
from worldsim.storage import CONFIG, WEIGHTS, read_json

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
Processor = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds, ready to run; the types are LeRobot's."""

    path: Path
    kind: str  # LeRobot's policy type, for example "act"
    config: Any  # PreTrainedConfig
    network: Any  # PreTrainedPolicy, in evaluation mode on config.device
    before: Processor  # observation batch -> what the network reads
    after: Processor  # actions as the network gives them -> physical units


def read_checkpoint(path: Path) -> Checkpoint:
    """Load a LeRobot checkpoint folder (``.../pretrained_model``).

    Raises:
        StorageError: A file is missing or unreadable, the type is unknown, or the weights do not fit.
        MissingExtraError: LeRobot, or a library that this type needs, is not installed.
    """
    _check_files(path)
    config = _config(path)
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # else torchvision downloads what model.safetensors overwrites
    network = _network(path, config)
    overrides = {"device_processor": {"device": config.device}}
    try:
        before, after = lerobot("policies.factory").make_pre_post_processors(
            config, pretrained_path=str(path), preprocessor_overrides=overrides
        )
    except Exception as error:
        raise StorageError(f"The processors in {path} could not be loaded: {type(error).__name__}: {error}") from error
    return Checkpoint(path=path, kind=config.type, config=config, network=network, before=before, after=after)


def lerobot(module: str) -> Any:
    """Import a module of LeRobot, without the warnings of its own imports.

    Raises:
        MissingExtraError: LeRobot is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"lerobot.{module}")
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "lerobot", "lerobot") from error


def _check_files(path: Path) -> None:
    """Every file that the folder's own JSON names must be there, before anything looks for it on the hub."""
    wanted = [CONFIG, WEIGHTS, *PROCESSORS]
    missing = [name for name in wanted if not (path / name).is_file()]
    for name in PROCESSORS:
        content = read_json(path / name) if name not in missing else {}
        steps = content.get("steps", []) if isinstance(content, dict) else []
        states = [step["state_file"] for step in steps if step.get("state_file")]
        missing += [state for state in states if not (path / state).is_file()]
        foreign = [str(step.get("class")) for step in steps if not step.get("registry_name")]
        if foreign:
            raise StorageError(
                f"{path / name} names processor steps by import path ({', '.join(foreign)}); only steps registered "
                "with LeRobot's ProcessorStepRegistry are loaded. Register them and save the checkpoint again."
            )
    if missing:
        raise StorageError(
            f"{path} is no complete LeRobot checkpoint: {', '.join(missing)} missing. Normalisation lives in the "
            "processor files; checkpoints older than LeRobot 0.4 have none: convert them with `python -m "
            "lerobot.processor.migrate_policy_normalization --pretrained-path ...`."
        )


def _config(path: Path) -> Any:
    """Parse config.json with LeRobot's own classes."""
    configs = lerobot("configs.policies")
    lerobot("policies.factory")  # registers the policy types
    try:
        return configs.PreTrainedConfig.from_pretrained(str(path))
    except Exception as error:
        raise StorageError(f"{path / CONFIG} is not a configuration that LeRobot reads: {error}") from error


def _network(path: Path, config: Any) -> Any:
    """Build the network and fill in every weight."""
    try:
        network = lerobot("policies.factory").get_policy_class(config.type)(config)
    except ImportError as error:
        if "diffusers" in str(error):
            raise missing_extra("diffusers", "lerobot") from error
        raise missing_extra(error.name or str(error), "lerobot") from error
    except Exception as error:
        raise StorageError(f"The {config.type!r} policy in {path} could not be built: {error}") from error
    try:
        load_model(network, str(path / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise StorageError(f"The weights in {path / WEIGHTS} do not fit the {config.type!r} policy: {error}") from error
    return network.to(config.device).eval()
