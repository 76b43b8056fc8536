"""LoRA adapters (PEFT) put onto the network that they adapt, from settings that are read, never from code that they name."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from worldsim.errors import StorageError, missing_extra
from worldsim.json_values import shown
from worldsim.policies.discovery import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from worldsim.storage import read_json

_TAKEN = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "fan_in_fan_out",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
)
"""Settings that decide what an adapter computes."""
_UNUSED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
"""Settings that do not: of training, of provenance, or of what is switched off."""


def merge_adapter(path: Path, network: Any) -> Any:
    """Put the LoRA adapter of a folder onto a network, and merge it into the weights.

    Args:
        path: The adapter's folder.
        network: The base, a LeRobot policy with its weights.

    Returns:
        The network with the adapter merged in.

    Raises:
        StorageError: It is no LoRA adapter, has settings that are not known here, or does not fit the network.
        MissingExtraError: PEFT is not installed.
    """
    settings = read_json(path / ADAPTER_CONFIG)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        raise StorageError(
            f"{path} holds a {shown(kind)} adapter; LORA is read here. Merge it into its base and save that."
        )
    odd = sorted(k for k, v in settings.items() if k not in _TAKEN and k not in _UNUSED and v)
    if odd:
        raise StorageError(
            f"{path / ADAPTER_CONFIG} sets {', '.join(odd[:5])}, which is not read here. Merge the adapter into its base and "
            "save that."
        )
    try:
        import peft
    except ModuleNotFoundError as error:
        raise missing_extra("peft", "lerobot") from error
    try:
        taken = {key: settings[key] for key in _TAKEN if settings.get(key) is not None}
        model = peft.PeftModel(network, peft.LoraConfig(**taken))
        found = peft.set_peft_model_state_dict(model, load_file(path / ADAPTER_WEIGHTS))
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, OSError, SafetensorError) as error:
        raise StorageError(f"The adapter in {path} does not fit its base: {error}") from error
    own = set(peft.get_peft_model_state_dict(model))
    missing = sorted(own - set(load_file(path / ADAPTER_WEIGHTS)))
    if missing or found.unexpected_keys:
        raise StorageError(
            f"The adapter in {path} does not fit its base: missing {missing[:5]}, unexpected {found.unexpected_keys[:5]}."
        )
    return model.merge_and_unload()
