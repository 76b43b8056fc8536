"""Reading a LeRobot checkpoint folder strictly and offline: configuration, network, processors.

LeRobot's own loader ignores missing weights, downloads backbone weights that the checkpoint holds anyway, and looks on
the hub for files that are missing; this one does none of that. No code of a folder runs: types, processor steps and
settings are lists of what is known.
"""

import copy
import dataclasses
import importlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

from worldsim.errors import InvalidInputError, StorageError, missing_extra
from worldsim.hub import cached_folder
from worldsim.integrations.lerobot.adapter import merge_adapter
from worldsim.integrations.lerobot.statistics import check_statistics
from worldsim.json_values import shown
from worldsim.policies.discovery import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LEROBOT_TYPES, PICKLES, adapter_base
from worldsim.storage import CONFIG, WEIGHTS, check_sizes, read_json

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
STEPS = (
    "absolute_actions_processor",
    "device_processor",
    "image_crop_resize_processor",
    "normalizer_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "pi0_new_line_processor",
    "relative_actions_processor",
    "rename_observations_processor",
    "smolvla_new_line_processor",
    "to_batch_processor",
    "tokenizer_processor",
    "unnormalizer_processor",
)
"""The processor steps that are loaded. Others may run code that the folder names (``trust_remote_code``)."""
BACKBONES = {"smolvla": ("vlm_model_name",), "multi_task_dit": ("vision_encoder_name", "text_encoder_name")}
"""Fields of a type's config that name models of the hub; networks are built from their configs."""
WEIGHED = frozenset({"vision_encoder_name", "text_encoder_name"})
"""Of these the weights are read too, before the checkpoint's own take their place."""
_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_MAX_STEPS = 4096  # observations or actions: chunks, histories and horizons are far shorter
_COUNTED = ("chunk_size", "n_action_steps", "n_obs_steps", "horizon")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds, ready to run; the types are LeRobot's."""

    path: Path
    kind: str  # LeRobot's policy type, for example "act"
    config: Any  # PreTrainedConfig
    network: Any  # PreTrainedPolicy, in evaluation mode on config.device
    before: Any  # PolicyProcessorPipeline: observation batch -> what the network reads
    after: Any  # PolicyProcessorPipeline: actions as the network gives them -> physical units


def read_checkpoint(path: Path, *, device: torch.device | str | None = None) -> Checkpoint:
    """Load a LeRobot checkpoint folder (``.../pretrained_model``).

    Args:
        path: The folder.
        device: Where the network computes; None leaves it to the checkpoint.

    Raises:
        StorageError: A file is missing or unreadable, the type is unknown, the weights do not fit, statistics of normalisers are
            missing or wrong, a pretrained model that it names or the base of an adapter is not at hand, or it may run code.
        MissingExtraError: LeRobot, or a library that this type needs, is not installed.
    """
    _check_files(path)
    with offline():
        config = _config(path)
        if device is not None:
            config.device = str(device)
        _settle(path, config)
        network = _network(path, config)
        before, after = _processors(path, config)
    check_statistics(path, config, before=before, after=after)
    return Checkpoint(path=path, kind=config.type, config=config, network=network, before=before, after=after)


def _settle(path: Path, config: Any) -> None:
    """Set what would download, compile or look elsewhere."""
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # else torchvision downloads what model.safetensors overwrites
    if hasattr(config, "compile_model"):
        config.compile_model = False
    if hasattr(config, "load_vlm_weights"):
        config.load_vlm_weights = False  # model.safetensors holds them
    for field in BACKBONES.get(config.type, ()):
        source = path / CONFIG
        setattr(config, field, str(local_model(getattr(config, field), source=source, weights=field in WEIGHED)))


