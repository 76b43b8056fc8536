"""The reason critic as the judge of a triage, from the command line down."""

import dataclasses
import functools
import json
import pickle
import sqlite3

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.toy import ToyArena, ToyWorld, load_toy, toy_refs
from tests.reason.critics import critic
from worldsim.cli import app
from worldsim.errors import StorageError
from worldsim.evaluate import loaders
from worldsim.evaluate.policies import SHIPPED_FOLDER
from worldsim.reason.calibration.fit import JudgedEpisodes, calibrate
from worldsim.reason.critic import Assessment, ReasonCritic
from worldsim.triage.engine.store import DATABASE
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import Arena, read_ranking, run

WORLD = functools.partial(ToyWorld, horizon=6)


def known(made):
    """The critic with a calibration as if it had been right in nine of ten episodes of two policies."""
    draw = np.random.default_rng(0)
    solved = np.arange(120) % 2 == 0
    z = torch.tensor(np.where(solved ^ (draw.random(120) < 0.1), 2.0, -2.0))
    episodes = JudgedEpisodes(
        assessments=Assessment(logodds=z, progress=torch.full((120,), 0.5), unsaid=torch.zeros(120)),
        solved=solved,
        progress=np.full(120, np.nan),
        groups=tuple("ab"[i // 60] for i in range(120)),
        sources=("data",) * 120,
    )
    return calibrate(made, episodes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("critic") / "critic"
    known(critic(band=0.1)).save_pretrained(path)
    return path


def test_a_folder_becomes_a_judge_with_its_version_and_rates(folder, tmp_path):
    judging = loaders.judge_of(str(folder))
    made = ReasonCritic.from_pretrained(folder)
    metrics = made.settings.calibration.metrics
    assert judging.version == made.version and [r.group for r in judging.rates] == ["", metrics.groups[0].group]
    assert judging.rates[0] == metrics.rates and metrics.rates.solved > 0
    load = pickle.loads(pickle.dumps(judging.load))  # noqa: S301
    assert load(WORLD()).world == WORLD() and load(WORLD()).version == judging.version
    critic(band=0.2).save_pretrained(tmp_path / "c")
    moved = dataclasses.replace(judging.load, folder=str(tmp_path / "c"))
    with pytest.raises(StorageError, match="has changed"):
        moved(WORLD())
    assert loaders.judge_of(str(tmp_path / "c")).rates == ()


def test_a_critic_computes_on_the_device_of_the_run(folder):
    assert loaders.judge_of(str(folder), device="cpu").load.device == "cpu"
    assert ReasonCritic.from_pretrained(folder, device="meta").vlm.device == torch.device("meta")
    half = ReasonCritic.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.vlm.model.parameters()} == {torch.bfloat16}
    with pytest.raises(NotImplementedError, match="meta"):  # its digest needs weights, so it was loaded there
        dataclasses.replace(loaders.judge_of(str(folder)).load, device="meta")(WORLD())


def test_a_critic_judges_a_run_and_a_simulator_does_not_need_it(folder, tmp_path):
    judging = loaders.judge_of(str(folder))
    request = TriageRequest(
        policies=toy_refs(3),
        world=Ref(name="toy", digest="w"),
        k=1,
        budget=24,
        width=16,
        judge=judging.version,
        judge_rates=judging.rates,
    )
    arena = Arena(kind="truth", world=Ref(name="truth", digest="t"), load=ToyArena(world=WORLD()), episodes=5)
    for out, arenas in ((tmp_path / "a", [arena]), (tmp_path / "b", [])):
        results = run(request, load_world=WORLD, load_policy=load_toy, load_judge=judging.load, out=out, arenas=arenas)
        methods = {p.corrected.method for p in results.ranking.policies if p.corrected}
        assert methods == ({"truth"} if arenas else {"rates"})
        assert read_ranking(out).digest == results.ranking.digest
    connection = sqlite3.connect(tmp_path / "a" / DATABASE)
    found = connection.execute("SELECT kind, judge, success, note FROM rollouts").fetchall()
    connection.close()
    world = [r for r in found if r[0] == "world"]
    assert {r[1] for r in world} == {judging.version} and all("success" in r[3] for r in world)
    assert {r[1] for r in found if r[0] == "truth"} == {"world-heads-1/end/0.5"}
    assert len({round(r[2], 4) for r in world}) > 3  # it sees frames, and different ones


def test_a_dry_run_with_a_judge_writes_nothing(
    folder, tmp_path
):  # that it asks the judge: tests/triage/test_estimate.py
    options = ["--judge", str(folder), "--out", str(tmp_path / "run"), "--workers", "1", "--dry-run"]
    done = CliRunner().invoke(app, ["triage", str(SHIPPED_FOLDER / "n20_s0"), *options])
    assert done.exit_code == 0 and "rollouts in" in done.output, done.output
    assert not (tmp_path / "run").exists()


def test_the_command_takes_a_judge(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    bank = [str(SHIPPED_FOLDER / "n20_s0")]
    options = ["--k", "1", "--budget", "12", "--truth", "2", "--videos", "0", "--workers", "1"]
    asked = ["triage", *bank, *options, "--judge", str(folder), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    version = ReasonCritic.from_pretrained(folder).version
    assert "corrected" in done.output and f"Episodes were judged by {version}" in done.output.replace("\n", " ")
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    assert plan["judge"] == version and len(plan["request"]["judge_rates"]) == 2
    assert read_ranking(tmp_path / "run").corrected
    page = (tmp_path / "run/report.html").read_text()
    assert version in page and "PPI++" in page
    blind = CliRunner().invoke(app, [*asked, "--world", "push_state"])
    assert blind.exit_code == 1 and "draws no pictures" in str(blind.exception)
