"""Worlds that are learned: from pixels (`latent`), from the true state (`state`), and the shipped default."""

from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.errors import unknown_name

if TYPE_CHECKING:
    from worldsim.worlds.latent import LatentWorld

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(p.name for p in SHIPPED.iterdir() if p.is_dir()) if SHIPPED.is_dir() else []


def world_folder(name: str | Path) -> Path:
    """The folder of a shipped name or a path.

    Raises:
        UnknownNameError: Neither a folder nor a shipped world.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if str(name) in shipped():
        return SHIPPED / str(name)
    raise unknown_name("world (a folder or a shipped name)", str(name), shipped())


def load_world(name: str | Path) -> "LatentWorld":
    """Load a world folder, of pixels or of the true state, or a shipped world by name.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt or holds something else.
    """
    from worldsim.storage import MANIFEST, read_json
    from worldsim.worlds.latent import LatentWorld
    from worldsim.worlds.state import StateWorld

    path = world_folder(name)
    kinds = {cls.kind: cls for cls in (LatentWorld, StateWorld)}
    manifest = read_json(path / MANIFEST)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kinds.get(str(kind), LatentWorld).from_pretrained(path)
