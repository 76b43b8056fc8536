"""Environments of other people: what they return is read by a stated rule or refused by name, and nothing is lost."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import FrameStackObservation, RescaleAction

from worldsim.core import IMAGE
from worldsim.data.collect.env_adapter import EnvAdapter
from worldsim.data.collect.goal_exploration import varied_behaviours
from worldsim.data.collect.pictures import Fit
from worldsim.data.collect.random_exploration import Behaviour, Wander
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.collect.success import success_rule
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import EnvError, InvalidInputError, MissingExtraError, UnknownNameError, WorldsimError
from worldsim.spaces import action_spec_of

RGB = Box(0, 255, (32, 40, 3), np.uint8)
NUMBERS = Box(-1000, 1000, (3,), np.float32)


def picture(i: float, shape: tuple[int, ...] = (32, 40, 3)) -> Any:
    return np.full(shape, i, np.uint8)


class Foreign(gymnasium.Env[Any, Any]):
    """Four steps; observation and info follow from the number of the step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self, space: Any = RGB, see: Any = picture, *, action: Any = None, tell: Any = None, draw: Any = None
    ) -> None:
        self.observation_space, self.see, self.draw = space, see, draw
        self.action_space = Box(-1, 1, (2,), np.float32) if action is None else action
        self.tell = tell or (lambda t: {})
        self.executed: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.see(10), self.tell(0)

    def step(self, action: Any) -> Any:
        self.t += 1
        self.executed.append(np.array(action))
        return self.see(10 + 20 * self.t), float(self.t), self.t >= 4, False, self.tell(self.t)

    def render(self) -> Any:
        return None if self.draw is None else self.draw(10 + 20 * self.t)


def recorded(env: gymnasium.Env[Any, Any], out: Path, episodes: int = 1, **options: Any) -> Any:
    mixture = (Behaviour(name="wander", policy=Wander(action_spec_of(env))),)
    collect(lambda: env, mixture, episodes=episodes, out=out, options=RecordingOptions(**options))
    return open_dataset(out)


SHADES = [10, 30, 50, 70, 90]
BUFFER = picture(0)


def reused(i: int) -> Any:
    BUFFER.fill(i)
    return BUFFER


@pytest.mark.parametrize(
    ("space", "see"),
    [
        (RGB, reused),
        (Box(0, 255, (3, 32, 40), np.uint8), lambda i: picture(i, (3, 32, 40))),
        (Box(0, 255, (32, 40), np.uint8), lambda i: picture(i, (32, 40))),
        (Box(0, 255, (32, 40, 1), np.uint8), lambda i: picture(i, (32, 40, 1))),
        (Box(0, 255, (1, 32, 40), np.uint8), lambda i: picture(i, (1, 32, 40))),
        (Box(0, 1, (32, 40, 3), np.float32), lambda i: picture(i) / np.float32(255)),
        (Box(0, 255, (3, 32, 40), np.float64), lambda i: picture(i, (3, 32, 40)).astype(float)),
        (Dict(image=RGB), lambda i: {"image": picture(i)}),
        (Dict(pixels=Box(0, 1, (32, 40), np.float32)), lambda i: {"pixels": picture(i, (32, 40)) / np.float32(255)}),
    ],
)
def test_pictures_of_every_layout_are_read_and_copied(space: Any, see: Any, tmp_path: Path) -> None:
    frames = recorded(Foreign(space, see), tmp_path / "d").episode(0).frames[IMAGE]
    assert frames.shape == (5, 32, 40, 3) and frames[:, 3, 4, 1].tolist() == SHADES


