"""From what a user types (folders, globs, ``module:name``) to one reference per policy, in a stable order."""

import difflib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from worldsim.errors import InvalidInputError, StorageError
from worldsim.storage import CONFIG, MANIFEST, WEIGHTS, read_json
from worldsim.user_code import is_code_ref

KIND = "policy"
"""The `kind` in the manifest of a worldsim policy folder."""
_WILD = re.compile(r"[*?\[]")
_DULL = ("pretrained_model", "checkpoints")  # path parts that tell nothing about a LeRobot checkpoint


def folder_kind(path: Path) -> Literal["worldsim", "lerobot"] | None:
    """Tell a policy folder by its files: ours by its manifest, LeRobot's by a config with `type` beside weights."""
    manifest = _peek(path / MANIFEST)
    if manifest is not None and manifest.get("kind") == KIND:
        return "worldsim"
    if manifest is not None and "kind" in manifest:
        return None
    config = _peek(path / CONFIG)
    if config is not None and isinstance(config.get("type"), str) and (path / WEIGHTS).is_file():
        return "lerobot"
    return None


def discover(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Expand what a user named into one reference per policy.

    Args:
        paths: Policy folders, folders that hold policies at any depth (LeRobot's
            ``outputs/**/checkpoints/*/pretrained_model`` among them), globs with ``**``, ``module:name`` references.

    Returns:
        References for `load_policy`: in the order given, each folder's finds in natural order (step 900 before 1000),
        none twice; a symbolic link such as ``checkpoints/last`` gives way to the folder it points to.

    Raises:
        StorageError: A path does not exist, a glob matches nothing, or a folder holds no policy; each is named.
        InvalidInputError: No path was given.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not paths:
        raise InvalidInputError("No policy was named. Give policy folders, globs, or module:function references.")
    found: list[str] = []
    problems: list[str] = []
    for path in [os.fspath(p) for p in paths]:
        if is_code_ref(path):
            found.append(path)
            continue
        here = [str(p) for root in _expand(path) for p in _policies_under(root)]
        if not here:
            problems.append(_explain(path))
        found += sorted(here, key=natural)
    if problems:
        raise StorageError("No policy found: " + " ".join(problems))
    return _without_duplicates(found)


def left_out(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[str, str]]:
    """Folders that look like policies and that `discover` leaves out.

    Args:
        paths: As for `discover`.

    Returns:
        Folder and reason of each, in natural order.
    """
    found: dict[str, str] = {}
    for path in [os.fspath(p) for p in paths]:
        for root in [] if is_code_ref(path) else _expand(path):
            for folder in [root, *root.rglob("*")] if root.is_dir() else []:
                reason = _unloadable(folder) if folder.is_dir() and not folder_kind(folder) else ""
                if reason:
                    found[str(folder)] = reason
    return [(folder, found[folder]) for folder in sorted(found, key=natural)]


def _unloadable(folder: Path) -> str:
    """Why a folder that looks like a policy is none; empty where it does not look like one."""
    if (folder / "adapter_config.json").is_file():
        return "a LoRA adapter, which needs its base: merge it into the base and save that"
    manifest, config = _peek(folder / MANIFEST) or {}, _peek(folder / CONFIG) or {}
    if "kind" not in manifest and isinstance(config.get("type"), str) and not (folder / WEIGHTS).is_file():
        return f"half-written: it has no {WEIGHTS}"
    damaged = (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file() and _peek(folder / CONFIG) is None
    return f"half-written: its {CONFIG} cannot be read" if damaged else ""


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that orders numbers inside text by value."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p]


def short_names(refs: Sequence[str]) -> list[str]:
    """Name references for people: the shortest endings of their paths that are all different.

    Args:
        refs: As from `discover`, none twice.

    Returns:
        One name each, for example ``run1/020000``.
    """
    parts = [_telling_parts(ref) for ref in refs]
    depth = [1] * len(refs)
    while True:
        names = ["/".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
        clash = [i for i, name in enumerate(names) if names.count(name) > 1 and depth[i] < len(parts[i])]
        if not clash:
            return names if len(set(names)) == len(names) else list(refs)
        for i in clash:
            depth[i] += 1


def _telling_parts(ref: str) -> list[str]:
    """A reference's path without the parts that every checkpoint shares."""
    if is_code_ref(ref):
        return [ref]
    kept = [p for p in Path(ref).parts if p not in (*_DULL, "/", ".")]
    return kept or [ref]


def _expand(path: str) -> list[Path]:
    """Folders that a path or glob denotes."""
    if _WILD.search(path) and not Path(path).exists():
        return [Path(p) for p in sorted(glob.glob(os.path.expanduser(path), recursive=True), key=natural)]
    return [Path(path).expanduser()]


def _policies_under(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Policy folders at or below `folder`; links are followed, but not back into a folder above."""
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    if folder_kind(folder):
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        if not inner.name.startswith("."):
            yield from _policies_under(inner, above | {real})


def _without_duplicates(refs: Sequence[str]) -> list[str]:
    """Keep one reference per real folder, the one that is no link where there is one; order is kept."""
    best: dict[str, str] = {}
    for ref in refs:
        real = ref if is_code_ref(ref) else os.path.realpath(ref)
        if real not in best or (_is_linked(best[real]) and not _is_linked(ref)):
            best[real] = ref
    kept = set(best.values())
    return [ref for i, ref in enumerate(refs) if ref in kept and ref not in refs[:i]]


def _is_linked(ref: str) -> bool:
    """Whether a path goes through a symbolic link."""
    return os.path.abspath(ref) != os.path.realpath(ref)


def _explain(path: str) -> str:
    """One sentence on why a path gave nothing."""
    if _WILD.search(path):
        return f"the glob {path!r} matches no policy folder."
    place = Path(path).expanduser()
    if not place.exists():
        beside = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        close = difflib.get_close_matches(place.name, beside, n=1)
        return f"{path!r} does not exist{f'; did you mean {str(place.parent / close[0])!r}?' if close else '.'}"
    if _peek(place / CONFIG) is not None and not (place / WEIGHTS).is_file():
        return f"{path!r} has a {CONFIG} but no {WEIGHTS}."
    return (
        f"{path!r} holds neither a worldsim policy ({MANIFEST} of kind {KIND!r}) nor a LeRobot checkpoint "
        f"({CONFIG} with 'type', and {WEIGHTS}), at any depth."
    )


def _peek(path: Path) -> dict[str, object] | None:
    """A small JSON object, or None where there is none."""
    try:
        value = read_json(path)
    except StorageError:
        return None
    return value if isinstance(value, dict) else None
