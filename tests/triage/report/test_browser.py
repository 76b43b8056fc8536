"""The report in a real headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, needs_chromium
from worldsim.triage.report import ReportData, write_report

pytestmark = [pytest.mark.browser, needs_chromium]


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
    assert len(drawings) == 4  # one of each pair is shown
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