@pytest.mark.parametrize(
    ("space", "see"),
    [
        (Box(0, 255, (32, 40, 4), np.uint8), lambda i: picture(i, (32, 40, 4))),
        (Dict(pixels=Box(0, 65535, (32, 40), np.uint16)), lambda i: {"pixels": np.full((32, 40), i, np.uint16)}),
        (Dict(pixels=Box(-9, 9, (32, 40, 3), np.float32)), lambda i: {"pixels": np.ones((32, 40, 3), np.float32)}),
    ],
)
def test_what_is_no_picture_is_refused_by_name(space: Any, see: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Camera '\w+' gives \w+ \(32, 40.*depth maps, four channels"):
        recorded(Foreign(space, see), tmp_path / "d")
    with pytest.raises(InvalidInputError, match=r"Camera 'image' gives uint8 \(4, 32, 40, 3\)"):
        recorded(FrameStackObservation(Foreign(), 4), tmp_path / "d")
    with pytest.raises(InvalidInputError, match=r"'map' is float32 \(64, 64\).*FilterObservation"):
        space = Dict(pixels=RGB, map=Box(-9, 9, (64, 64)))
        recorded(Foreign(space, lambda i: {"pixels": picture(i), "map": np.ones((64, 64), "f4")}), tmp_path / "d")


def vector(i: float) -> Any:
    return np.full(3, i, np.float32)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"agent_pos": lambda i: vector(i)[None]}, [30, 30, 30]),
        ({"agent_pos": vector, "other": vector}, [30, 30, 30]),
        ({"state": lambda i: {"v": vector(-i), "q": vector(i)}}, [30, 30, 30, -30, -30, -30]),
        ({"b": vector, "a": lambda i: np.float64(i + 1), "text": lambda i: "go"}, [31, 30, 30, 30]),
        (
            {
                "desired_goal": lambda i: vector(3),
                "achieved_goal": lambda i: vector(2),
                "observation": lambda i: vector(1),
            },
            [1, 1, 1, 2, 2, 2, 3, 3, 3],
        ),
        ({}, [0]),
    ],
)
def test_numbers_are_joined_in_a_stated_order(parts: dict[str, Any], expected: list[float], tmp_path: Path) -> None:
    def see(i: int) -> Any:
        return {"pixels": picture(i), **{name: make(i) for name, make in parts.items()}}

    unknown = Box(-1, 1, (1,))  # spaces that do not fit are not what counts
    env = Foreign(Dict(pixels=RGB, **dict.fromkeys(parts, unknown)), see)
    assert recorded(env, tmp_path / "d").episode(0).proprio[1].tolist() == expected


def test_numbers_without_a_dictionary(tmp_path: Path) -> None:
    discrete = Foreign(Discrete(100), lambda i: np.int64(i), draw=picture)
    assert recorded(discrete, tmp_path / "discrete").episode(0).proprio[:, 0].tolist() == SHADES
    pair = Foreign(spaces.Tuple([Discrete(100), Discrete(2)]), lambda i: (np.int64(i), 1), draw=picture)
    assert recorded(pair, tmp_path / "pair").episode(0).proprio[1].tolist() == [30, 1]
    drawn = Foreign(NUMBERS, vector, draw=reused)
    assert recorded(drawn, tmp_path / "drawn").episode(0).frames[IMAGE][:, 0, 0, 0].tolist() == SHADES
    several = Foreign(NUMBERS, vector, draw=lambda i: [picture(0), picture(i)])
    assert recorded(several, tmp_path / "several").episode(0).frames[IMAGE][:, 0, 0, 0].tolist() == SHADES


def test_nan_in_a_later_step_is_named_with_its_place_and_costs_nothing_recorded(tmp_path: Path) -> None:
    class Failing(Foreign):
        episodes = 0

        def reset(self, **options: Any) -> Any:
            self.episodes += 1
            return super().reset(**options)

    def see(i: int) -> Any:
        broken = env.episodes > 6 and i == 70
        return {"pixels": picture(i), "agent_pos": np.array([np.nan if broken else i], np.float32)}

    env: Any = Failing(Dict(pixels=RGB, agent_pos=Box(-1, 300, (1,))), lambda i: see(i))
    with pytest.raises(InvalidInputError, match=r"'agent_pos'.*NaN or infinity in step 3 of episode \d+"):
        recorded(env, tmp_path / "d", episodes=20)
    assert open_dataset(tmp_path / "d").episodes > 0


@pytest.mark.parametrize("value", [True, np.array([True]), np.float32(1), 1, np.bool_(True), [[1.0]]])
def test_success_in_any_form_of_one_value(value: Any, tmp_path: Path) -> None:
    env = Foreign(
        tell=lambda t: {"is_success": value if t > 2 else type(value)(np.zeros_like(value)), "progress": t / 4}
    )
    if isinstance(value, np.ndarray | list):
        env.tell = lambda t: {"is_success": np.array([t > 2]), "progress": np.array([t / 4])}
    e = recorded(env, tmp_path / "d").episode(0)
    assert e.success.tolist() == [0, 0, 0, 1, 1] and e.progress.tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("tell", "words"),
    [
        ({"is_success": np.array([True, False])}, r"info\.is_success must be one.*shape \(2,\)"),
        ({"is_success": "yes"}, r"info\.is_success must be one"),
        ({"progress": 3.0}, r"info\.progress .* is 3"),
        ({"progress": [0.1, 0.2]}, r"info\.progress must be one"),
    ],
)
def test_labels_that_are_no_single_value_are_refused_by_name(tell: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=words):
        recorded(Foreign(tell=lambda t: tell), tmp_path / "d")


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda t: {"is_success": True} if t == 4 else {}, [0, 0, 0, 1]),
        (lambda t: {"is_success": t == 2} if t % 2 == 0 else {}, [0, 1, 1, 0]),
        (lambda t: {"is_success": None if t < 3 else np.True_}, [0, 0, 1, 1]),
    ],
)
def test_success_that_is_given_at_some_steps_only_is_kept(tell: Any, expected: list[int], tmp_path: Path) -> None:
    dataset = recorded(Foreign(tell=tell), tmp_path / "d", episodes=2)
    assert [dataset.episode(i).success[1:].tolist() for i in range(2)] == [expected] * 2
    assert recorded(Foreign(tell=tell), tmp_path / "d", episodes=3).episodes == 3  # it is continued as it was begun


