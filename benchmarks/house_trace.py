"""Traces one `worldsim triage` through all its processes: functions before the first row, frames at a policy, loads.

Runs at any revision: this file is also copied as ``sitecustomize.py`` into the traced processes, where it notes every
first call of a function of worldsim, and so imports nothing but the standard library.
"""

import collections
import dataclasses
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

_NOTES, _PACKAGE = "WORLDSIM_TRACE_NOTES", "WORLDSIM_TRACE_PACKAGE"
POLICIES = ("n20_s0", "n20_s1", "n100_s0")
"""Shipped checkpoints that the traced run ranks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """What a run with truth and round trip went through.

    Attributes:
        functions: Distinct functions of worldsim called, in any process, before the first row was committed. Generator
            expressions and the scopes of type parameters have frames of their own, but are not functions.
        files: Files that they stand in.
        frames: Frames of worldsim on the stack at the first `act` of a policy; for a worker process with those that
            wait for it in the process that sent the work.
        worker_frames: Those in the process of the policy alone.
        loads: Loads of the learned world, all processes together.
        processes: Processes that loaded it.
        most_loads: Most loads in one process.
    """

    functions: int
    files: int
    frames: int
    worker_frames: int
    loads: int
    processes: int
    most_loads: int


def trace(root: Path) -> Trace:
    """Trace a small run of the source tree at `root`.

    Raises:
        RuntimeError: The run failed.
    """
    with tempfile.TemporaryDirectory() as place:
        notes, hook = Path(place) / "notes", Path(place) / "hook"
        hook.mkdir()
        shutil.copy(__file__, hook / "sitecustomize.py")
        bank = root / "worldsim" / "policies" / "shipped"
        sizes = {"--k": 1, "--budget": 96, "--truth": 2, "--roundtrip": 2, "--videos": 1, "--workers": 1}
        options = [str(part) for pair in sizes.items() for part in pair]
        command = ["triage", *(str(bank / name) for name in POLICIES), "--out", f"{place}/run", *options]
        paths = os.pathsep.join([str(hook), str(root)])
        settings = {"PYTHONPATH": paths, _NOTES: str(notes), _PACKAGE: str(root / "worldsim"), "OMP_NUM_THREADS": "1"}
        code = "from worldsim.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=place,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"The traced run of {root} failed:\n{done.stdout}{done.stderr}")
        return read(notes.read_text(encoding="utf8"))


def read(notes: str) -> Trace:
    """Read the notes of all processes: lines of time, process, kind, depth and ``file:function``.

    Raises:
        RuntimeError: No load of a world is among them, so that loads cannot be counted.
    """
    lines = sorted(
        (float(t), pid, kind, int(depth), name) for t, pid, kind, depth, name in map(str.split, notes.split("\n")[:-1])
    )
    committed = next(t for t, _, kind, _, _ in lines if kind == "commit")
    seen = {name for t, _, kind, _, name in lines if kind == "call" and t <= committed and _is_function(name)}
    acted, worker, _, depth, _ = next(line for line in lines if line[2] == "act")
    sent = [line[3] for line in lines if line[2] == "send" and line[1] != worker and line[0] < acted]
    loads = collections.Counter(pid for _, pid, kind, _, _ in lines if kind == "load")
    if not loads:
        raise RuntimeError("The traced run loaded no world by `from_pretrained` of a class in worldsim/worlds.")
    return Trace(
        functions=len(seen),
        files=len({name.split(":")[0] for name in seen}),
        frames=depth + (sent[-1] if sent else 0),
        worker_frames=depth,
        loads=loads.total(),
        processes=len(loads),
        most_loads=max(loads.values()),
    )


def _is_function(name: str) -> bool:
    last = name.rsplit(".", 1)[-1].rsplit(":", 1)[-1]
    return last == "<lambda>" or not last.startswith("<")


class _Watch:
    """A profile function that notes calls of functions of a package, of this process and its threads."""

    def __init__(self, notes: str, package: str) -> None:
        self._known: set[object] = set()
        self._package = package
        self._handle = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code.co_filename.startswith(self._package):
            self._own(frame)
        elif code.co_name == "_send_bytes" and code.co_filename.endswith("connection.py"):
            self._note(frame, "send")

    def _own(self, frame: FrameType) -> None:
        code = frame.f_code
        if code not in self._known and code.co_flags & inspect.CO_OPTIMIZED:  # not the body of a module or a class
            self._known.add(code)
            self._note(frame, "call")
            if code.co_name == "act" and "/policies/" in code.co_filename:
                self._note(frame, "act")
        if code.co_qualname == "Store.commit":
            self._note(frame, "commit")
        elif code.co_name == "from_pretrained" and "/worlds/" in code.co_filename:
            self._note(frame, "load")

    def _note(self, frame: FrameType, kind: str) -> None:
        code = frame.f_code
        name = f"{code.co_filename.removeprefix(self._package)}:{code.co_qualname}"
        line = f"{time.monotonic():.6f} {os.getpid()} {kind} {self._depth(frame)} {''.join(name.split())}\n"
        os.write(self._handle, line.encode())

    def _depth(self, frame: FrameType | None) -> int:
        count = 0
        while frame is not None:
            count += frame.f_code.co_filename.startswith(self._package)
            frame = frame.f_back
        return count


if __name__ == "sitecustomize" and _NOTES in os.environ:
    _watch = _Watch(os.environ[_NOTES], os.environ[_PACKAGE])
    threading.setprofile(_watch)
    sys.setprofile(_watch)
