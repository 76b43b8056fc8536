"""The report in a real headless Chromium, driven through the DevTools protocol over a pipe."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from worldsim.triage.report import ReportData, write_report

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

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="Chromium is not installed; on Debian: apt-get install chromium"),
]


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

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.navigate(path)

    def navigate(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(sample: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, sample)
    return path


def test_opens_without_a_word_on_the_console_and_asks_nothing_of_the_network(browser: Browser, report: Path) -> None:
    browser.open(report, width=1200)
    assert browser.run("document.querySelector('h1').textContent").startswith("Try these 5 of 24")
    assert browser.run("getComputedStyle(document.body).marginTop") == "0px"  # the style sheet is let through
    assert browser.complaints() == []
    assert browser.requests() == []


def test_every_video_plays(browser: Browser, report: Path) -> None:
    browser.open(report, width=1200)
    played = browser.run("""(async () => {
      const out = [];
      for (const v of document.querySelectorAll('video')) {
        v.scrollIntoView();
        const from = v.currentTime;
        await v.play();
        for (let i = 0; i < 600 && v.currentTime <= from; i++) await new Promise(r => setTimeout(r, 30));
        out.push({ready: v.readyState, moved: v.currentTime > from, width: v.videoWidth, error: v.error && v.error.message});
        v.pause();
      }
      return out;
    })()""")
    assert len(played) >= 8
    assert all(v["ready"] >= 2 and v["moved"] and v["width"] > 300 and v["error"] is None for v in played), played


def test_a_video_starts_by_itself_when_it_is_seen(browser: Browser, report: Path) -> None:
    browser.open(report, width=1200)
    moved = browser.run("""(async () => {
      const v = document.querySelector('video');
      v.scrollIntoView({block: 'center', behavior: 'instant'});
      for (let i = 0; i < 600 && v.currentTime === 0; i++) await new Promise(r => setTimeout(r, 30));
      return v.currentTime > 0 && !v.paused;
    })()""")
    assert moved
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, 400, 700, 730, 1200])
def test_nothing_overflows(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    wider = browser.run("""[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg')
        && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 90))""")
    assert wider == []
    drawings = browser.run("""[...document.querySelectorAll('figure svg')].filter(s => s.getClientRects().length).map(s => {
        const box = s.getBoundingClientRect(), scale = box.width / s.viewBox.baseVal.width;
        return Math.min(...[...s.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize) * scale))})""")
    assert len(drawings) == 3  # one of each pair is shown
    assert min(drawings) >= 8.0  # px: labels stay readable


def test_text_stands_out_in_both_schemes(browser: Browser, report: Path) -> None:
    seen = []
    for dark in (False, True):
        browser.open(report, width=1200, dark=dark)
        style = "getComputedStyle(document.body)"
        pair = browser.run(f"[{style}.color, {style}.backgroundColor]")
        ink, paper = (sum(map(int, c[4:-1].split(","))) / 3 for c in pair)
        assert abs(ink - paper) > 150
        seen.append(ink > paper)
        labels = browser.run("getComputedStyle(document.querySelector('figure svg text')).fill")
        assert "var" not in labels and labels != "rgb(0, 0, 0)"
    assert seen == [False, True]


def test_works_without_script(browser: Browser, report: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.navigate(report)
        assert browser.run("document.querySelectorAll('video[controls]').length") >= 8
        assert browser.run("document.scrollingElement.scrollHeight") > 5000
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_hostile_names_do_nothing(browser: Browser, hostile: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, hostile)
    for width in (400, 1200):
        browser.open(path, width=width)
        assert browser.run("document.title").startswith("worldsim triage:")
        assert browser.run("window.pwned === undefined && !document.querySelector('main script, main img')")
        assert browser.run("document.scrollingElement.scrollWidth") <= width
        assert browser.complaints() == []
        assert browser.requests() == []
