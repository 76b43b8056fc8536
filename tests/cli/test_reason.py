"""The `worldsim reason` commands."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.reason.benchmark import quiz
from tests.reason.critics import vlm
from worldsim.cli import app
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.evaluate import critics
from worldsim.reason.benchmark.read import QuestionItems, View, read_benchmark
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.items.sources import VideoList, split
from worldsim.reason.items.video import Provenance, Video
from worldsim.reason.vlm.model import VLM
from worldsim.reason.vlm.tiny import TinyConfig
from worldsim.runs import hold_folder

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")


def run(*arguments: object) -> str:
    """The command in this process; a typed error is raised as it is, a refused option is an AssertionError with its text."""
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of two datasets, and tiny random models of every family."""
    place = tmp_path_factory.mktemp("reason")
    quiz.dataset(place / "quiz", "robovqa", count=8)
    quiz.dataset(place / "quiz", "av", count=4, index2ans={"A": "left", "B": "right", "C": "nowhere"})
    clips = QuestionItems(View(size=32, wording="words"))
    items = [clips.item(q) for q in read_benchmark(place / "quiz").questions]
    texts = [t for i in items for t in (i.prompt, i.completion)]
    for family in FAMILIES:
        config = TinyConfig(hidden=32, heads=2, layers=2, depth=1, family=family)  # type: ignore[arg-type]
        VLM.tiny(texts, config, seed=1).save_pretrained(place / family)
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_examined_from_its_folder(place: Path, family: str, tmp_path: Path) -> None:
    asked = [place / "quiz", "--model", place / family, "--size", 32, "--frames", 3]
    said = run("reason", "eval", *asked, "--fast", "--out", tmp_path / "fast")
    assert "robovqa" in said and "av" in said and "12 questions asked" in said and "Mean of the datasets" in said
    saved = json.loads((tmp_path / "fast/eval.json").read_text())
    assert saved["complete"] and saved["model"]["type"] == family and len(saved["model"]["digest"]) == 64
    assert saved["versions"]["transformers"] and saved["command"].startswith("worldsim")
    lines = {line["dataset"]: line for line in saved["figures"]}
    assert lines["robovqa"]["chance"] == 0.5 and lines["av"]["chance"] == pytest.approx(1 / 3)
    assert lines[""]["items"] == 12 and lines[""]["low"] <= lines[""]["accuracy"] <= lines[""]["high"]
    assert all(len(a["frames"]) == 3 and a["blind_with"] for a in saved["answers"])
    assert "0 questions asked, 12 known" in run("reason", "eval", *asked, "--fast", "--out", tmp_path / "fast")
    run("reason", "eval", *asked, "--max-new-tokens", 4, "--limit", 2, "--out", tmp_path / "slow")
    saved = json.loads((tmp_path / "slow/eval.json").read_text())
    assert all(a["reply"] and not a["logprobs"] for a in saved["answers"]) and len(saved["answers"]) == 4
    assert saved["figures"][-1]["unparsable"] == 1.0, "four tokens are no thought and no answer"


def test_the_models_own_wording_and_size_are_found(place: Path, tmp_path: Path) -> None:
    few = ["--fast", "--limit", 1, "--no-blind"]
    own = VLM.from_pretrained(place / "qwen3_vl")
    made = {"tiny": {"size": 64}, "model": ""}
    own.save_pretrained(tmp_path / "trained", manifest={"config": made})
    own.model.save_pretrained(tmp_path / "foreign")
    own.processor.save_pretrained(tmp_path / "foreign")
    found = {}
    for name in ("trained", "foreign"):
        run("reason", "eval", place / "quiz", "--model", tmp_path / name, *few, "--out", tmp_path / f"{name}_out")
        saved = json.loads((tmp_path / f"{name}_out/eval.json").read_text())
        found[name] = (saved["settings"]["wording"], saved["settings"]["size"])
        assert not any(a["blind_with"] for a in saved["answers"]) and saved["figures"][-1]["blind"] is None
    assert found == {"trained": ("words", 64), "foreign": ("letters", 32)}


