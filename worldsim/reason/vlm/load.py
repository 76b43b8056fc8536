"""Loading and saving an image-text-to-text model of transformers, offline and strictly."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from worldsim import storage
from worldsim.errors import StorageError, missing_extra
from worldsim.json_values import shown
from worldsim.reason.vlm.encode import FrameMode

KIND = "vlm"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICTURES = ("processor_config.json", "preprocessor_config.json")
_DECIDING = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "rescale_factor", "size")
_INCIDENTAL = ("_name_or_path", "transformers_version", "architectures", "dtype")
_MOST_PIXELS, _LARGEST_PATCH = 2**32, 1024
_WORDS = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_model(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load model and processor.

    Args:
        folder: With config.json, safetensors weights, processor and tokenizer, as `save_pretrained` of transformers
            leaves them; a manifest is checked where there is one.
        dtype: Of the weights in memory.

    Raises:
        MissingExtraError: transformers or torchvision is not installed.
        StorageError: A part is missing, a key of the weights too, or a file cannot be read.
    """
    path = Path(folder)
    _check_files(path)
    if (path / storage.MANIFEST).exists():
        storage.read_manifest(path, kind=KIND)
    try:
        import torchvision  # noqa: F401  (its absence would surface deep inside transformers)
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "transformers", "reason") from error

    def weights() -> Any:
        """The model, and what its files lacked or held too much."""
        return AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
        )

    model, info = _read_part(path, "model", weights)
    surplus = info.get("unexpected_keys", ())
    missing, shapes = sorted(info["missing_keys"]), sorted(str(k) for k in info.get("mismatched_keys", ()))
    if missing or shapes:
        raise StorageError(
            f"The weights in {path} do not fill a {type(model).__name__}: missing {missing[:5]}, of another shape "
            f"{shapes[:5]}, not asked for {sorted(surplus)[:5]}. Restore the folder, or correct its config.json."
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    processor = _read_part(path, "processor", lambda: AutoProcessor.from_pretrained(path, **options))
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise StorageError(f"The processor in {path} is a {type(processor).__name__} without images or without text.")
    _check_processor(path, model, processor)
    return model.eval(), processor


def trained_shown(folder: str | Path) -> FrameMode:
    """How a model was shown clips when it was trained, as its manifest says; images where it says nothing.

    Raises:
        StorageError: The manifest cannot be read.
    """
    path = Path(folder) / storage.MANIFEST
    manifest = storage.read_json(path) if path.exists() else None
    return "video" if isinstance(manifest, dict) and manifest.get("shown") == "video" else "images"


def _check_files(path: Path) -> None:
    """Raise for the first part that is missing."""
    if not path.is_dir():
        raise StorageError(f"There is no model folder at {path}. Check the path; nothing is downloaded.")
    if not (path / storage.CONFIG).is_file():
        raise StorageError(f"{path} lacks config.json. Give the folder of a transformers image-text-to-text model.")
    for names, what in ((_WEIGHTS, "weights"), (_PICTURES, "image processor"), (_WORDS, "tokenizer")):
        if not any((path / name).is_file() for name in names):
            raise StorageError(f"{path} lacks its {what}: {' or '.join(names)}. Copy it there from the original model.")


def _check_processor(path: Path, model: Any, processor: Any) -> None:
    """Refuse what the processor's files say of pictures where no picture could be shown by it."""
    image = processor.image_processor
    size = {name: getattr(image.size, name, None) for name in ("shortest_edge", "longest_edge")}
    if isinstance(image.size, Mapping):
        size = {name: image.size.get(name) for name in size}
    wrong = [f"{n} {shown(v)}" for n, v in size.items() if not _is_count(v, most=_MOST_PIXELS)]
    for name in ("patch_size", "merge_size", "temporal_patch_size"):
        value = getattr(image, name, None)
        wrong += [] if _is_count(value, most=_LARGEST_PATCH) else [f"{name} {shown(value)}"]
    for name in ("image_mean", "image_std"):
        value = getattr(image, name, None)
        fits = isinstance(value, list | tuple) and len(value) == 3 and all(_is_finite(v) for v in value)
        wrong += [] if fits else [f"{name} {shown(value)}"]
    for name in ("do_resize", "do_rescale", "do_normalize"):
        value = getattr(image, name, None)
        wrong += [] if isinstance(value, bool) else [f"{name} {shown(value)}"]
    if not _is_finite(image.rescale_factor) or not image.rescale_factor > 0:
        wrong.append(f"rescale_factor {shown(image.rescale_factor)}")
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    if model.config.image_token_id != token:
        wrong.append(f"image_token_id {shown(model.config.image_token_id)} (the tokenizer has {token})")
    if wrong:
        raise StorageError(
            f"The processor in {path} cannot show pictures to its model: {', '.join(wrong)}. Restore it."
        )


def _is_count(value: object, *, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_part(path: Path, what: str, read: Callable[[], Any]) -> Any:
    """Read a part; every failure inside is reported as the folder's."""
    try:
        with quiet_transformers():
            return read()
    except Exception as error:  # transformers checks values with errors of its own
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(f"The {what} in {path} could not be read: {first[0]}. Restore the folder.") from error


def save_model(
    path: Path, model: Any, processor: Any, *, manifest: dict[str, Any], files: Mapping[str, bytes] | None = None
) -> None:
    """Write model and processor, and further files by name, as one atomic folder with a manifest."""
    with storage.folder_writer(path) as staging, quiet_transformers():
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        for name, data in (files or {}).items():
            storage.write_bytes(staging / name, data)
        storage.write_json(staging / storage.MANIFEST, {**manifest, "kind": KIND})


def model_digest(model: Any, processor: Any) -> str:
    """Digest of everything that a model's answers depend on: weights, architecture, tokenizer, template, picture settings.

    It does not depend on the folder it was loaded from or on whether it was saved at all.
    """
    sha = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    image, words = processor.image_processor, processor.tokenizer
    picture = {k: getattr(image, k, None) for k in _DECIDING}
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    for part in (config, picture, words.get_vocab(), words.chat_template, processor.chat_template):
        sha.update(json.dumps(part, sort_keys=True, default=str).encode())
    return sha.hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal; what they say is in the errors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing", FutureWarning)  # trl and peft ask for it
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
