"""`worldsim collect` with policies: in the environment, in the shipped world, and in its true environment."""

import json
from pathlib import Path

import numpy as np
import pytest

from worldsim.cli.collect import collect
from worldsim.data.collect.rollouts import RolloutOptions
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.evaluate.policies import SHIPPED_FOLDER
from worldsim.evaluate.recording import policies_in_world

PAIR = [str(SHIPPED_FOLDER / "n20_s0/000060"), str(SHIPPED_FOLDER / "n100_s0")]  # one, and all eight of a run

MUTE = """
class Mute(gymnasium.Wrapper):
    def reset(self, **options):
        return self.env.reset(**options)[0], {}

    def step(self, action):
        return *self.env.step(action)[:4], {}

def still(observation):
    return 0 * observation["observation.state"][:, :2]
"""


def test_places_and_their_pairs(tmp_path: Path) -> None:
    quick = {"policies": PAIR, "episodes": 11, "steps": 3, "batch": 9}
    collect(out=tmp_path / "free", **quick)
    collect(out=tmp_path / "dream", world="push", **quick)
    collect(out=tmp_path / "truth", world="push", simulator=True, **quick)
    free, dream, truth = (open_dataset(tmp_path / n) for n in ("free", "dream", "truth"))
    assert [d.dreamed_by for d in (free, dream, truth)] == ["", "push", ""]
    assert [d.episodes for d in (free, dream, truth)] == [11] * 3
    assert free.behaviours == dream.behaviours == truth.behaviours
    assert len(set(free.behaviours[:9])) == 9
    assert "n20_s0/000060" in free.behaviours[:9]
    assert dream.seeds == truth.seeds != free.seeds
    assert free.task_id == truth.task_id == "worldsim/Push-v0"
    assert free.episode(0).true_state is not None and dream.episode(0).true_state is None
    with pytest.raises(InvalidInputError, match="begun with another request"):
        collect(out=tmp_path / "dream", world="push", **{**quick, "policies": PAIR[:1]})
    saved = (tmp_path / "dream/meta/worldsim.json").read_text()
    assert str(SHIPPED_FOLDER) not in saved and len(json.loads(saved)["request"]["digests"]) == 9


def test_worlds_and_policies_compute_where_and_in_what_they_are_asked() -> None:
    for dtype in ("", "float32"):
        settings = {"simulator": False, "options": RolloutOptions(steps=2, batch=9), "dtype": dtype}
        here = policies_in_world("push", PAIR[:1], **settings)  # type: ignore[arg-type]
        assert here.options.source.get("dtype", "") == dtype
        assert here.estimate(episodes=1).frames > 0
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        policies_in_world("push", PAIR[:1], device="meta", **settings).estimate(episodes=1)  # type: ignore[arg-type]


def test_the_bank_acts_in_a_world_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(out=tmp_path / "d", world="push", episodes=1000, steps=1, batch=40, dry_run=True)
    assert "1000 episodes of 40 policies: 2000 frames" in capsys.readouterr().out
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world": "push", "env": "push"}, "--env, --import and --success with --world"),
        ({"simulator": True, "policies": ["bank"]}, "--simulator without --world"),
        ({"world": "push", "behaviours": "push"}, "--behaviours"),
        ({"world": "push", "image_px": 32}, "--image-px"),
        ({"world": "push", "success": "info.a > 1"}, "--env, --import and --success with --world"),
        ({"world": "push", "imports": ["os"]}, "--env, --import and --success with --world"),
        ({"image_px": "64x0"}, "--image-px takes N or HEIGHTxWIDTH"),
        ({"success": "is_success"}, "no success rule"),
        ({"batch": 3}, "--batch without policies"),
        ({"dtype": "bfloat16"}, "--device and --dtype without policies"),
        ({"world": "push", "simulator": True, "policies": PAIR[:1], "success": "info.progres > 1"}, "info.progress"),
        ({"policies": PAIR[:1], "success": "info.progres > 1"}, "info.progress"),
        ({"policies": ["bank"], "device": "cuda:99"}, "cuda:99"),
        ({"policies": ["bank"], "steps": 0}, "steps and batch of 1 or more"),
    ],
)
def test_what_does_not_go_together_is_named(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=words):
        collect(out=tmp_path / "d", episodes=1, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()


def test_an_environment_that_tells_no_success_is_not_said_to_be_solved_to_nan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).with_name("arena.py").read_text()
    (tmp_path / "mute_arena.py").write_text(
        source.replace('"render_fps": 5', '"render_fps": 10') + "\n\ndef mute():\n    return Mute(make())\n" + MUTE
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("worldsim.progress.EVERY_S", -1.0)
    collect(env="mute_arena:mute", episodes=2, steps=2, out=tmp_path / "d")
    printed = capsys.readouterr()
    said = printed.out
    assert printed.err == "episodes: 1 of 2\nepisodes: 2 of 2\n"  # a line now and then where there is no terminal
    assert "success unknown (say when it is solved with --success" in said and "Read as cameras: " in said
    collect(env="mute_arena:mute", episodes=2, steps=2, out=tmp_path / "e", success="reward >= -1e9")
    assert "100% solved" in capsys.readouterr().out
    acting = {"policies": ["mute_arena:still"], "episodes": 2, "steps": 2, "batch": 2, "image_px": 64}
    collect(env="mute_arena:mute", out=tmp_path / "p", **acting)
    assert "success unknown" in capsys.readouterr().out
    episode = open_dataset(tmp_path / "p").episode(0)
    assert np.isnan(episode.success).all() and np.isnan(episode.progress).all()
