"""A generative predictor: the diffusion transformer trained by rectified flow, sampled in a few steps.

The next frame's change is drawn from noise, given the clean history frames, their actions and proprioception. It is trained on
its own rollouts, drawn with the very sampler that is used afterwards: in the trial, more sampling steps than were trained with
made rollouts worse.

Rectified flow is straight paths from data to noise and the Euler sampler that walks them back: x_t = (1 - t) x + t e with e standard
normal; the velocity is v = e - x (Liu et al., "Flow straight and fast", ICLR 2023, eq. 1; sign and direction as
Cosmos-Predict2.5, arXiv 2511.00062, section 3.1). Timesteps are logit-normal and shifted towards noise.

Shape legend: B batch, K history, T time, C H W latent, P proprio, A action, F = K + 1 frames of the network's clip.
"""

import dataclasses
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.conditions import Conditions
from worldsim.core import TASK
from worldsim.data.windows import Clip
from worldsim.errors import InvalidInputError
from worldsim.predict.base import History, WindowPredictor
from worldsim.predict.dit.blocks import init_linear
from worldsim.predict.dit.network import DiffusionTransformer, DiffusionTransformerConfig

Velocity = Callable[[Tensor, float], Tensor]
"""From x_t and t to the velocity at x_t."""


def interpolate(x: Tensor, noise: Tensor, time_B: Tensor) -> Tensor:
    """The point x_t on the straight path of each sample: t = 0 is data, t = 1 is noise."""
    t = time_B.view(-1, *[1] * (x.ndim - 1))
    return (1 - t) * x + t * noise


def shift_time(time: Tensor, shift: float) -> Tensor:
    """Move timesteps [...] in 0..1 towards noise: t' = s t / (1 + (s - 1) t); the ends stay."""
    return shift * time / (1 + (shift - 1) * time)


def time_grid(steps: int, shift: float) -> list[float]:
    """The `steps` + 1 timesteps that the sampler visits, from 1 to 0."""
    return [float(t) for t in shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)]


def sample_times(
    count: int, *, shift: float, steps: int, grid_share: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw training timesteps: some where the sampler will stand, the others logit-normal over all of 0..1.

    Args:
        count: How many, N.
        shift: As in `shift_time`.
        steps: Steps of the sampler.
        grid_share: Probability of drawing one of the sampler's own timesteps.
        generator: Source of randomness.

    Returns:
        float32 [N] on the generator's device, in 0..1.
    """
    device = generator.device if generator is not None else None
    normal = torch.randn(count, generator=generator, device=device)
    spread = shift_time(normal.sigmoid(), shift)
    visited = torch.tensor(time_grid(steps, shift)[:-1], dtype=torch.float32, device=device)
    on_grid = visited[torch.randint(steps, (count,), generator=generator, device=device)]
    return torch.where(torch.rand(count, generator=generator, device=device) < grid_share, on_grid, spread)


def euler(velocity: Velocity, noise: Tensor, grid: list[float]) -> tuple[Tensor, Tensor]:
    """Walk from noise to data along `grid`.

    Args:
        velocity: The field.
        noise: Where to start, [B, ...], standard normal.
        grid: Timesteps from 1 to 0.

    Returns:
        The sample [B, ...], and the end point that the first step alone aimed at; they agree where the paths are straight, that is where
        the outcome is certain.
    """
    x, aim = noise, noise
    for i, (now, then) in enumerate(itertools.pairwise(grid)):
        v = velocity(x, now)
        if i == 0:
            aim = x - now * v
        x = x + (then - now) * v
    return x, aim


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Shape and sampler of a flow predictor.

    Attributes:
        latent_shape: (C, H, W).
        proprio_dim: P.
        action_dim: A.
        history: K frames of context.
        steps: Sampler steps, in training rollouts and afterwards.
        shift: Pull of timesteps towards noise; 1 for none.
        grid_share: Share of training timesteps drawn where the sampler stands.
        patch: Side of a token in latent cells; H and W must be multiples.
        width: Of the transformer, a multiple of `heads`.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        adaln_lora_dim: Rank of the per-block modulation.
        time_scale: Timesteps 0..1 are multiplied by this before their sinusoids.
        text_bytes: L, how much of each episode's task text is read, by cross-attention; 0 for none.
        rate_hz: Latent frames a second, for positions in time that hold at other rates; 0 counts frames.
        rope_ratios: Stretch of positions in time, height and width, as in `worldsim.predict.dit.attention.rope_angles`.
    """

    latent_shape: tuple[int, int, int]
    proprio_dim: int
    action_dim: int
    history: int = 2
    steps: int = 2
    shift: float = 1.0
    grid_share: float = 0.5
    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    adaln_lora_dim: int = 32
    time_scale: float = 1000.0
    text_bytes: int = 0
    rate_hz: float = 0.0
    rope_ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)


