"""Small critics with random weights for the tests, and a world that draws its latents."""

from functools import cache
from types import SimpleNamespace

import torch

from worldsim.core import Camera, Rollout
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.settings import CriticSettings
from worldsim.reason.tasks.outcome import BINS, OPTIONS, wording
from worldsim.reason.vlm.model import VLM
from worldsim.reason.vlm.tiny import TinyConfig


def texts():
    prompts = [wording(about)[0] for about in ("success", "progress")]
    return prompts + [f"<think>object 12 13</think><answer>{o}</answer>" for o in (*OPTIONS, *BINS)]


@cache
def vlm(family="qwen3_vl", size=32, seed=1):
    return VLM.tiny(texts(), TinyConfig(size=size, family=family), seed=seed)


def critic(family="qwen3_vl", *, bias=0.0, world=None, locate=False, explain=False, batch=16, **settings):
    chosen = {"size": 32, "frames": 4, "unsaid": 1.0, "band": 0.0, **settings}
    made = CriticSettings(platt=Platt(bias=bias), **chosen)
    return ReasonCritic(vlm(family), made, world=world, locate=locate, explain=explain, batch=batch)


def frames(count=5, steps=9, size=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, steps, size, size, 3), generator=draw, dtype=torch.uint8)


class Painter:
    """A world as far as the critic needs one: latents are the frames themselves, as floats."""

    spec = SimpleNamespace(cameras=(Camera(height=32, width=32),), actions_per_step=1, validity=None)

    def __init__(self):
        self.drawn = []

    def reset(self, starts, keys):
        raise NotImplementedError

    def step(self, state, action):
        raise NotImplementedError

    def rollout(self, state, actions):
        raise NotImplementedError

    def decode(self, latent, camera=None):
        self.drawn.append(tuple(latent.shape[:-3]))
        return latent.movedim(-3, -1).to(torch.uint8)


def rollout(frames_bthwc):
    b, t = frames_bthwc.shape[:2]
    zeros = torch.zeros(b, t)
    return Rollout(
        latent=frames_bthwc.movedim(-1, -3).float(),
        proprio=torch.zeros(b, t, 2),
        progress=zeros,
        success=zeros,
        uncertainty=zeros,
        action=torch.zeros(b, t, 2),
    )
