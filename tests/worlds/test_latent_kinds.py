"""Latent worlds of several cameras, of several frames a step, with text and noise, of parts whose numbers are known."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.actions import ActionSpec
from worldsim.conditions import Conditions
from worldsim.core import IMAGE, IMAGES, STATE, TASK, Camera, Observation, Rows, WorldSpec, text_rows
from worldsim.data.windows import Clip
from worldsim.noise import normal
from worldsim.predict.base import Context, Prediction
from worldsim.testing import check_world
from worldsim.tokenizers.cameras import CamerasConfig, CamerasTokenizer
from worldsim.worlds.heads import Heads, HeadsConfig
from worldsim.worlds.latent import LatentWorld, drawable_shape

CELL = 2  # pixels
B = 2
ACTION = ActionSpec(names=("x", "grip"), units=("m", "m"), low=(-2, 0), high=(2, 4), idle=(0, 0), rate_hz=10)
IDLE = (0.0, -1.0)  # in network units


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellsConfig:
    latent_shape: tuple[int, int, int]


class Cells(nn.Module):
    """The brightness of each cell, of every `stride`-th frame; frames between two latents lie between them."""

    family = "grid"

    def __init__(self, height: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.config, self.temporal_stride = CellsConfig(latent_shape=(1, height, width)), stride
        self.latent_shape = self.config.latent_shape

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        assert x_BCTHW.shape[3:] == (self.latent_shape[1] * CELL, self.latent_shape[2] * CELL)
        return F.avg_pool2d(x_BCTHW.mean(1)[:, :: self.temporal_stride], CELL)[:, None]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        z, s = z_BCTHW, self.temporal_stride
        frames = [z[:, :, :1]]
        for t in range(1, z.shape[2]):
            frames += [torch.lerp(z[:, :, t - 1 : t], z[:, :, t : t + 1], (i + 1) / s) for i in range(s)]
        return torch.cat(frames, 2).repeat_interleave(CELL, 3).repeat_interleave(CELL, 4).expand(-1, 3, -1, -1, -1)

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Rows):
    z: Tensor  # [B, C, H, W]
    proprio: Tensor  # [B, P]
    action: Tensor  # [B, E]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    latent_shape: tuple[int, int, int]
    action_dim: int
    proprio_dim: int = 1
    history: int = 1


class Shift(nn.Module):
    """Every frame is brighter than the one before by a tenth of its actions, the noise and the first letter of the text."""

    def __init__(
        self, shape: tuple[int, int, int], *, frames: int = 1, stride: int = 1, noise: bool = False, text: bool = False
    ) -> None:
        super().__init__()
        self.config = ShiftConfig(latent_shape=shape, action_dim=2 * frames * stride)
        self.frames_per_step, self.noise_shape = frames, (1,) if noise else None
        self.reads = frozenset({"text"} if text else ())

    def start(self, context: Context) -> Memory:
        return Memory(z=context.z, proprio=context.proprio, action=context.action)

    def step(
        self, carry: Memory, action_BE: Tensor, proprio_BP: Tensor, conditions: Conditions, noise: Tensor | None
    ) -> tuple[Memory, Prediction]:
        each_BN = action_BE.unflatten(1, (self.frames_per_step, -1)).sum(2) / 10
        each_BN = each_BN + (0 if noise is None else noise)
        if self.reads:
            assert conditions.text is not None
            each_BN = each_BN + conditions.text[:, :1] / 1000
        z_BNCHW = carry.z[:, None] + each_BN.cumsum(1)[:, :, None, None, None]
        later = Memory(z=z_BNCHW[:, -1], proprio=proprio_BP, action=action_BE)
        return later, Prediction(z=z_BNCHW, uncertainty=torch.full((len(each_BN),), 0.5))

    def observe(self, carry: Memory, z_BCHW: Tensor, action_BE: Tensor, proprio_BP: Tensor) -> Memory:
        return Memory(z=z_BCHW, proprio=proprio_BP, action=action_BE)

    def loss(self, clip: Clip, unroll: int, generator: Any = None) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError

    def calibrate(self, clip: Clip) -> None:
        raise NotImplementedError


def world(tokenizer: Any, predictor: Shift, cameras: tuple[Camera, ...], **changes: Any) -> LatentWorld:
    """A world of these parts, with heads that are untrained."""
    torch.manual_seed(0)
    step, frames = predictor.frames_per_step, predictor.frames_per_step * tokenizer.temporal_stride
    spec = WorldSpec(
        action=ACTION,
        cameras=cameras,
        latent_shape=drawable_shape(tokenizer, step),
        proprio_dim=1,
        horizon=2 * frames,
        actions_per_step=frames,
        **changes,
    )
    config = HeadsConfig(latent_shape=tokenizer.latent_shape, proprio_dim=1, action_dim=2 * frames)
    return LatentWorld(spec=spec, tokenizer=tokenizer, predictor=predictor, heads=Heads(config))


def dim(camera: Camera, *, seed: int = 0) -> Tensor:
    """Frames of cells of random darker shades, uint8 [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    shades = torch.randint(0, 100, (B, camera.height // CELL, camera.width // CELL), generator=generator)
    frames = shades.to(torch.uint8).repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return frames[..., None].expand(-1, -1, -1, 3).contiguous()


def levels(frames: Tensor) -> Tensor:
    """Brightness of the first pixel in units of the network, [...]."""
    return frames[..., 0, 0, 0].float() / 127.5 - 1


def one_camera() -> tuple[tuple[Camera, ...], Observation]:
    camera = Camera(key=IMAGE, height=4, width=6)
    return (camera,), {IMAGE: dim(camera), STATE: torch.tensor([[0.3], [-0.2]])}


def test_every_camera_is_encoded_and_drawn_by_its_own_tokenizer() -> None:
    cameras = (
        Camera(key=IMAGES + "top", height=4, width=6),
        Camera(key=IMAGES + "side", height=8, width=2),
        Camera(key=IMAGES + "wrist", height=2, width=4),
    )
    keys = tuple(camera.key for camera in cameras)
    cells: list[Any] = [Cells(c.height // CELL, c.width // CELL) for c in cameras]
    tokenizer = CamerasTokenizer(CamerasConfig(keys=keys, names=("cells",) * 3, configs=({},) * 3), cells)
    assert tokenizer.latent_shape == (3, 4, 3)
    made = world(tokenizer, Shift(tokenizer.latent_shape), cameras)
    seen = {camera.key: dim(camera, seed=i) for i, camera in enumerate(cameras)}
    state = made.reset({**dict(reversed(seen.items())), STATE: torch.zeros(B, 1)}, torch.arange(B))
    _, step = made.step(state, torch.tensor([[2.0, 2.0]] * B))  # 0.1 brighter: one shade is 1 / 127.5
    for key, frames in seen.items():
        assert torch.equal(made.decode(state.z, key), frames)
        assert torch.equal(made.roundtrip(frames, key), frames)
        assert (made.decode(step.latent, key).int() - frames.int() - 13).abs().max() <= 1
    assert torch.equal(made.decode(state.z), seen[keys[0]])


@pytest.mark.parametrize(("latents", "stride"), [(3, 1), (1, 2), (3, 2)])
def test_a_step_of_several_frames_shows_each_of_them_in_order(latents: int, stride: int) -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3, stride=stride), Shift((1, 2, 3), frames=latents, stride=stride), cameras)
    state = made.reset(seen, torch.arange(B))
    begun, frames = levels(seen[IMAGE]), latents * stride
    actions = torch.rand(B, 2, frames, 2, generator=torch.Generator().manual_seed(1)) * 2
    unit = ACTION.normalize(actions).sum(-1).unflatten(2, (latents, stride)).sum(3) / 10  # [B, 2, n]
    ends = begun[:, None] + unit.flatten(1).cumsum(1)  # of every latent frame, [B, 2 n]
    every = torch.cat([begun[:, None], ends], 1)
    parts = torch.arange(1, stride + 1) / stride
    shown = (every[:, :-1, None] + (every[:, 1:] - every[:, :-1])[..., None] * parts).flatten(1)
    for t in range(2):
        state, step = made.step(state, actions[:, t])
        assert torch.allclose(state.z[:, 0, 0, 0], every[:, latents * (t + 1)], atol=1e-5)
        drawn = levels(made.decode(step.latent))
        assert torch.allclose(drawn, shown[:, t * frames : (t + 1) * frames].clamp(-1, 1), atol=0.009)
    assert torch.equal(state.step, torch.tensor([2, 2]))
    stands = made.present(state)
    assert made.decode(stands.latent).shape == made.decode(step.latent).shape
    assert torch.allclose(levels(made.decode(stands.latent)), state.z[:, :1, 0, 0].clamp(-1, 1), atol=0.009)


def test_what_is_seen_after_a_step_of_several_frames_begins_the_history_again() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3), Shift((1, 2, 3), frames=3), cameras)
    first = made.reset(seen, torch.arange(B))
    later, _ = made.step(first, torch.ones(B, 3, 2))
    other = {IMAGE: dim(cameras[0], seed=5), STATE: torch.tensor([[0.8], [0.9]])}
    now = made.see(later, other, torch.ones(B, 3, 2))
    assert torch.equal(now.step, torch.tensor([2, 2])) and torch.equal(now.key, first.key)
    assert torch.equal(now.start, first.start)
    assert torch.equal(now.z, made.encode(other)) and torch.equal(now.proprio, other[STATE])


def test_what_is_seen_takes_the_place_of_what_was_predicted() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3), Shift((1, 2, 3)), cameras)
    first = made.reset(seen, torch.arange(B))
    assert torch.equal(first.carry.action, torch.tensor([IDLE] * B))
    other = {IMAGE: dim(cameras[0], seed=5), STATE: torch.tensor([[0.8], [0.9]])}
    now = made.see(first, other, torch.tensor([[1.0, 1.0]] * B))
    assert torch.equal(now.step, torch.ones(B, dtype=torch.int64))
    assert torch.equal(now.z, made.encode(other)) and torch.equal(now.proprio, other[STATE])
    assert torch.equal(now.start, first.start)
    assert torch.equal(now.carry.proprio, seen[STATE])  # of before the action
    assert torch.allclose(now.carry.action, torch.tensor([[0.5, -0.5]] * B))


