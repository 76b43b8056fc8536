"""Worlds that are learned: from pixels (`latent`), from the true state (`state`), and the shipped default."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.errors import StorageError, unknown_name
from worldsim.hub import local_folder

if TYPE_CHECKING:
    import torch

    from worldsim.core import WorldSpec
    from worldsim.worlds.latent import LearnedWorld

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(p.name for p in SHIPPED.iterdir() if p.is_dir()) if SHIPPED.is_dir() else []


def world_folder(name: str | Path) -> Path:
    """The folder of a shipped name, a path, or a name on the hub (``hf://OWNER/NAME``), which is downloaded.

    Raises:
        UnknownNameError: Neither a folder nor a shipped world.
        StorageError: It cannot be had from the hub, or a folder of that name is there and holds no world.
    """
    from worldsim.storage import MANIFEST

    path = local_folder(name)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise _no_world(path, str(name), MANIFEST)
        return path
    if str(name) in shipped():
        return SHIPPED / str(name)
    raise unknown_name("world (a folder or a shipped name)", str(name), shipped())


def _no_world(path: Path, name: str, file: str) -> StorageError:
    """The error for a folder without a manifest; a shipped world that it hides is named."""
    found = f"The folder {path.resolve()} holds no world: it has no {file}."
    if name not in shipped():
        return StorageError(
            f"{found} Name a folder that worldsim train world wrote, or a shipped world: {', '.join(shipped())}."
        )
    return StorageError(
        f"{found} A folder goes before the shipped world of the same name, {name}: rename or remove the folder, or run the command "
        "from another place."
    )


def load_world(
    name: str | Path, *, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "LearnedWorld":
    """Load a world folder, of pixels or of the true state, or a shipped world by name.

    Args:
        name: The folder or name.
        device: Where to compute.
        dtype: Of weights and latents; as saved by default.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt or holds something else.
    """
    from worldsim.storage import MANIFEST, read_json
    from worldsim.worlds.latent import LatentWorld
    from worldsim.worlds.state import StateWorld

    path = world_folder(name)
    manifest = read_json(path / MANIFEST)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    cls = StateWorld if kind == StateWorld.kind else LatentWorld
    return cls.from_pretrained(path, device=device, dtype=dtype)


def world_spec(name: str | Path) -> "WorldSpec":
    """What a world folder or a shipped world promises, its validity included, without reading its weights.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: Its config or manifest is missing or corrupt.
    """
    from worldsim.storage import CONFIG, MANIFEST, check_sizes, from_json, read_json
    from worldsim.validity.validity import Validity
    from worldsim.worlds.latent_state import LatentWorldConfig

    path = world_folder(name)
    values = read_json(path / CONFIG)
    check_sizes(values, source=path)
    spec = from_json(LatentWorldConfig, values).spec
    return dataclasses.replace(spec, validity=Validity.of_manifest(read_json(path / MANIFEST), source=path))
