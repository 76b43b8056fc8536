"""Pretrained models that a checkpoint names (backbones, tokenizers): only from the hub's cache, and only where they bring no code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldsim.errors import InvalidInputError, StorageError
from worldsim.hub import cached_folder
from worldsim.json_values import shown
from worldsim.storage import read_json

BACKBONES = {"smolvla": ("vlm_model_name",), "multi_task_dit": ("vision_encoder_name", "text_encoder_name")}
"""Fields of a type's config that name models of the hub; networks are built from their configs."""
WEIGHED = frozenset({"vision_encoder_name", "text_encoder_name"})
"""Of these the weights are read too, before the checkpoint's own take their place."""
_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


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
