"""One call from a reference to a policy: worldsim folders, LeRobot checkpoints, planners, Python code."""

from collections.abc import Container, Sequence
from pathlib import Path

import torch

from worldsim import policies
from worldsim.core import WorldSpec
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.planner_refs import is_planner_ref, load_planner, planner_refs
from worldsim.hub import PREFIX, local_folder
from worldsim.integrations.lerobot.policies import load as load_lerobot
from worldsim.policies import load_trained
from worldsim.policies.contract import check_contract
from worldsim.policies.discovery import adapter_base, discover, folder_kind, short_names
from worldsim.policies.function import function_digest, load_function
from worldsim.protocols import Policy
from worldsim.storage import digest_bytes, folder_digest
from worldsim.triage.request import Ref
from worldsim.user_code import is_code_ref

SHIPPED = "bank"
"""Names the shipped checkpoints."""
SHIPPED_FOLDER = Path(policies.__file__).parent / "shipped"


def load_policy(
    ref: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    spec: WorldSpec | None = None,
) -> Policy:
    """Load any policy that the caller names.

    Args:
        ref: A worldsim policy folder, a LeRobot checkpoint folder, either on the hub (``hf://OWNER/NAME``), a complete reference to a planner
            (``planner:NAME?world=FOLDER&option=value``), or ``module:name`` (see
            `worldsim.policies.function.load_function`), which is imported.
        device: Where its network, or the world that a planner plans in, computes.
        dtype: Of the weights; None leaves them as they are stored. Code decides for itself.
        spec: Of the world it will act in, whose cameras, action and rate what the policy declares is checked against.

    Raises:
        StorageError: The folder is missing, is no single policy, or is corrupt.
        MissingExtraError: A LeRobot checkpoint, and LeRobot is not installed.
        InvalidInputError: A ``module:name`` that does not exist or is no policy.
        PolicyError: Code behind ``module:name`` raised, or the policy was not trained for this world.
    """
    if is_planner_ref(ref):
        return load_planner(ref, device=device, dtype=dtype)
    if is_code_ref(ref):
        return load_function(ref)
    path = _policy_folder(ref)
    policy: Policy
    if folder_kind(path) == "lerobot":
        policy = load_lerobot(path, device=device, dtype=dtype, cameras=None if spec is None else spec.cameras)
    else:
        policy = load_trained(path, device=device, dtype=dtype)
    if spec is not None:
        check_contract(policy, spec, name=ref)
    return policy


def load_ref(
    ref: Ref,
    *,
    code: Container[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    spec: WorldSpec | None = None,
) -> Policy:
    """Load the policy of a reference that may come from another user's run folder.

    Args:
        ref: The reference.
        code: The ``module:name`` references that the user typed. No others are imported.
        device: As for `load_policy`.
        dtype: As for `load_policy`.
        spec: As for `load_policy`.

    Raises:
        InvalidInputError: The reference names code that the user did not.
        WorldsimError: As `load_policy`.
    """
    if not is_planner_ref(ref.source) and is_code_ref(ref.source) and ref.source not in code:
        raise InvalidInputError(
            f"Policy {ref.name} is the code {ref.source!r}, which is named by a file and was not imported. "
            f"If you trust it, name it yourself: --code {ref.source}."
        )
    return load_policy(ref.source, device=device, dtype=dtype, spec=spec)


def policy_digest(ref: str) -> str:
    """Identify a policy's content: the files of a folder, or the source file and name of code.

    Args:
        ref: A folder or ``module:name``; nothing of a folder is loaded, no extra is needed.

    Returns:
        A sha256 in hexadecimal.

    Raises:
        StorageError: The folder is missing or is no single policy.
        InvalidInputError: A ``module:name`` that does not exist.
    """
    if is_code_ref(ref):
        return function_digest(ref)
    path = _policy_folder(ref)
    base = adapter_base(path)
    return (
        folder_digest(path) if base is None else digest_bytes(f"{folder_digest(path)} {folder_digest(base)}".encode())
    )


def policy_refs(paths: Sequence[str], *, world: str | None = None) -> tuple[Ref, ...]:
    """One reference per policy under `paths`; the shipped bank where none is given.

    Args:
        paths: What `worldsim.policies.discovery.discover` reads, ``"bank"`` for the shipped checkpoints, and planners
            (``planner:NAME?option=value``), which come last.
        world: Where planners plan that name no world.

    Raises:
        StorageError: Nothing is found under a path.
        UnknownNameError: No such planner or option.

    Returns:
        References; code gets worker processes of its own.
    """
    planners = planner_refs([p for p in paths if is_planner_ref(p)], world=world)
    others = [str(SHIPPED_FOLDER) if p == SHIPPED else p for p in paths if not is_planner_ref(p)]
    others = [str(local_folder(p)) if p.startswith(PREFIX) else p for p in others]
    if planners and not others:
        return tuple(planners)
    sources = discover(others or [str(SHIPPED_FOLDER)])
    names = short_names(sources)
    refs = [
        Ref(name=n, digest=policy_digest(s), source=s, isolated=is_code_ref(s))
        for n, s in zip(names, sources, strict=True)
    ]
    return (*refs, *planners)


def _policy_folder(ref: str) -> Path:
    """The folder of exactly one policy."""
    path = local_folder(ref)
    if folder_kind(path):
        return path
    found = discover([ref])  # explains what is missing
    raise StorageError(f"{ref} holds {len(found)} policies, expected one. Name one of them, for example {found[0]}.")
