"""A small untrained latent world over the toy scene, quick to make; its numbers mean nothing, its shapes do."""

import torch

from tests.tokenizers.scenes import SIZE, sample
from tests.train.toy import ACTION
from worldsim.core import IMAGE, STATE, Camera, WorldSpec
from worldsim.data.starts import Starts
from worldsim.predict.rigid import RigidConfig, RigidPredictor
from worldsim.tokenizers.layers.tokenizer import LayersTokenizer
from worldsim.video import to_frames
from worldsim.worlds.heads import Heads, HeadsConfig
from worldsim.worlds.latent import LatentWorld


def world(*, seed: int = 0) -> LatentWorld:
    """Make it."""
    torch.manual_seed(seed)
    frames, _, spots = sample(200, seed=seed)
    tokenizer = LayersTokenizer.fit(frames)
    shape = tokenizer.latent_shape
    predictor = RigidPredictor(
        RigidConfig(
            latent_shape=shape, orders=tokenizer.config.orders, proprio_dim=2, action_dim=2, members=2, width=16
        )
    )
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    starts = Starts(
        {
            IMAGE: to_frames(frames[:8]),
            STATE: torch.tensor(spots[:8], dtype=torch.float32),
        }
    )
    spec = WorldSpec(
        action=ACTION, cameras=(Camera(height=SIZE, width=SIZE),), latent_shape=shape, proprio_dim=2, horizon=6
    )
    heads = Heads(HeadsConfig(latent_shape=shape, proprio_dim=2, action_dim=2))
    return LatentWorld(spec=spec, tokenizer=tokenizer, predictor=predictor, heads=heads, starts=starts)
