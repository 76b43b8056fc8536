"""Importing the code that a user names as ``package.module:name`` or ``path/to/file.py:name``.

Only references that the user typed come here. What a run folder, world, policy or critic names is never imported.
The working folder is searched last, and only for the modules that were named and for what these import themselves.
"""

import difflib
import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

from worldsim.errors import InvalidInputError, UnknownNameError


def is_code_ref(ref: str) -> bool:
    """Whether `ref` reads as ``package.module:name`` or ``path/to/file.py:name``, and is no existing path."""
    module, _, name = ref.rpartition(":")
    plain = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return bool(module) and plain and name.isidentifier() and not Path(ref).exists()


def import_name(ref: str) -> object:
    """Import what a reference names.

    Args:
        ref: ``package.module:name`` (also looked for in the working folder) or ``path/to/file.py:name``.

    Raises:
        InvalidInputError: The module or file does not exist, or cannot be imported.
        UnknownNameError: The module has no such name; the closest is named.
        Exception: Whatever the module raises when it is imported.
    """
    place, _, name = ref.rpartition(":")
    value: object = getattr(_require_name(import_place(place, ref=ref), ref), name)
    return value


def _require_name(module: ModuleType, ref: str) -> ModuleType:
    """Return the module of a reference if it has the name; else list the public names that it defines itself."""
    place, _, name = ref.rpartition(":")
    if hasattr(module, name):
        return module
    own = (n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    names = sorted(n for n in {*own, *getattr(module, "__all__", ())} if not n.startswith("_"))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    defined = ", ".join(names) or "no public name"
    raise UnknownNameError(f"{place} has no {name!r}{hint}; it defines {defined}.")


def import_place(place: str, *, ref: str) -> ModuleType:
    """Import a module by its name or by its file; `ref` is named in errors.

    Raises:
        InvalidInputError: There is no such module or file.
        Exception: Whatever the module raises when it is imported.
    """
    if place.endswith(".py"):
        return _import_file(place, ref)
    folder = _WorkingFolder.install()
    folder.names.add(place.partition(".")[0])
    if _find(place) is None:
        raise InvalidInputError(f"{ref} names the module {place!r}, which is neither installed nor in {os.getcwd()}.")
    return importlib.import_module(place)


def source_file(ref: str) -> Path | None:
    """The file that defines a reference; None where its module has none. A module is imported to find it, a file is not.

    Raises:
        InvalidInputError: The module or file does not exist.
        UnknownNameError: The module has no such name; the closest is named.
    """
    place = ref.rpartition(":")[0]
    if place.endswith(".py"):
        return _file(place, ref)
    file = Path(_require_name(import_place(place, ref=ref), ref).__file__ or "")
    return file if file.is_file() else None


def _import_file(place: str, ref: str) -> ModuleType:
    """Import a file under a name of its own."""
    file = _file(place, ref)
    name = f"worldsim_user_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling by workers look a module up by its name
    _WorkingFolder.install().names.add(name)
    spec.loader.exec_module(module)
    return module


def _file(place: str, ref: str) -> Path:
    """A Python file that exists."""
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise InvalidInputError(f"{ref} names the file {file}, which does not exist.")
    return file


def _find(place: str) -> object | None:
    """Whether a module can be found; a missing parent package counts as not found."""
    try:
        return importlib.util.find_spec(place)
    except (ModuleNotFoundError, ValueError):
        return None


class _WorkingFolder(importlib.abc.MetaPathFinder):
    """Finds named modules in the working folder where nothing else finds them, and what those import beside them.

    `sys.path` is not used for this: on it, a ``scipy.py`` that lies in the folder would serve every import of scipy.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    @staticmethod
    def install() -> "_WorkingFolder":
        """The finder of this process, last among all."""
        for finder in sys.meta_path:
            if isinstance(finder, _WorkingFolder):
                return finder
        sys.meta_path.append(_WorkingFolder())
        return _WorkingFolder.install()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a top-level module that was named, or that a named one imports."""
        if path is not None or not (fullname in self.names or _importer(sys._getframe(1)) in self.names):
            return None
        spec = PathFinder.find_spec(fullname, [os.getcwd()])
        if spec is not None:
            self.names.add(fullname)
        return spec


def _importer(frame: FrameType | None) -> str:
    """Top-level name of the module whose code imports, below the frames of the import system."""
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(("importlib", "_frozen_importlib")):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]