def _processors(path: Path, config: Any) -> tuple[Any, Any]:
    """LeRobot's pipelines in front of and behind the network."""
    overrides = {"device_processor": {"device": config.device}}
    for step in _steps(path / PROCESSORS[0]):
        if step["registry_name"] == "tokenizer_processor":
            name = step.get("config", {}).get("tokenizer_name")
            found = local_model(name, source=path / PROCESSORS[0])
            overrides["tokenizer_processor"] = {"tokenizer_name": str(found)}
    try:
        before, after = lerobot("policies.factory").make_pre_post_processors(
            config, pretrained_path=str(path), preprocessor_overrides=overrides
        )
    except Exception as error:
        raise StorageError(f"The processors in {path} could not be loaded: {type(error).__name__}: {error}") from error
    return before, after


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
    adapter = (path / ADAPTER_CONFIG).is_file()
    wanted = [CONFIG, ADAPTER_WEIGHTS if adapter else WEIGHTS, *PROCESSORS]
    missing = [name for name in wanted if not (path / name).is_file()]
    for name in PROCESSORS:
        steps = [] if name in missing else _steps(path / name)
        missing += [s["state_file"] for s in steps if "state_file" in s and not (path / s["state_file"]).is_file()]
    if missing:
        raise StorageError(
            f"{path} is no complete LeRobot checkpoint: {', '.join(missing)} missing. Normalisation lives in the "
            "processor files; checkpoints older than LeRobot 0.4 have none: convert them with `python -m "
            "lerobot.processor.migrate_policy_normalization --pretrained-path ...`."
        )
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise StorageError(
            f"{path} holds the pickle {', '.join(pickled[:3])}, which runs code when it is read. Nothing here reads it; take it "
            "out of the folder."
        )
    _check_numbers(path / CONFIG)


def _steps(path: Path) -> list[dict[str, Any]]:
    """The steps of a processor file, each of a kind that is loaded here.

    Raises:
        StorageError: The file does not list steps, or one of them may run code.
    """
    content = read_json(path)
    steps = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        raise StorageError(f"{path}: 'steps' is a list of processor steps; got {shown(steps)}. Restore the file.")
    for step in steps:
        kind, state = step.get("registry_name"), step.get("state_file", "x")
        if not isinstance(kind, str) or not kind:
            raise StorageError(
                f"{path} names a processor step by import path ({shown(step.get('class'))}); only steps registered with "
                "LeRobot's ProcessorStepRegistry are loaded. Register it and save the checkpoint again."
            )
        if kind not in STEPS:
            raise StorageError(
                f"{path} has the processor step {kind!r}, which is not loaded from a folder, since it may run code that "
                f"the folder names. Loaded are: {', '.join(STEPS)}. Wrap the policy as a `module:function` policy."
            )
        if not isinstance(settings := step.get("config", {}), dict):
            raise StorageError(f"{path}: 'config' of {kind} is a mapping; got {shown(settings)}. Restore the file.")
        _refuse_folders(settings, path)
        if not isinstance(state, str) or Path(state).name != state:
            raise StorageError(f"{path}: 'state_file' is a file beside it; got {shown(state)}. Restore the file.")
    return steps


def _refuse_folders(settings: Any, path: Path) -> None:
    """Refuse settings ``..._name`` of models and tokenizers, at any depth, that name a folder, since it may hold code."""
    waiting: list[Any] = [settings]
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for key, name in value.items() if isinstance(value, dict) else ():
            if key.endswith("_name") and isinstance(name, str) and name and _on_disk(name):
                raise StorageError(
                    f"{path} names a model by a folder of this machine, {key} = {shown(name)}, which may hold code. Name one "
                    "by its hub id."
                )


def _on_disk(name: str) -> bool:
    """Whether a name is that of a file or folder here."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return False


def _check_numbers(path: Path) -> None:
    """Refuse counts that no policy has, before LeRobot allocates memory for them."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise StorageError(f"{path} holds no configuration but {shown(config)}. Restore the file.")
    check_sizes(config, source=path)
    _refuse_folders(config, path)
    for name in _COUNTED:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_STEPS:
            raise StorageError(f"{path}: {name} is a number in 1..{_MAX_STEPS}; got {shown(value)}. Restore the file.")