def test_success_that_comes_after_the_dataset_was_begun_is_not_lost_silently(tmp_path: Path) -> None:
    class Late(Foreign):
        calls = 0

        def step(self, action: Any) -> Any:
            self.calls += 1
            observation, reward, terminated, truncated, _ = super().step(action)
            return observation, reward, terminated, truncated, {"is_success": True} if self.calls > 12 else {}

    with pytest.raises(InvalidInputError, match=r"tells success in episode 2 .*--success info\.is_success"):
        recorded(Late(), tmp_path / "d", episodes=4)
    assert open_dataset(tmp_path / "d").episodes == 2
    dataset = recorded(Late(), tmp_path / "e", episodes=4, success=success_rule("info.is_success"))
    assert [float(dataset.episode(i).success[-1]) for i in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("info.coverage > 0.5", [0, 0, 1, 1]),
        ("info.nested.coverage>=.5", [0, 1, 1, 1]),
        ("info.flags.1 == true", [1, 1, 1, 1]),
        ("info.reached", [0, 0, 0, 1]),
        ("observation.agent_pos.2 <= 5e1", [1, 1, 0, 0]),
        ("reward != 2", [1, 0, 1, 1]),
    ],
)
def test_a_rule_says_when_the_task_is_solved(rule: str, expected: list[int], tmp_path: Path) -> None:
    def tell(t: int) -> Any:
        c = {"coverage": np.array([t / 4])}
        return {**c, "nested": c, "flags": (0, True), "reached": t > 3, "is_success": False}

    space = Dict(pixels=RGB, agent_pos=NUMBERS)
    env = Foreign(space, lambda i: {"pixels": picture(i), "agent_pos": vector(i)}, tell=tell)
    dataset = recorded(env, tmp_path / "d", success=success_rule(rule))
    assert dataset.episode(0).success[1:].tolist() == expected
    with pytest.raises(InvalidInputError, match=r"request\.success"):
        recorded(env, tmp_path / "d", episodes=2)


def test_a_function_says_when_the_task_is_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_of_mine.py").write_text(
        "def solved(observation, info, reward):\n    return reward > 2\n\ndef broken(observation, info, reward):\n    1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    e = recorded(Foreign(), tmp_path / "d", success=success_rule("rules_of_mine:solved")).episode(0)
    assert e.success[1:].tolist() == [0, 0, 1, 1]
    with pytest.raises(InvalidInputError, match="rules_of_mine:broken raised ZeroDivisionError"):
        recorded(Foreign(), tmp_path / "e", success=success_rule("rules_of_mine:broken"))
    with pytest.raises(UnknownNameError, match="(?i)did you mean 'solved'"):
        success_rule("rules_of_mine:solve")