def test_heads_read_the_last_latent_the_first_of_the_episode_and_the_action_within_its_limits() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3), Shift((1, 2, 3), frames=3), cameras)
    state = made.reset(seen, torch.arange(B))
    for _ in range(2):
        before = state
        state, step = made.step(state, torch.full((B, 3, 2), 9.0))
    proprio, progress, success = made.heads(state.z, before.start, before.proprio, torch.ones(B, 6))
    assert torch.equal(before.start, made.encode(seen)) and not torch.equal(before.start, before.z)
    for given, expected in (
        (step.proprio, proprio),
        (step.progress, progress.sigmoid()),
        (step.success, success.sigmoid()),
    ):
        assert torch.equal(given, expected)


def test_noise_is_that_of_the_episode_and_the_step() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3), Shift((1, 2, 3), noise=True), cameras)
    keys = torch.tensor([7, 8])
    state = made.reset(seen, keys)
    middle = torch.tensor([[0.0, 2.0]] * B)
    for t in range(2):
        later, _ = made.step(state, middle)
        moved = (later.z - state.z)[:, 0, 0, 0]
        assert torch.allclose(moved, normal(keys, t, (1,), stream=1)[:, 0], atol=1e-5)
        state = later


def test_an_episode_without_a_task_has_that_of_the_world() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3), Shift((1, 2, 3), text=True), cameras, task="A")
    middle = torch.tensor([[0.0, 2.0]] * B)
    for given, letters in (({}, "AA"), ({TASK: text_rows(["B", "Cd"])}, "BC")):
        state = made.reset({**seen, **given}, torch.arange(B))
        moved = (made.step(state, middle)[0].z - state.z)[:, 0, 0, 0]
        assert torch.allclose(moved * 1000, torch.tensor([float(ord(c)) for c in letters]), atol=0.01)
        assert torch.equal(state.rows([1]).conditions.text, state.conditions.text[1:])


def test_worlds_of_these_parts_keep_the_contract() -> None:
    cameras, seen = one_camera()
    made = world(Cells(2, 3, stride=2), Shift((1, 2, 3), frames=2, stride=2, noise=True), cameras)
    check_world(made, starts=seen)
