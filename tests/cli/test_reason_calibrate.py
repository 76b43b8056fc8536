import json

import pytest
import torch
from typer.testing import CliRunner

from tests.reason.critics import vlm
from worldsim.cli import app
from worldsim.errors import InvalidInputError
from worldsim.evaluate import critics
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.items.sources import VideoList, split
from worldsim.reason.items.video import Provenance, Video


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
    monkeypatch.setattr(critics, "open_data", lambda data: ([str(tmp_path)] * len(data), {d: videos(d) for d in data}))
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
