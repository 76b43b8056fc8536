"""A real headless Chromium, driven through the DevTools protocol over a pipe."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest

BINARY = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
    "--mute-audio",
    "--hide-scrollbars",
]
DEADLINE_S = 120.0
SHIM = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # gives Chromium its ends of the pipes at descriptors 3 and 4

needs_chromium = pytest.mark.skipif(
    BINARY is None, reason="Chromium is not installed; on Debian: apt-get install chromium"
)


class Browser:
    """Chromium with one page; messages are JSON, each ended by a zero byte, on descriptors 3 (in) and 4 (out)."""

    def __init__(self, profile: Path) -> None:
        command_in, self._out = os.pipe()
        self._in, answer_out = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                SHIM,
                str(command_in),
                str(answer_out),
                str(BINARY),
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(command_in, answer_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answer_out)
        self._buffer, self._next, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_S
        while (answer := self._read(deadline)).get("id") != self._next:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer within {DEADLINE_S:g} s"
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium went away"
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, path: Path | str, *, width: int, dark: bool = False) -> None:
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.navigate(path)

    def navigate(self, path: Path | str) -> None:
        self.call("Page.navigate", url=path if isinstance(path, str) else path.as_uri())
        deadline = time.monotonic() + DEADLINE_S
        while self.run("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page does not finish loading"
            time.sleep(0.01)

    def resize(self, width: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )

    def complaints(self) -> list[dict[str, Any]]:
        """Everything on the console and every uncaught error."""
        wanted = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [e for e in self.events if e.get("method") in wanted]

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "file:", "blob:", "about:"))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
