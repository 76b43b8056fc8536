"""The page's server on loopback, asked by a real client, and used by keys in a real browser."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, needs_chromium
from tests.label.conftest import EPISODES
from worldsim.data.labels import agree
from worldsim.label.server import LabelServer
from worldsim.label.session import open_session

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture
def server(data: Path, tmp_path: Path) -> Iterator[LabelServer]:
    made = LabelServer(open_session(data, tmp_path / "labels.jsonl", who="ann"))
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join()


def test_who_opens_the_address_before_the_server_runs_is_not_refused(data: Path, tmp_path: Path) -> None:
    made = LabelServer(open_session(data, tmp_path / "labels.jsonl", who="ann"))
    with socket.create_connection(("127.0.0.1", made.port)):
        pass
    made._socket.close()


def send(server: LabelServer, body: object, **headers: str) -> Any:
    headers = {"Origin": f"http://127.0.0.1:{server.port}", "Content-Type": "application/json", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.address}label", content=content, headers=headers)


def labels(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "labels.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_questions_films_and_labels(server: LabelServer, tmp_path: Path) -> None:
    page = httpx.get(server.address)
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    asked = httpx.get(f"{server.address}next").json()
    assert asked["labelled"] == 0
    film = httpx.get(f"{server.address}film/{asked['episode']}")
    assert film.headers["content-type"] == "video/mp4" and film.headers["cache-control"] == "no-store"
    following = send(server, {"episode": asked["episode"], "outcome": "failed", "frame": 2})
    assert following.json()["labelled"] == 1 and following.json()["episode"] != asked["episode"]
    (kept,) = labels(tmp_path)
    assert (kept["episode"], kept["outcome"], kept["frame"], kept["who"]) == (asked["episode"], "failed", 2, "ann")
    assert httpx.get(f"{server.address}episode/{asked['episode']}").json()["said"] == "failed"


def test_what_does_not_come_from_the_page_is_refused(server: LabelServer, tmp_path: Path) -> None:
    label = {"episode": 0, "outcome": "solved"}
    here = f"http://127.0.0.1:{server.port}"
    assert httpx.get(f"{here}/").status_code == 403
    assert httpx.get(f"{here}/wrong-token/next").status_code == 403
    assert httpx.get(f"{server.address}next", headers={"Host": f"evil.example:{server.port}"}).status_code == 403
    assert send(server, label, Origin="http://evil.example").status_code == 403
    assert send(server, label, Origin="null").status_code == 403
    assert send(server, label, **{"Content-Type": "text/plain"}).status_code == 403
    assert httpx.post(f"{server.address}label", json=label).status_code == 403  # no origin
    assert labels(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 4000, "deep|levels"),
        (b" " * 5000, "at most 4096 bytes"),
        ([], "mapping"),
        ({"episode": 0}, "outcome"),
        ({"episode": EPISODES, "outcome": "solved"}, f"no episode {EPISODES}"),
        ({"episode": 0, "outcome": "solved", "frame": 10}, "no frame 10"),
        ({"episode": 0, "outcome": "won"}, "outcome"),
        ({"episode": 0, "outcome": "solved", "who": "bob"}, "who"),
        ({"episode": 10**40, "outcome": "solved"}, "finite number"),
    ],
)
def test_wrong_labels_are_refused_by_name(server: LabelServer, tmp_path: Path, body: object, says: str) -> None:
    import re

    answer = send(server, body)
    assert answer.status_code == 422 and re.search(says, answer.json()["error"])
    assert labels(tmp_path) == []


def test_an_episode_that_is_not_there_is_named(server: LabelServer) -> None:
    assert "no episode 99" in httpx.get(f"{server.address}episode/99").json()["error"]
    assert httpx.get(f"{server.address}film/99").status_code == 422
    assert httpx.get(f"{server.address}film/-1").status_code in (404, 422)


@pytest.mark.browser
@needs_chromium
def test_keys_label_episodes_in_a_browser(server: LabelServer, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(server.address, width=1000)
        wait(browser, "!busy && film.videoWidth >= 256")
        first = browser.run("now.episode")
        press(browser, "ArrowRight")
        press(browser, "ArrowRight")
        marked = browser.run("frame()")
        press(browser, "m")
        assert f"marked: {marked}" in browser.run("document.getElementById('place').textContent")
        press(browser, "f")
        second = browser.run("now.episode")
        assert second != first
        press(browser, "s")
        press(browser, "u")
        press(browser, "b")  # back to what was called unclear
        third = browser.run("now.episode")
        assert "you said unclear" in browser.run("document.getElementById('title').textContent")
        press(browser, "s")
        press(browser, "x")  # no key of the page
        assert browser.run("find('error').textContent") == ""
        assert browser.complaints() == []
        asked = [url for url in browser.requests() if url.startswith("http")]  # not what a new tab shows at first
    assert asked and all(url.startswith(server.address) for url in asked), asked
    agreed = agree(server_labels(server))
    assert {e: (a.outcome, a.frame) for e, a in agreed.items()} == {
        first: ("failed", marked),
        second: ("solved", None),
        third: ("solved", None),
    }


def server_labels(server: LabelServer) -> Any:
    return server.session.file.labels


def press(browser: Browser, key: str) -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)
    wait(browser, "!busy")


def wait(browser: Browser, condition: str) -> None:
    waited = browser.run(f"""(async () => {{
      for (let i = 0; i < 1000 && !({condition}); i++) await new Promise(r => setTimeout(r, 20));
      return {condition};
    }})()""")
    assert waited, condition
