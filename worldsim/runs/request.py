"""A working folder held by one run at a time, and bound to one request, so that the same command continues it.

Not for checkpoints: `worldsim.optimize`.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError

_OWN = ("lock", "request.json")


@contextmanager
def claimed(work: Path, *, request: Mapping[str, Any]) -> Iterator[None]:
    """Hold `work` for the length of the block.

    Args:
        work: The folder; made if it is not there.
        request: What decides the result, as JSON values or dataclasses.

    Raises:
        StorageError: Another run holds the folder, or it cannot be written.
        InvalidInputError: The folder was begun with another request; the message names the fields that differ.
    """
    wanted = storage.to_json(request)
    path = work / "request.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise StorageError(f"Could not write {work}: {error.strerror or error}. Choose another place.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"Another run is training in {work}. Wait for it, or choose another out=.") from error
        begun = storage.read_json(path) if path.exists() else wanted
        untouched = all(p.name in _OWN for p in work.iterdir())  # a run that failed at once binds nobody
        if begun != wanted and not untouched:
            keys = sorted(k for k in {*wanted, *begun} if wanted.get(k) != begun.get(k))
            raise InvalidInputError(
                f"{work} was begun with other values of {', '.join(keys)}. Repeat that command to continue it, or "
                "delete the folder to start anew."
            )
        storage.write_json(path, wanted)
        yield
