"""Folders on the Hugging Face hub, named ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

Nothing is looked for on the hub unless it is named so. What is downloaded is kept in the hub's own cache.
"""

import os
from pathlib import Path

from worldsim.errors import InvalidInputError, StorageError

PREFIX = "hf://"


def local_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a path, or of a name on the hub, which is downloaded unless it is in the cache.

    Args:
        name: A path, or ``hf://OWNER/NAME``, optionally with ``@`` and a branch, tag or commit.

    Raises:
        InvalidInputError: A name on the hub that reads otherwise.
        StorageError: It is not on the hub, or the hub cannot be reached and the cache lacks it.
    """
    text = os.fspath(name)
    if not text.startswith(PREFIX):
        return Path(text).expanduser()
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise InvalidInputError(
            f"A name on the hub reads {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION; got {text!r}."
        )
    try:
        return _download(repository, revision or None, local=False)
    except StorageError as error:
        try:
            return _download(repository, revision or None, local=True)
        except StorageError:
            raise error from None


def _download(repository: str, revision: str | None, *, local: bool) -> Path:
    """The snapshot of a repository, from the hub or from its cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name = f"{PREFIX}{repository}"
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=local))
    except HFValidationError as error:
        raise InvalidInputError(f"{name!r} is no name on the hub: {error}.") from error
    except (OSError, RuntimeError) as error:  # the hub's own errors are OSErrors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(
            f"{name} could not be had from the hub: {reason[0]} Check the name and the network."
        ) from error
