"""Folders on the Hugging Face hub: models ``hf://OWNER/NAME``, datasets ``hf://datasets/OWNER/NAME``, optionally ``@REVISION``.

Nothing is looked for on the hub unless it is named so. What is downloaded is kept in the hub's own cache. A dataset that is
there, or in LeRobot's cache, is not asked for again.
"""

import os
from contextlib import suppress
from pathlib import Path

from worldsim.errors import InvalidInputError, StorageError

PREFIX, DATASETS = "hf://", "datasets/"
_DATASET_INFO = "meta/info.json"


def local_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a path, or of a name on the hub, which is downloaded unless it is in the cache.

    Args:
        name: A path, ``hf://OWNER/NAME``, or ``hf://datasets/OWNER/NAME``, optionally with ``@`` and a branch, tag or commit.

    Raises:
        InvalidInputError: A name on the hub that reads otherwise.
        StorageError: It is not on the hub, or the hub cannot be reached and the cache lacks it.
    """
    text = os.fspath(name)
    if not text.startswith(PREFIX):
        return Path(text).expanduser()
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    is_dataset, repository = repository.startswith(DATASETS), repository.removeprefix(DATASETS)
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise InvalidInputError(
            f"A name on the hub reads {PREFIX}OWNER/NAME or {PREFIX}{DATASETS}OWNER/NAME, and may end in @REVISION; got "
            f"{text!r}."
        )
    if is_dataset:
        return _dataset(repository, revision or None)
    try:
        return _download(repository, revision or None, local=False)
    except StorageError as error:
        try:
            return _download(repository, revision or None, local=True)
        except StorageError:
            raise error from None


def _dataset(repository: str, revision: str | None) -> Path:
    """A dataset in LeRobot's or the hub's cache, else from the hub."""
    cache = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "lerobot"
    plain = Path(os.environ.get("HF_LEROBOT_HOME") or cache) / repository
    if revision is None and (plain / _DATASET_INFO).is_file():
        return plain
    with suppress(StorageError):
        found = _download(repository, revision, local=True, kind="dataset")
        if (found / _DATASET_INFO).is_file():
            return found
    return _download(repository, revision, local=False, kind="dataset")


def cached_folder(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository, ``OWNER/NAME``, in the hub's cache; the hub is not asked.

    Raises:
        InvalidInputError: No name on the hub.
        StorageError: The cache lacks it.
    """
    return _download(repository, revision, local=True)


def _download(repository: str, revision: str | None, *, local: bool, kind: str = "model") -> Path:
    """The snapshot of a repository, from the hub or from its cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name = f"{PREFIX}{DATASETS if kind == 'dataset' else ''}{repository}"
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, local_files_only=local))
    except HFValidationError as error:
        raise InvalidInputError(f"{name!r} is no name on the hub: {error}.") from error
    except (OSError, RuntimeError) as error:  # the hub's own errors are OSErrors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(
            f"{name} could not be had from the hub: {reason[0]} Check the name and the network."
        ) from error
