"""The failures a user can meet, and nothing else.

Every message says what was given, what was expected and what to do. Bugs inside worldsim are not
represented here: those are ordinary Python exceptions.
"""

import difflib
from collections.abc import Iterable

_MOST_LISTED = 40
"""Known names are listed up to so many; of more, only the closest."""
_CLOSEST = 5


class WorldsimError(Exception):
    """Base of every user-facing failure of worldsim."""


class InvalidInputError(WorldsimError, ValueError):
    """A value that a user supplied has the wrong shape, range, type or content."""


class UnknownNameError(WorldsimError, LookupError):
    """A name is not in a registry. The message lists what is, or the closest of many."""


class StorageError(WorldsimError, OSError):
    """A file or folder is missing, corrupt, of another kind, locked, or could not be written."""


class MissingExtraError(WorldsimError, ImportError):
    """An optional dependency is needed. The message holds the pip line that installs it."""


class PolicyError(WorldsimError, RuntimeError):
    """A policy raised, hung, or returned actions that cannot be executed."""


class EnvError(WorldsimError, RuntimeError):
    """An environment raised, hung, or returned something else than before."""


class TrainingError(WorldsimError, RuntimeError):
    """A training diverged: its loss or gradient is no longer a finite number. The last checkpoint stays."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not registered.

    Args:
        kind: What the name should have denoted, for example ``"environment"``.
        given: The name that was given.
        known: The names that exist.

    Returns:
        The error, ready to raise, with the closest known name if one is near.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=_CLOSEST, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if len(names) <= _MOST_LISTED:
        return UnknownNameError(f"Unknown {kind} {given!r}.{hint} Known: {', '.join(names) or 'none'}.")
    others = f" Close to it: {', '.join(close[1:])}." if len(close) > 1 else ""
    return UnknownNameError(f"Unknown {kind} {given!r}.{hint}{others} {len(names)} names are known.")


def missing_extra(module: str, extra: str) -> MissingExtraError:
    """Build the error for an optional module that is not installed.

    Args:
        module: The module that failed to import.
        extra: The worldsim extra that provides it.

    Returns:
        The error, ready to raise.
    """
    return MissingExtraError(f'{module} is not installed. Install it with: pip install "worldsim[{extra}]"')
