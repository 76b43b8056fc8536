"""LeRobotDataset v2.1 as v3.0: a copy is converted by LeRobot's own program, in a process without network, once.

Converted copies are kept under ``~/.cache/worldsim/lerobot_v3`` (`XDG_CACHE_HOME` moves it), by the names, sizes and times of
the original's files; they can be deleted at any time.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from worldsim import storage
from worldsim.data.lerobot import format as layout
from worldsim.errors import StorageError, missing_extra

OLD = "v2.1"
_PROGRAM = """
import os, runpy, sys
try: os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
except OSError: pass
runpy.run_module("lerobot.scripts.convert_dataset_v21_to_v30", run_name="__main__")
"""
_LIMIT_S = 4 * 3600


def as_version_3(path: Path) -> Path:
    """The folder itself, or where it is of version 2.1 its converted copy, which is made if it is not there.

    Raises:
        MissingExtraError: It must be converted, and LeRobot is not installed.
        StorageError: It links out of itself, there is no space for a copy, or LeRobot cannot convert it.
    """
    file = storage.inside_folder(path, layout.INFO)
    info = storage.read_json(file) if file.is_file() else {}
    if not isinstance(info, dict) or info.get("codebase_version") != OLD:
        return path
    if find_spec("lerobot") is None:
        raise missing_extra("lerobot", "lerobot")
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    files = {name: storage.inside_folder(path, name) for name in names}
    marks = [f"{name} {f.stat().st_size} {f.stat().st_mtime_ns}" for name, f in files.items()]
    digest = storage.digest_bytes("\n".join([str(path.resolve()), *marks]).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "worldsim" / "lerobot_v3"
    made = cache / digest[:32]
    if not made.is_dir():
        _convert(path, files, made)
    return made


def _convert(path: Path, files: dict[str, Path], made: Path) -> None:
    """Copy, convert and put in place as a unit."""
    work = made.with_name(f".{made.name}.{os.getpid()}.tmp")
    copy = work / "dataset"
    try:
        for name, file in files.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / name)
        options = ["--repo-id=local/dataset", f"--root={copy}", "--push-to-hub=false"]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _PROGRAM, *options],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(work / "hf"),
                "HF_DATASETS_CACHE": str(work / "hf"),
            },
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
        if done.returncode:
            reason = ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1]
            raise StorageError(
                f"{path} is a LeRobotDataset {OLD} that LeRobot cannot convert to {layout.VERSION} ({reason[:300]}). Restore "
                "it, or convert it with LeRobot."
            )
        copy.rename(made)
    except StorageError:
        raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(
            f"{path} could not be copied to {made.parent} and converted ({error}). Free space, or set XDG_CACHE_HOME."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
