"""`worldsim inspect`: facts of toy datasets, faults with their places, what can be done, page and JSON."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import toys
from worldsim.cli.inspect import inspect
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.data.survey import survey_dataset
from worldsim.errors import StorageError
from worldsim.evaluate.inspection import LAYERS_FROM, Inspection, inspect_dataset
from worldsim.train.recipes.tokenizer import EXPLAINED, TRAINED_GAIN

NARROW = np.float32(0.3)
"""Of their range is what actions take."""
HOSTILE = "<script>alert(1)</script> [red]\x1b[31m"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "d"
    with episode_writer(path, toys.spec(cameras=toys.PAIR, task=HOSTILE)) as writer:
        for i in range(30):
            made = toys.episode(i, steps=9, cameras=toys.PAIR, task="" if i % 2 else "pull it")
            writer.write(dataclasses.replace(made, action=NARROW * made.action))
    return path


def uses(found: Inspection) -> dict[str, bool]:
    return {u.what: u.possible for u in found.uses}


def test_facts(toy: Path) -> None:
    found, pictures = inspect_dataset(toy)
    assert (found.episodes, found.frames, found.rate_hz, found.length) == (30, 300, 10, (10, 10, 10))
    assert len(found.looked_at) == 20 and found.looked_at[0] == 0 and found.looked_at[-1] == 29
    assert found.cameras == (("wrist_left", 18, 30), ("top", 32, 20))
    assert [(c.name, c.unit) for c in found.actions] == [("vx", "m/s"), ("vy", "m/s")]
    actions = np.concatenate([NARROW * toys.episode(i, steps=9).action for i in found.looked_at])
    assert [c.low for c in found.actions] == pytest.approx(actions.min(axis=0).tolist(), rel=1e-3)
    assert [c.median for c in found.actions] == pytest.approx(np.median(actions, axis=0).tolist(), rel=1e-3)
    assert len(found.states) == 3 and {name for name, _ in found.tasks} == {"pull it", HOSTILE}
    solved = sum(toys.episode(i, steps=9).success[-1] > 0 for i in found.looked_at)
    assert (found.labels[0].known, found.labels[0].reached) == (20, solved)
    assert uses(found) == {"train world": True, "train policy": True, "rank policies in a world of it": True}
    assert pictures.action.shape == (180, 2) and [n for n, _ in pictures.frames[toys.TOP]] == [0, 2, 3]
    assert len(inspect_dataset(toy, everything=True)[0].looked_at) == 30
    assert pytest.approx(EXPLAINED - TRAINED_GAIN) == LAYERS_FROM
    survey = survey_dataset(open_dataset(toy))
    assert found.advice == survey.advise() and found.scene["moving"] == pytest.approx(survey.moving, rel=1e-3)
    assert {"explained", "out_of_view", "solved", "covered vx"} <= found.scene.keys()


def test_an_episode_that_cannot_be_read_is_named(toy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(toy, tmp_path / "d"))
    (path / "data/chunk-000/file-000.parquet").write_bytes(b"gone")
    found, _ = inspect_dataset(path)
    assert list(found.unreadable) == [0] and "file-000" in found.unreadable[0] and 0 not in found.looked_at
    for file in path.glob("data/*/*.parquet"):
        file.write_bytes(b"gone")
    with pytest.raises(StorageError, match="None of the 20 episodes"):
        inspect_dataset(path)


def test_nan_is_named_by_channel_episode_and_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toys.write(tmp_path / "d", 3)
    file = path / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    values = np.array(table["observation.state"].to_pylist(), np.float32)
    values[[2, 4], 1] = np.nan
    column = table.column_names.index("observation.state")
    flat = pa.array(values.ravel())
    pq.write_table(table.set_column(column, "observation.state", pa.FixedSizeListArray.from_arrays(flat, 3)), file)
    (path / "meta/worldsim.json").unlink()
    rows = path / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(rows).drop_columns(["sha256"]), rows)  # as data of other people, which has none
    found, _ = inspect_dataset(path)
    [fault] = [f for f in found.faults if f.kind == "not_finite"]
    assert (fault.episode, fault.frames, fault.where, fault.value) == (1, (2, 4), "observation.state[1]", 2)
    assert list(found.unreadable) == [1]
    inspect(str(path), page=tmp_path / "p.html")
    total = f"n 1 of the {len(found.looked_at)} episodes that were looked at"
    assert f"i{total}" in capsys.readouterr().out and f"I{total}" in (tmp_path / "p.html").read_text(encoding="utf8")


@pytest.mark.parametrize(("value", "words"), [(np.nan, "has no labels"), (0.0, "all labels say the same")])
def test_without_labels_nothing_can_be_ranked(tmp_path: Path, value: float, words: str) -> None:
    with episode_writer(tmp_path / "d", toys.spec(has_success=not np.isnan(value), has_progress=False)) as writer:
        for i in range(2):
            e = toys.episode(i)
            unknown = np.full(7, np.nan, np.float32)
            fields = {"frames": e.frames, "proprio": e.proprio, "action": e.action, "reward": e.reward}
            writer.write(Episode(**fields, success=np.full(7, value, np.float32), progress=unknown))
    found, _ = inspect_dataset(tmp_path / "d")
    assert not uses(found)["rank policies in a world of it"]
    assert any(words in u.why for u in found.uses)
    assert [f.kind for f in found.faults if f.kind == "missing_labels"] == (
        ["missing_labels"] if np.isnan(value) else []
    )


def test_the_screen(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(toy))
    shown = capsys.readouterr().out
    assert "30, 300 frames, 10 to 10 each (median 10) at 10 Hz" in shown and "\x1b" not in shown
    assert "20 episodes, evenly spread; --all for all" in shown and "wrist_left 30x18, top 20x32" in shown
    assert re.search(r"^can +train policy: imitation", shown, re.MULTILINE) and "[red]" in shown
    assert len(shown.splitlines()) < 40
    advice = inspect_dataset(toy)[0].advice
    assert all(re.search(rf"^data +{re.escape(sentence)}$", shown, re.MULTILINE) for sentence in advice) and advice
    assert re.search(
        r"^can +train world: families that fit: structured, grid, and a short trial .*; not layers: they",
        shown,
        re.MULTILINE,
    )


def test_json(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(toy), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["advice"] and found["scene"]["changing"] > 0
    assert found["episodes"] == 30 and found["actions"][0]["name"] == "vx" and found["uses"][0]["possible"] is True


def test_the_page_is_one_file_and_runs_nothing(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(toy), page=tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf8")
    assert str(tmp_path / "p.html") in capsys.readouterr().out
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert page.count('src="data:image/png;base64,') == 2 * 3 * 3
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "default-src 'none'" in page
    assert "what to record more of" in page and "worldsim collect --like" in page
    assert "Histograms of 2 dimensions" in page and ">vx (m/s)<" in page
