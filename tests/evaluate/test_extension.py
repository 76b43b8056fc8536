"""`worldsim collect --like`: more data like a dataset's, in its environment, and how the data changed by it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data import toys
from worldsim.cli.collect import collect
from worldsim.data.collect import record
from worldsim.data.collect.goal_exploration import varied_behaviours
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.survey import survey_dataset
from worldsim.errors import InvalidInputError, UnknownNameError, WorldsimError
from worldsim.evaluate.extension import compare_data, prepare_extension
from worldsim.evaluate.true_env import TrueEnv

DOT = "tests.evaluate.test_extension:dots_env"


def dots_env() -> toys.DotEnv:
    return toys.DotEnv(steps=20)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of an environment that has no id."""
    out = tmp_path_factory.mktemp("extension") / "dots"
    record.collect(dots_env, [Behaviour(name="noisy", policy=toys.Noisy(0.1))], episodes=24, out=out)
    return out


def test_contact_rises_and_it_is_said(dots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(like=str(dots), env=DOT, episodes=24)
    out = dots.with_name("dots-more")
    said = capsys.readouterr()
    assert "recorded starts" in said.err and "75% of the episodes replay 21 recorded ones" in said.err
    assert f"data=[{dots},{out}]" in said.out and "covered of the range of vy" in said.out
    line = next(line for line in said.out.splitlines() if line.startswith("moments from which a thing moves"))
    before, after, both = (float(word.rstrip("%")) for word in line.split()[-3:])
    assert before < both < after
    more, old = open_dataset(out), open_dataset(dots)
    held_out = {old.seeds[i] for i in range(0, 24, 10)}
    assert {*more.behaviours} == {"replay", "contact"} and not held_out & {*more.seeds}
    replayed = [seed for seed, name in zip(more.seeds, more.behaviours, strict=True) if name == "replay"]
    assert {*replayed} <= {*old.seeds}
    assert more.cameras == old.cameras and more.action_spec == old.action_spec
    assert max(more.lengths) <= max(old.lengths)


def test_less_contact_than_before_is_said(dots: Path, tmp_path: Path) -> None:
    record.collect(dots_env, [Behaviour(name="random", policy=toys.Noisy(3.0))], episodes=24, out=tmp_path / "worse")
    shares = [survey_dataset(open_dataset(path)).moving for path in (dots, tmp_path / "worse")]
    assert shares[0] != shares[1]
    less, more = (dots, tmp_path / "worse") if shares[0] < shares[1] else (tmp_path / "worse", dots)
    assert f"Things move less often in {less.name} than in {more.name}" in compare_data(more, less)
    assert "less often" not in compare_data(less, more)


def test_it_continues_with_the_same_bytes_and_only_the_same_dataset(dots: Path, tmp_path: Path) -> None:
    job = prepare_extension(dots, named=TrueEnv(env=DOT))
    job.run(tmp_path / "complete", episodes=4, seed=3)
    for episodes in (1, 3, 4):
        prepare_extension(dots, named=TrueEnv(env=DOT)).run(tmp_path / "parts", episodes=episodes, seed=3)
    assert toys.contents(tmp_path / "parts") == toys.contents(tmp_path / "complete")
    saved = json.loads((tmp_path / "parts/meta/worldsim.json").read_text())
    assert saved["request"]["like"] == open_dataset(dots).digest
    other = toys.write(tmp_path / "other", 3)
    with pytest.raises(InvalidInputError, match="begun with another request"):
        prepare_extension(other, named=TrueEnv(env=DOT)).run(tmp_path / "parts", episodes=5, seed=3)


def test_an_environment_that_does_not_repeat_is_begun_afresh_and_no_contact_is_said(tmp_path: Path) -> None:
    toys.write(tmp_path / "d", 3)  # its seeds are not those of the environment
    job = prepare_extension(tmp_path / "d", named=TrueEnv(env=DOT))
    assert "fresh starts" in job.remarks[0] and "25% of the episodes replay 2 " in job.remarks[0]
    assert "does anything but the robot move" in job.remarks[1]
    job.run(tmp_path / "more", episodes=2, seed=0)
    assert not {*open_dataset(tmp_path / "more").seeds} & {*open_dataset(tmp_path / "d").seeds}
    assert "not known" in compare_data(tmp_path / "d", tmp_path / "more")  # of so few episodes


def test_where_there_is_no_environment_it_is_asked_for(dots: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="does not say in which environment it was recorded.*--env PACKAGE:ID"):
        prepare_extension(dots)
    options = record.RecordingOptions(env=DOT)
    record.collect(dots_env, varied_behaviours(toys.ACTION), episodes=2, out=tmp_path / "said", options=options)
    with pytest.raises(InvalidInputError, match=rf"says {DOT}, which is code.*--env {DOT}"):
        prepare_extension(tmp_path / "said")
    with pytest.raises(UnknownNameError, match="If a package registers it"):
        prepare_extension(dots, named=TrueEnv(env="nowhere/No-v0"))
    with pytest.raises(InvalidInputError, match="gives proprioception 2; .* holds 3. Name the environment"):
        prepare_extension(dots, named=TrueEnv(env="tests.cli.arena:make"))


@pytest.mark.parametrize(
    "options",
    [{"world": "push"}, {"policies": ["bank"]}, {"behaviours": "push"}, {"camera": ["x"]}, {"image_px": "32"}],
)
def test_what_does_not_go_with_it_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match="--like with"):
        collect(like="data/x", out=tmp_path / "d", episodes=1, **options)


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(dots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dots.with_name("dry")
    collect(like=str(dots), env=DOT, out=out, episodes=100, dry_run=True)
    said = capsys.readouterr()
    assert "100 episodes: 2100 frames" in said.out and f"In {DOT}" in said.err and not out.exists()