@pytest.mark.parametrize(
    "text",
    (
        *("", "coverage > 1", "info.a > b", "info > 1", "reward", "reward.a > 1", "info.a > nan", "info.a >"),
        *("info.a = 1", "info.a > 1 or 1", "__import__('os').system('x') > 1", "info.a() > 1", "info.a > 1_0"),
        *("info.a > inf", "observation"),
    ),
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(WorldsimError, match="rule|compared"):
        success_rule(text)


def test_a_rule_of_a_name_that_never_comes_lists_the_names_that_do(tmp_path: Path) -> None:
    env = Foreign(tell=lambda t: {"coverage": t / 4, "deep": {"er": 1}})
    with pytest.raises(
        UnknownNameError, match=r"info\.coverag > 1'.*info\.coverage, info\.deep\.er, observation, reward"
    ):
        recorded(env, tmp_path / "d", success=success_rule("info.coverag > 1"))
    assert not (tmp_path / "d").exists()
    assert math.isnan(recorded(env, tmp_path / "d").episode(0).success[-1])


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_integer_boxes_execute_what_is_recorded_up_to_the_highest_value(kind: Any, tmp_path: Path) -> None:
    env = Foreign(action=Box(0, 3, (2,), kind))
    mixture = varied_behaviours(action_spec_of(env))
    collect(lambda: env, mixture, episodes=12, out=tmp_path / "d")
    actions = np.concatenate([open_dataset(tmp_path / "d").episode(i).action for i in range(12)])
    executed = np.stack(env.executed)
    assert executed.dtype == kind and executed.max() == 3
    assert np.array_equal(executed[-len(actions) :], actions)


@pytest.mark.parametrize("limit", [np.finfo(np.float32).max, 1e39, np.inf])
def test_limits_that_are_none_are_named(limit: float, tmp_path: Path) -> None:
    kind = np.float32 if isinstance(limit, np.float32) else np.float64
    with pytest.raises(InvalidInputError, match=r"limits \[-(3\.40282e\+38|1e\+39|inf), .*no limits"):
        recorded(Foreign(action=Box(-limit, limit, (2,), kind)), tmp_path / "d")


def test_rescaled_actions_are_recorded_in_the_wrapped_space(tmp_path: Path) -> None:
    inner = Foreign(action=Box(0, 10, (2,), np.float32))
    env = RescaleAction(inner, np.float32(-1), np.float32(1))
    dataset = recorded(env, tmp_path / "d")
    assert dataset.action_spec.low == (-1, -1) and dataset.action_spec.high == (1, 1)
    reached = np.stack(inner.executed[-4:])
    assert np.allclose((dataset.episode(0).action + 1) * 5, reached, atol=1e-5)


class Troubled(Foreign):
    """Fails at a place in its seventh episode; the first reset is a trial."""

    def __init__(self, place: str, trouble: Any) -> None:
        super().__init__(NUMBERS, vector, draw=picture, tell=lambda t: {"is_success": False})
        self.place, self.trouble, self.episodes = place, trouble, 0

    def _now(self, place: str) -> bool:
        return place == self.place and self.episodes > 8 and (place == "reset" or self.t == 2)

    def reset(self, **options: Any) -> Any:
        self.episodes += 1
        made = super().reset(**options)
        return self.trouble() if self._now("reset") else made

    def step(self, action: Any) -> Any:
        made = super().step(action)
        return self.trouble() if self._now("step") else made

    def render(self) -> Any:
        return self.trouble() if self._now("render") else super().render()


def boom() -> Any:
    raise RuntimeError("boom")


def leave() -> Any:
    raise SystemExit(0)


def panic() -> Any:
    raise BaseException("rust")


def stop() -> Any:
    raise StopIteration


def hang() -> Any:
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("place", ["reset", "step", "render"])
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (boom, "raised RuntimeError: boom"),
        (leave, "raised SystemExit"),
        (panic, "raised BaseException: rust"),
        (stop, "raised StopIteration"),
        (hang, "hung"),
    ],
)
def test_an_environment_that_fails_is_named_with_the_episode(
    place: str, trouble: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(EnvError, match=rf"Troubled {words}.* in {place}( after step 2| 2)? of episode \d+"):
        recorded(Troubled(place, trouble), tmp_path / "d", episodes=20, timeout_s=0.3)
    dataset = open_dataset(tmp_path / "d")
    assert 5 <= dataset.episodes < 9 and dataset.episode(dataset.episodes - 1).steps == 4
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(
    ("place", "returned", "words"),
    [
        (
            "step",
            (np.zeros(4, np.float32), 0.0, False, False, {}),
            r"observation \[4\] in step 2 of episode \d+; before it was",
        ),
        (
            "step",
            (vector(0), 0.0, False, {}),
            r"step .* must return observation, reward.*tuple of 4 in step 2 of episode",
        ),
        ("step", (vector(0), [1, 2], False, False, {}), r"In step 2 of episode \d+: reward must be one number"),
        (
            "step",
            (vector(0), 0.0, np.array([True, False]), False, {}),
            r"step 2 of episode \d+: terminated must be one",
        ),
        ("step", (None, 0.0, False, False, {}), r"step 2 of episode \d+: The observation 'observation' is a NoneType"),
        ("reset", vector(0), r"reset .* must return observation and info; got a ndarray in reset of episode"),
        (
            "render",
            picture(0, (16, 16, 3)),
            r"Camera 'image' .* gives 16x16 in step 2 of episode \d+; before it was 32x40",
        ),
        ("render", None, r"In step 2 of episode \d+: .*no RGB pixels"),
        ("render", (picture(0), picture(1)), r"In step 2 of episode \d+: .*no RGB pixels"),
    ],
)
def test_another_shape_later_is_named_with_the_episode(place: str, returned: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=words):
        recorded(Troubled(place, lambda: returned), tmp_path / "d", episodes=20)
    assert open_dataset(tmp_path / "d").episodes >= 5


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            gymnasium.error.DependencyNotInstalled('no pygame, run `pip install "gymnasium[x]"`'),
            r'pip install "gymnasium\[x\]"$',
        ),
        (
            ModuleNotFoundError("No module named 'imageio'", name="imageio"),
            r'module imageio: pip install "gymnasium\[mujoco\]"$',
        ),
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "pip install a$"),
        (ImportError("not installed, run `pip install 'shimmy[dm-control]'`"), r"pip install 'shimmy\[dm-control\]'$"),
        (
            RuntimeError("an OpenGL platform library has not been loaded"),
            r"cannot draw in render .*libegl1 .*libosmesa6",
        ),
    ],
)
def test_missing_libraries_are_one_sentence_with_the_line_that_installs_them(
    error: Any, words: str, tmp_path: Path
) -> None:
    def draw(i: int) -> Any:
        raise error

    with pytest.raises(MissingExtraError, match=words) as caught:
        recorded(Foreign(NUMBERS, vector, draw=draw), tmp_path / "d")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "shape", "words"),
    [
        (16, (16, 16), "32x64 scaled to 8x16 and padded with black to 16x16"),
        ((16, 32), (16, 32), "32x64 scaled to 16x32"),
        ((64, 64), (64, 64), "32x64 and padded with black to 64x64"),
        (None, (32, 64), "32x64"),
    ],
)
def test_frames_keep_their_aspect(size: Any, shape: tuple[int, int], words: str, tmp_path: Path) -> None:
    env = Foreign(Box(0, 255, (32, 64, 3), np.uint8), lambda i: picture(200, (32, 64, 3)))
    frame = recorded(env, tmp_path / "d", image_px=size).episode(0).frames[IMAGE][0]
    assert frame.shape[:2] == shape
    inner = Fit.of((32, 64), size).inner
    assert (frame == 200).all(-1).sum() == inner[0] * inner[1] and frame[0].max() == (0 if inner[0] < shape[0] else 200)
    assert words.replace("32x64 and", "32x64 scaled to 32x64 and") in f"{Fit.of((32, 64), size)}"