def _config(path: Path) -> Any:
    """Parse config.json with LeRobot's own classes."""
    configs = lerobot("configs.policies")
    lerobot("policies.factory")  # registers the policy types
    known, kind = configs.PreTrainedConfig.get_known_choices(), str(read_json(path / CONFIG).get("type"))
    if kind in known and known[kind].__module__.startswith("lerobot.") and kind not in LEROBOT_TYPES:
        raise StorageError(
            f"{path} holds a {kind!r} policy, which is not built from a folder, since it may run code that the folder names. "
            f"Built are: {', '.join(LEROBOT_TYPES)}. Wrap the policy as a `module:function` policy."
        )
    try:
        return configs.PreTrainedConfig.from_pretrained(str(path))
    except Exception as error:
        raise StorageError(f"{path / CONFIG} is not a configuration that LeRobot reads: {error}") from error


def _network(path: Path, config: Any) -> Any:
    """Build the network and fill in every weight; an adapter goes onto its base."""
    weights = (adapter_base(path) or path) / WEIGHTS
    try:
        cls = lerobot("policies.factory").get_policy_class(config.type)
        check_weights(cls, config, weights)
        network = cls(config)
    except StorageError:
        raise
    except ImportError as error:
        named = next((name for name in ("diffusers", "num2words") if name in str(error)), error.name or str(error))
        raise missing_extra(named, "lerobot") from error
    except Exception as error:
        raise StorageError(f"The {config.type!r} policy in {path} could not be built: {error}") from error
    try:
        load_model(network, str(weights), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise StorageError(f"The weights in {weights} do not fit the {config.type!r} policy: {error}") from error
    if (path / ADAPTER_CONFIG).is_file():
        network = merge_adapter(path, network)
    return network.to(config.device).eval()


def check_weights(cls: Any, config: Any, weights: Path) -> None:
    """Compare names and shapes of the stored weights with the network's, before anything is allocated for it.

    Raises:
        StorageError: They differ, or the file cannot be read.
    """
    try:
        with safe_open(str(weights), framework="pt") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(f"The weights in {weights} do not fit the {config.type!r} policy: {error}") from error
    shadow = copy.deepcopy(config)
    shadow.device = "meta"
    if config.type in BACKBONES and WEIGHED & set(BACKBONES[config.type]):
        return  # such a network reads weights while it is built, and cannot be built without memory
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        expected = cls(shadow).state_dict(keep_vars=True)
    alike: dict[int, list[str]] = {}
    for key, value in expected.items():
        alike.setdefault(id(value), []).append(key)  # of tied weights one is stored
    missing = sorted(keys[0] for keys in alike.values() if not any(key in stored for key in keys))
    surplus = sorted(stored.keys() - expected.keys())
    shapes = sorted(key for key in stored.keys() & expected.keys() if stored[key] != tuple(expected[key].shape))
    if missing or surplus or shapes:
        raise StorageError(
            f"The weights in {weights} do not fit the {config.type!r} policy: missing {missing[:5]}, unexpected {surplus[:5]}, "
            f"of another shape {shapes[:5]} ({len(stored)} stored, {len(expected)} expected). Restore the file."
        )


@contextmanager
def offline() -> Iterator[None]:
    """Inside this context nothing is asked of the hub, whatever the environment says."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def local_model(name: str, *, source: Path, weights: bool = False) -> Path:
    """The folder of a model that a file of a checkpoint names.

    Args:
        name: Its name on the hub.
        source: The file, for messages.
        weights: Its weights will be read, too.

    Raises:
        StorageError: No name on the hub, not in the hub's cache, or it brings code or pickles.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StorageError(f"{source} names a pretrained model {shown(name)}, which is no name on the hub. Restore it.")
    try:
        folder = cached_folder(name)
    except (StorageError, InvalidInputError) as error:
        raise StorageError(
            f"{source} names the pretrained model {name!r}, which the hub's cache lacks; nothing is fetched unasked. If you "
            f"trust it, fetch it once: `hf download {name}`."
        ) from error
    for settings in (folder / name for name in _SETTINGS):
        found = read_json(settings) if settings.is_file() else {}
        code = [key for key in _CODE if isinstance(found, dict) and found.get(key)]
        if code:
            raise StorageError(f"The pretrained model {name!r} brings code of its own ({code[0]} in {settings.name}).")
    if weights and not any(folder.glob("*.safetensors")):
        raise StorageError(
            f"The pretrained model {name!r} has no safetensors here; other formats run code and are not read."
        )
    return folder
