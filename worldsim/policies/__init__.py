"""Policies: scripted experts, degraders, small pixel and state networks; here the trained classes by name, and loading one.

A policy sees observations and returns actions, through `worldsim.protocols.Policy`.
"""

from pathlib import Path

import torch

from worldsim import storage
from worldsim.errors import StorageError, unknown_name
from worldsim.policies.discovery import KIND
from worldsim.policies.pixel import PixelPolicy
from worldsim.policies.state import StatePolicy
from worldsim.policies.trained import NAME_FIELD, TrainedPolicy

POLICIES: dict[str, type[TrainedPolicy]] = {cls.kind: cls for cls in (PixelPolicy, StatePolicy)}
"""Policy classes by the name that a folder's config.json gives."""


def load_trained(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TrainedPolicy:
    """Load a folder that `TrainedPolicy.save_pretrained` wrote.

    Args:
        path: The folder.
        device: Where the network computes.
        dtype: Of its weights; None is float32.

    Raises:
        StorageError: Missing, corrupt, another kind of folder, or weights that do not fit.
        UnknownNameError: The config names a class that is not registered; the closest is named.
    """
    path = Path(path)
    storage.read_manifest(path, kind=KIND)
    config = storage.read_json(path / storage.CONFIG)
    name = config.get(NAME_FIELD) if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise StorageError(f"{path / storage.CONFIG} has no field {NAME_FIELD!r} that names the policy's class.")
    if name not in POLICIES:
        raise unknown_name("policy class", name, POLICIES)
    return POLICIES[name].from_pretrained(path, device=device, dtype=dtype)