def test_a_dry_run_asks_once_and_writes_nothing(place: Path, tmp_path: Path) -> None:
    before = sorted(place.rglob("*"))
    asked = [place / "quiz", "--model", place / "qwen3_vl", "--max-new-tokens", 2, "--datasets", "av"]
    said = run("reason", "eval", *asked, "--dry-run", "--out", tmp_path / "out", "--sheet", tmp_path / "sheet.png")
    assert "4 questions (4 of av), asked in words, 8 frames of 32 px; guessing reaches 33.3%" in said
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"] and sorted(place.rglob("*")) == before
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_bad_questions_are_shown_and_too_many_stop_it(place: Path, tmp_path: Path) -> None:
    entries = quiz.dataset(tmp_path / "quiz", count=8)
    entries[1]["video"] = "../../secret.mp4"
    quiz.save(tmp_path / "quiz", entries)
    (tmp_path / "quiz/robot/clips/4.mp4").write_bytes(b"torn")
    asked = [tmp_path / "quiz", "--model", place / "qwen3_vl", "--fast", "--size", 32, "--out", tmp_path / "out"]
    said = run("reason", "eval", *asked, "--bad-share", 0.2)
    assert "Skipped 2 bad questions" in said and "robot/1" in said and "robot/4" in said and "6 questions asked" in said
    with pytest.raises(InvalidInputError, match="robot/1.*lies outside"):
        run("reason", "eval", *asked)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"folder": "nowhere"}, StorageError, "no folder"),
        ({"--model": "nowhere"}, StorageError, "no model folder"),
        ({"--datasets": "ava"}, UnknownNameError, "Did you mean 'av'"),
        ({"--wording": "letter"}, UnknownNameError, "letters"),
        ({"--dtype": "float3"}, UnknownNameError, "float32"),
        ({"--device": "toaster"}, InvalidInputError, "Choose one of: cpu"),
        ({"--limit": 0}, AssertionError, "--limit"),
        ({"--frames": 0}, AssertionError, "--frames"),
        ({"--batch": 0}, AssertionError, "--batch"),
    ],
)
def test_mistakes_are_named(
    place: Path, changes: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    options = {"--model": place / "qwen3_vl", "--out": tmp_path / "out"} | changes
    folder = options.pop("folder", place / "quiz")
    with pytest.raises(error, match=message):
        run("reason", "eval", folder, *[part for pair in options.items() for part in pair])
    assert not (tmp_path / "out").exists()


def test_a_killed_run_continues_and_asks_nothing_twice(place: Path, tmp_path: Path) -> None:
    quiz.dataset(tmp_path / "quiz", count=24)
    asked = [tmp_path / "quiz", "--model", place / "cosmos3_omni", "--batch", 1, "--max-new-tokens", 48]
    arguments = [str(a) for a in ("reason", "eval", *asked, "--out", tmp_path / "out")]
    path = tmp_path / "out/eval.json"
    with subprocess.Popen([Path(sys.executable).with_name("worldsim"), *arguments]) as running:
        while running.poll() is None:  # a busy machine is no failure
            if path.exists() and len(json.loads(path.read_text())["answers"]) >= 3:
                break
            time.sleep(0.01)
        running.kill()
    before = json.loads(path.read_text())
    known = {a["name"]: a for a in before["answers"]}
    assert 3 <= len(known) < 24 and not before["complete"]
    assert f"{24 - len(known)} questions asked, {len(known)} known" in run(*arguments)
    after = json.loads(path.read_text())
    assert after["complete"] and len(after["answers"]) == 24
    assert {a["name"]: a for a in after["answers"] if a["name"] in known} == known
    with hold_folder(tmp_path / "out"), pytest.raises(StorageError, match="in use by another run"):
        run(*arguments)


def test_items_are_written_and_examined(place: Path, tmp_path: Path) -> None:
    for number in range(10):
        quiz.clip(tmp_path / f"films/{number}.mp4", number=number, side=quiz.SIDES[number % 2], frames=24)
    said = run("reason", "items", "--data", tmp_path / "films", "--tasks", "arrow,puzzle", "--count", 6, "--size", 32,
               "--out", tmp_path / "items")  # fmt: skip
    assert "6 questions of each of 2 tasks" in said and (tmp_path / "items/items.png").is_file()
    saved = json.loads((tmp_path / "items/manifest.json").read_text())
    assert saved["kind"] == "reason items" and saved["command"] and saved["items"] == 12
    found = read_benchmark(tmp_path / "items")
    assert {q.task for q in found.questions} == {"arrow", "puzzle"} and not found.bad
    assert sorted(q.answer for q in found.questions if q.task == "arrow") == ["A"] * 3 + ["B"] * 3
    asked = [tmp_path / "items", "--model", place / "qwen3_vl", "--fast", "--out", tmp_path / "out", "--frames", 2]
    run("reason", "eval", *asked)
    answers = json.loads((tmp_path / "out/eval.json").read_text())["answers"]
    assert {a["task"]: len(a["frames"]) for a in answers} == {"arrow": 8, "puzzle": 5}, "they are shown with all frames"
    with pytest.raises(UnknownNameError, match="'arrow'"):
        run("reason", "items", "--data", tmp_path / "films", "--tasks", "arrows", "--out", tmp_path / "items")
    with pytest.raises(StorageError, match="something else"):
        run(
            "reason",
            "items",
            "--data",
            tmp_path / "films",
            "--tasks",
            "puzzle",
            "--count",
            1,
            "--out",
            tmp_path / "films",
        )


def videos(folder):
    """Videos of four policies, read from nowhere."""
    draw = torch.Generator().manual_seed(len(folder))
    frames = torch.randint(0, 256, (24, 5, 32, 32, 3), generator=draw, dtype=torch.uint8)
    made = [
        Video(
            frames=f,
            provenance=Provenance(kind="dataset", episode=str(i), policy=f"policy {i % 4}"),
            success=float(i % 3 == 0),
        )
        for i, f in enumerate(frames)
    ]
    return VideoList(made)


def test_the_command_writes_a_calibrated_critic_and_prints_its_figures(tmp_path, monkeypatch):
    vlm().save_pretrained(tmp_path / "model", manifest={"figures": {"accuracy/outcome": 0.9}})
    monkeypatch.setattr(
        critics, "open_data", lambda data, labels=None: ([str(tmp_path)] * len(data), {d: videos(d) for d in data})
    )
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--data", "one", "--data", "other", "--out", str(tmp_path / "critic"), "--frames", "3", "--band", "0.2"]
    done = CliRunner().invoke(app, ["reason", "calibrate", str(tmp_path / "model"), *options])
    assert done.exit_code == 0, done.output
    made = ReasonCritic.from_pretrained(tmp_path / "critic")
    assert made.settings.frames == 3 and made.settings.band == 0.2 and made.settings.calibration is not None
    metrics = made.settings.calibration.metrics
    assert f"ECE {metrics.ece:.3f} (10 bins of equal mass)" in done.output and made.version in done.output
    assert metrics.policies == len(metrics.groups) == 2 and [e.group for e in metrics.sources] == ["one", "other"]
    for name in ("all", "data one", *(e.group for e in metrics.groups)):
        assert f" {name} " in done.output
    assert str(metrics.rates.specificity) in done.output
    manifest = json.loads((tmp_path / "critic/manifest.json").read_text())
    assert manifest["figures"] == {"accuracy/outcome": 0.9} and manifest["judge"]["episodes"] == metrics.episodes


def test_a_critic_is_calibrated_where_it_is_asked_to(tmp_path, monkeypatch):
    vlm().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(critics, "open_data", lambda data, labels=None: ([str(tmp_path)], {"one": videos("one")}))
    asked = {"data": ["one"], "settings": {"frames": 3}}
    with pytest.raises(RuntimeError, match="meta"):
        critics.calibrate_critic(str(tmp_path / "model"), tmp_path / "critic", device="meta", **asked)


def test_folders_of_videos_have_short_names(tmp_path):
    with pytest.raises(InvalidInputError, match="given twice"):
        critics._names(["data/a", "other/a", "data/b", "other/a"])
    assert critics._names(["data/a", "other/a"]) == ["a", "other/a"]
    with pytest.raises(OSError, match="holds no video"):
        critics.open_data([str(tmp_path)])
    (tmp_path / "a.txt").write_text("1")
    before = critics.digest_data(str(tmp_path))
    (tmp_path / "a.txt").write_text("12")
    assert critics.digest_data(str(tmp_path)) != before


def test_by_default_it_takes_what_training_held_out(tmp_path, monkeypatch):
    asked = {"data": ["data/a", "data/b"], "items": {"by": "policy", "share": 0.5, "options": {}}}
    vlm().save_pretrained(tmp_path / "model", manifest={"config": asked})
    monkeypatch.setattr(critics, "open_videos", lambda names: videos(names[0]))
    paths, found = critics.open_held_out(str(tmp_path / "model"))
    held = {
        v.provenance.policy
        for v in map(videos("data/a").video, split(videos("data/a"), by="policy", share=0.5)[1].indices)
    }
    assert paths == ["data/a", "data/b"] and list(found) == ["a", "b"] and len(held) == 2
    for source in found.values():
        assert {source.video(i).provenance.policy for i in range(len(source))} == held and len(source) == 12
    vlm().save_pretrained(tmp_path / "plain")
    with pytest.raises(InvalidInputError, match="does not say what its model was trained on.*--data"):
        critics.open_held_out(str(tmp_path / "plain"))
