"""One call from a reference to a policy: worldsim folders, LeRobot checkpoints, Python code.

Not for finding them: `worldsim.policies.discovery`.
"""

import importlib
from pathlib import Path

from worldsim.errors import StorageError
from worldsim.policies.discovery import discover, folder_kind
from worldsim.policies.function import function_digest, is_function_ref, load_function
from worldsim.policies.registry import load_trained
from worldsim.protocols import Policy
from worldsim.storage import folder_digest

__all__ = ["discover", "load_policy", "policy_digest"]
_LEROBOT = "worldsim.integrations.lerobot.policies"  # imported by name: it needs the extra, and lies on a higher floor


def load_policy(ref: str) -> Policy:
    """Load any policy.

    Args:
        ref: A worldsim policy folder, a LeRobot checkpoint folder, or ``module:name`` (see
            `worldsim.policies.function.load_function`).

    Raises:
        StorageError: The folder is missing, is no single policy, or is corrupt.
        MissingExtraError: A LeRobot checkpoint, and LeRobot is not installed.
        InvalidInputError: A ``module:name`` that does not exist or is no policy.
        PolicyError: Code behind ``module:name`` raised.
    """
    if is_function_ref(ref):
        return load_function(ref)
    path = _policy_folder(ref)
    if folder_kind(path) == "lerobot":
        policy: Policy = importlib.import_module(_LEROBOT).load(path)
        return policy
    return load_trained(path)


def policy_digest(ref: str) -> str:
    """Identify a policy's content: the files of a folder, or the source file and name of code.

    Args:
        ref: As for `load_policy`; nothing is loaded, no extra is needed.

    Returns:
        A sha256 in hexadecimal.

    Raises:
        StorageError: The folder is missing or is no single policy.
        InvalidInputError: A ``module:name`` that does not exist.
    """
    return function_digest(ref) if is_function_ref(ref) else folder_digest(_policy_folder(ref))


def _policy_folder(ref: str) -> Path:
    """The folder of exactly one policy."""
    path = Path(ref).expanduser()
    if folder_kind(path):
        return path
    found = discover([ref])  # explains what is missing
    raise StorageError(f"{ref} holds {len(found)} policies, expected one. Name one of them, for example {found[0]}.")