def test_what_was_read_is_said(tmp_path: Path) -> None:
    space = Dict(pixels=RGB, b=NUMBERS, a=NUMBERS)
    env = Foreign(space, lambda i: {"pixels": picture(i), "b": vector(i), "a": vector(i)})
    adapter = EnvAdapter(env)
    adapter.read(*adapter.reset(0))
    assert adapter.describe() == "cameras: image 32x40; proprioception: a[3] + b[3]"


def test_states_are_kept_by_seed_where_nothing_else_is_offered(tmp_path: Path) -> None:
    e = recorded(Foreign(), tmp_path / "d").episode(0)
    assert e.simulator.tolist() == [e.seed]


def test_behaviours_that_watch_never_see_a_camera_that_changes_size(tmp_path: Path) -> None:
    env = Foreign(see=lambda i: picture(i, (32, 40, 3) if i < 50 else (16, 16, 3)))
    with pytest.raises(EnvError, match="Camera 'image' .* gives 16x16 in step 2 of episode 0; before it was 32x40"):
        collect(lambda: env, varied_behaviours(action_spec_of(env)), episodes=1, out=tmp_path / "d")


def test_tensors_and_cameras_with_slashes_are_read(tmp_path: Path) -> None:
    cameras = {"a/b": RGB, "c": RGB}
    see = lambda i: {"pixels": {key: torch.from_numpy(picture(i)) for key in cameras}, "agent_pos": torch.ones(3)}  # noqa: E731
    recorded(Foreign(Dict(pixels=Dict(cameras), agent_pos=NUMBERS), see), tmp_path / "d", episodes=1)
    dataset = open_dataset(tmp_path / "d")
    assert [camera.key for camera in dataset.cameras] == ["observation.images.a_b", "observation.images.c"]
    assert dataset.episode(0).proprio[0].tolist() == [1, 1, 1]


def test_an_environment_of_several_episodes_is_named() -> None:
    with pytest.raises(InvalidInputError, match="SyncVectorEnv plays 2 episodes at once"):
        EnvAdapter(gymnasium.vector.SyncVectorEnv([Foreign] * 2))  # type: ignore[arg-type]
