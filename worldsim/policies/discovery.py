"""From what a user types (folders, globs, ``module:name``) to one reference per policy, in a stable order."""

import difflib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from worldsim.errors import InvalidInputError, StorageError
from worldsim.hub import cached_folder
from worldsim.json_values import shown
from worldsim.storage import CONFIG, MANIFEST, WEIGHTS, read_json
from worldsim.user_code import is_code_ref

KIND = "policy"
"""The `kind` in the manifest of a worldsim policy folder."""
LEROBOT_TYPES = ("act", "diffusion", "multi_task_dit", "pi0", "pi05", "smolvla", "tdmpc", "vqbet")
"""LeRobot's policy types that are run. Others may run code that the folder names when their network is made."""
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
"""Suffixes of files that run code when they are read; nothing here reads them."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WILD = re.compile(r"[*?\[]")
_DULL = ("pretrained_model", "checkpoints")  # path parts that tell nothing about a LeRobot checkpoint


def folder_kind(path: Path) -> Literal["worldsim", "lerobot"] | None:
    """Tell a policy folder by its files: ours by its manifest, LeRobot's by a config with `type` beside weights."""
    manifest = _peek(path / MANIFEST)
    if manifest is not None and manifest.get("kind") == KIND:
        return "worldsim"
    if manifest is not None and "kind" in manifest:
        return None
    config = _peek(path / CONFIG) or {}
    if config.get("type") not in LEROBOT_TYPES:
        return None
    if (path / ADAPTER_CONFIG).is_file():
        return None if _adapter_fault(path) else "lerobot"
    return "lerobot" if (path / WEIGHTS).is_file() else None


def adapter_base(path: Path) -> Path | None:
    """The folder of the checkpoint on which a LoRA checkpoint was trained; None where `path` is no LoRA checkpoint.

    It is looked for on this machine: as a path, also beside the adapter, and in the hub's cache.

    Raises:
        StorageError: The base is not here, or is no LeRobot checkpoint of the same type.
    """
    if not (path / ADAPTER_CONFIG).is_file():
        return None
    settings = _peek(path / ADAPTER_CONFIG) or {}
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        raise StorageError(f"{path / ADAPTER_CONFIG} names no base_model_name_or_path, the checkpoint that it adapts.")
    folders = [Path(name).expanduser(), path / name, *_cached(name, revision if isinstance(revision, str) else None)]
    found = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
    if found is None:
        raise StorageError(f"{path} adapts {shown(name)}, which is neither a folder here nor in the hub's cache.")
    kinds = [(_peek(folder / CONFIG) or {}).get("type") for folder in (path, found)]
    if kinds[0] != kinds[1] or not (found / WEIGHTS).is_file() or (found / ADAPTER_CONFIG).is_file():
        raise StorageError(
            f"{path} adapts {found}, which is no complete LeRobot checkpoint of the type {shown(kinds[0])}."
        )
    return found


def _cached(name: str, revision: str | None) -> list[Path]:
    """The snapshot of a name on the hub, if the cache has it."""
    try:
        return [cached_folder(name, revision)]
    except (StorageError, InvalidInputError):
        return []


def _adapter_fault(path: Path) -> str:
    """Why a LoRA checkpoint cannot be loaded; empty where it can."""
    if not (path / ADAPTER_WEIGHTS).is_file():
        return f"a LoRA adapter without {ADAPTER_WEIGHTS}"
    try:
        adapter_base(path)
    except StorageError as error:
        reason = str(error).rstrip(".")
        return f"a LoRA adapter whose base is not at hand ({reason}): put the base there, or merge it in and save that"
    return ""


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
    named = [os.fspath(p) for p in paths if not is_code_ref(os.fspath(p))]
    roots = [root for path in named for root in _expand(path) if root.is_dir()]
    folders = [folder for root in roots for folder in [root, *root.rglob("*")] if folder.is_dir()]
    real = {os.path.realpath(folder) for folder in folders if not _is_linked(str(folder))}
    found: dict[str, str] = {}
    for folder in folders:
        if folder.is_symlink():
            twice = os.path.realpath(folder) in real and any(True for _ in _policies_under(folder))
            reason = "a link to a checkpoint that stands beside it" if twice else ""
        else:
            reason = "" if folder_kind(folder) else _unloadable(folder)
        if reason:
            found[str(folder)] = reason
    return [(folder, found[folder]) for folder in sorted(found, key=natural)]


def _unloadable(folder: Path) -> str:
    """Why a folder that looks like a policy is none; empty where it does not look like one."""
    if "kind" in (_peek(folder / MANIFEST) or {}):
        return ""
    config = _peek(folder / CONFIG)
    kind = (config or {}).get("type")
    if (folder / ADAPTER_CONFIG).is_file() and kind in (None, *LEROBOT_TYPES):
        return _adapter_fault(folder) if kind else f"a LoRA adapter without the {CONFIG} of a policy"
    weights = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("policy_"))
    if config is None:
        damaged = (folder / CONFIG).is_file() and bool(weights)
        return f"half-written: its {CONFIG} cannot be read" if damaged else ""
    if kind in LEROBOT_TYPES:
        return _fault_of_weights(folder, weights)
    if isinstance(kind, str) and (weights or "input_features" in config):
        return (
            f"a policy of the type {shown(kind)}; of LeRobot's types {', '.join(LEROBOT_TYPES)} are run: wrap it as a "
            "`module:function` policy"
        )
    return ""


def _fault_of_weights(folder: Path, weights: Sequence[str]) -> str:
    """Why the weights of a LeRobot checkpoint cannot be read, where they are not one file."""
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        return f"its weights are a pickle ({pickled[0]}), which runs code when it is read: save them as {WEIGHTS}"
    if weights or (folder / f"{WEIGHTS}.index.json").is_file():
        return f"its weights are in several files, and LeRobot reads one: save them as {WEIGHTS}"
    return f"half-written: it has no {WEIGHTS}"


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
    if place.is_dir() and (faulty := left_out([place])):
        return f"{path!r} holds nothing that can be loaded: {'; '.join(f'{p}: {reason}' for p, reason in faulty[:5])}."
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