class FlowPredictor(WindowPredictor):
    """Draw the next latent from noise."""

    noise_shape: tuple[int, ...] | None

    latent_mean: Tensor
    latent_scale: Tensor
    change_scale: Tensor
    proprio_mean_P: Tensor
    proprio_scale_P: Tensor

    def __init__(self, config: FlowConfig) -> None:
        """Make an untrained predictor.

        Raises:
            InvalidInputError: The latent grid does not divide into patches, or the sampler has no step.
        """
        super().__init__()
        channels, height, width = config.latent_shape
        if height % config.patch or width % config.patch:
            raise InvalidInputError(
                f"The latent grid {height} x {width} is no multiple of patch={config.patch}. Set patch=1 or another divisor."
            )
        if config.steps < 1:
            raise InvalidInputError(f"The sampler needs at least one step; got steps={config.steps}.")
        self.config = config
        self.noise_shape = tuple(config.latent_shape)
        self.net = DiffusionTransformer(
            DiffusionTransformerConfig(
                in_channels=channels + 1,  # one channel marks history frames
                out_channels=channels,
                patch=config.patch,
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                adaln_lora_dim=config.adaln_lora_dim,
                condition_dim=config.action_dim + config.proprio_dim,
                context_dim=config.width if config.text_bytes else 0,
                rope_ratios=config.rope_ratios,
            )
        )
        if config.text_bytes:
            self.text_embedding = nn.Embedding(256, config.width)
            self.text_position = nn.Parameter(torch.zeros(config.text_bytes, config.width))
        self.reads = frozenset({"text"} if config.text_bytes else ())
        init_linear(self.net.final_layer.linear, zero=True)  # start from the best guess that needs no network
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_scale", torch.ones(1))
        self.register_buffer("change_scale", torch.ones(channels, 1, 1))
        self.register_buffer("proprio_mean_P", torch.zeros(config.proprio_dim))
        self.register_buffer("proprio_scale_P", torch.ones(config.proprio_dim))

    def calibrate(self, clip: Clip) -> None:
        """Measure the data's statistics on short windows.

        Changes are scaled by their energy-weighted size, sqrt(sum d^4 / sum d^2): most cells never change, and noise should be as large as
        the changes that happen.
        """
        change = clip.z_BTCHW[:, 1:] - clip.z_BTCHW[:, :-1]
        energy = change.square()
        size = energy.square().sum((0, 1, 3, 4)) / energy.sum((0, 1, 3, 4)).clamp_min(1e-12)
        self.change_scale.copy_(size.sqrt().clamp_min(1e-4)[:, None, None])
        self.latent_mean.copy_(clip.z_BTCHW.mean((0, 1, 3, 4))[:, None, None])
        self.latent_scale.copy_((clip.z_BTCHW - self.latent_mean).square().mean().sqrt().clamp_min(1e-4))
        self.proprio_mean_P.copy_(clip.proprio_BTP.mean((0, 1)))
        self.proprio_scale_P.copy_(clip.proprio_BTP.std((0, 1)).clamp_min(1e-6))

    def text_tokens(self, conditions: Conditions | None) -> Tensor | None:
        """Tokens [B, L, D] of the episodes' texts, cut or padded to `text_bytes`; None for a predictor without text.

        Raises:
            InvalidInputError: The predictor reads text and none is given.
        """
        length = self.config.text_bytes
        if not length:
            return None
        if conditions is None or conditions.text is None:
            raise InvalidInputError(
                f"This predictor reads each episode's task text; give it as {TASK!r} with the starts."
            )
        text_BL = F.pad(conditions.text[:, :length], (0, max(0, length - conditions.text.shape[1])))
        tokens_BLD: Tensor = self.text_embedding(text_BL.long()) + self.text_position
        return tokens_BLD

    def velocity(
        self,
        x_BCHW: Tensor,
        time_B: Tensor,
        history_BCKHW: Tensor,
        condition_BFA: Tensor,
        text_BLD: Tensor | None = None,
    ) -> Tensor:
        """The flow's velocity at a noisy change.

        The network adds to the best guess from x_t and t alone for data of unit variance, v = ((2 t - 1) x_t + s F) / s^2 with
        s^2 = t^2 + (1 - t)^2 (the preconditioning of Karras et al., NeurIPS 2022, eq. 7, carried over to straight paths).

        Args:
            x_BCHW: Noisy change, in units of `change_scale`.
            time_B: Timestep of each sample, 0..1.
            history_BCKHW: Normed history frames and their mark, [B, C + 1, K, H, W].
            condition_BFA: Action and proprioception of every frame.
            text_BLD: Tokens of the episodes' texts, see `text_tokens`.

        Returns:
            [B, C, H, W].
        """
        frame_BCHW = torch.cat([x_BCHW, torch.zeros_like(x_BCHW[:, :1])], dim=1)
        clip_BCFHW = torch.cat([history_BCKHW, frame_BCHW[:, :, None]], dim=2)
        clean_BK = time_B.new_zeros(len(time_B), self.config.history)
        time_BF = torch.cat([clean_BK, time_B[:, None]], dim=1) * self.config.time_scale
        fps_hz = self.config.rate_hz or None
        out_BCFHW = self.net(clip_BCFHW, time_BF, condition_BTA=condition_BFA, context_BLD=text_BLD, fps_hz=fps_hz)
        out_BCHW = out_BCFHW[:, :, -1].float()
        t = time_B[:, None, None, None]
        spread = t.square() + (1 - t).square()
        v_BCHW: Tensor = (2 * t - 1) / spread * x_BCHW + out_BCHW / spread.sqrt()
        return v_BCHW

    def context(self, past: History) -> tuple[Tensor, Tensor]:
        """What the network is given: history frames [B, C + 1, K, H, W], and each frame's action and proprioception [B, F, A + P].

        A frame's action is the one that led to it: none for the oldest frame. The frame to be drawn carries the last known
        proprioception.
        """
        z_BCKHW = ((past.z - self.latent_mean) / self.latent_scale).transpose(1, 2)
        history = torch.cat([z_BCKHW, torch.ones_like(z_BCKHW[:, :1])], dim=1)
        body_BKP = (past.proprio - self.proprio_mean_P) / self.proprio_scale_P
        body_BFP = torch.cat([body_BKP, body_BKP[:, -1:]], dim=1)
        led_BFA = torch.cat([torch.zeros_like(past.action[:, :1]), past.action], dim=1)
        return history, torch.cat([led_BFA, body_BFP], dim=-1)

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw the next latent; arguments as `WindowPredictor.predict`.

        Returns:
            Next latent [B, C, H, W], and how far the first sampler step's aim was from where the last one ended, root mean square in units of
            typical change [B]; 0 for a sampler of one step.

        Raises:
            InvalidInputError: No noise, or noise of another shape.
        """
        if noise is None or noise.shape != past.z[:, -1].shape:
            given = None if noise is None else tuple(noise.shape)
            raise InvalidInputError(f"This predictor draws from noise [B, *{self.noise_shape}]; got {given}.")
        history, condition = self.context(past)
        text = self.text_tokens(conditions)

        def velocity(x_BCHW: Tensor, time: float) -> Tensor:
            return self.velocity(x_BCHW, x_BCHW.new_full((len(x_BCHW),), time), history, condition, text)

        x, aim = euler(velocity, noise, time_grid(self.config.steps, self.config.shift))
        spread_B = (x - aim).square().flatten(1).mean(1).sqrt()
        return past.z[:, -1] + x * self.change_scale, spread_B

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the velocity at every step of its own `unroll`-step rollout.

        The rollout between steps is drawn with the sampler, without gradient.

        Args:
            clip: Latents [B, T, C, H, W] with T >= history + unroll, and actions in [-1, 1].
            unroll: Steps the predictor is fed its own output.
            generator: Source of noise and timesteps.
        """
        k, z_BKCHW = self.config.history, clip.z_BTCHW[:, : self.config.history]
        conditions = Conditions(text=clip.text_BL)
        text = self.text_tokens(conditions)
        total, figures = z_BKCHW.new_zeros(()), dict[str, float]()
        for h in range(unroll):
            past = History.at(clip, h, z_BKCHW)
            target = (clip.z_BTCHW[:, k + h] - z_BKCHW[:, -1]) / self.change_scale
            noise = _normal_like(target, generator)
            times = sample_times(
                len(target),
                shift=self.config.shift,
                steps=self.config.steps,
                grid_share=self.config.grid_share,
                generator=generator,
            ).to(target)
            history, condition = self.context(past)
            velocity = self.velocity(interpolate(target, noise, times), times, history, condition, text)
            total = total + (velocity - (noise - target)).square().mean()
            if h + 1 < unroll:
                with torch.no_grad():
                    z_BCHW, _ = self.predict(past, _normal_like(target, generator), conditions)
                z_BKCHW = past.followed_by(z_BCHW).z
                figures["mse"] = float((z_BCHW - clip.z_BTCHW[:, k + h]).square().mean())
        return total / max(unroll, 1), figures


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise, drawn where the generator lives."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device).to(x)
