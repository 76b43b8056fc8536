"""A learned causal autoencoder for images and videos, in the shape of the Cosmos tokenizers, at any size.

Haar bands, then a convolutional encoder and decoder with factorised causal blocks (arXiv 2501.03575, section 4.1; plain
continuous latents, no quantiser). The first latent frame depends on the first frame only, so an image is a video of one frame.
Layout and parameter names follow diffusers' `AutoencoderKLCosmos`: its weights load as they are.

Training here uses the colour loss alone (their first stage without the perceptual network).

Shape legend: B batch, C channels, T time, H W pixels.
"""

import dataclasses
import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import LatentFamily
from worldsim.tokenizers.causal.blocks import (
    CausalConv3d,
    Downsample,
    FactorisedConv,
    FrameAttention,
    FrameNorm,
    ResidualBlock,
    Upsample,
)
from worldsim.tokenizers.haar import check_divisible, check_frames, haar_3d, haar_3d_inverse


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalHaarConfig:
    """Shape of a causal autoencoder.

    Attributes:
        image_size: H, W in pixels, multiples of `spatial`.
        latent_channels: Channels of a latent.
        spatial: Pixels per latent cell and side, a power of two >= `patch`.
        temporal: Frames per latent frame after the first, a power of two >= `patch`.
        patch: Side of the Haar patch in time and space, a power of two.
        encoder_channels: Widths from the first stage to the last; one fewer blocks than widths.
        decoder_channels: The decoder's, also from the pixels' side to the latents'.
        blocks: Residual blocks per encoder stage; the decoder has one more.
        resolution: Nominal side of the pictures, for `attention_resolutions`.
        attention_resolutions: Sides of the grid, counted from `resolution`, at which stages attend; the middle always does.
    """

    image_size: tuple[int, int]
    latent_channels: int = 16
    spatial: int = 8
    temporal: int = 4
    patch: int = 4
    encoder_channels: tuple[int, ...] = (32, 48, 64)
    decoder_channels: tuple[int, ...] = (48, 64, 64)
    blocks: int = 1
    resolution: int = 1024
    attention_resolutions: tuple[int, ...] = ()

    def halvings(self) -> tuple[int, int]:
        """How often space and time are halved after the Haar patch.

        Raises:
            InvalidInputError: A size is not a power of two, or does not fit the others.
        """
        for name in ("spatial", "temporal", "patch"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise InvalidInputError(f"{name} must be a power of two; got {value}.")
        space, time = (int(math.log2(v)) - int(math.log2(self.patch)) for v in (self.spatial, self.temporal))
        most = min(len(self.encoder_channels), len(self.decoder_channels)) - 2
        if not (0 <= space <= most and 0 <= time <= min(space, most)):
            raise InvalidInputError(
                f"spatial={self.spatial} and temporal={self.temporal} need patch <= temporal <= spatial and at least "
                f"{space + 2} channel widths; got patch={self.patch} and {most + 2} widths."
            )
        return space, time


class Stage(nn.Module):
    """Residual blocks, attention where asked for, and a change of resolution at the end where there is one."""

    def __init__(self, in_channels: int, out_channels: int, *, blocks: int, attend: bool) -> None:
        """Make the stage without a change of resolution; the owner adds `downsamplers` or `upsamplers`."""
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.resnets = nn.ModuleList([ResidualBlock(a, b) for a, b in itertools.pairwise(widths)])
        count = blocks if attend else 0
        self.attentions = nn.ModuleList([FrameAttention(out_channels, over_time=False) for _ in range(count)])
        self.temp_attentions = nn.ModuleList([FrameAttention(out_channels, over_time=True) for _ in range(count)])
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T', H', W']."""
        for i, block in enumerate(self.resnets):
            x_BCTHW = block(x_BCTHW)
            if self.attentions:
                x_BCTHW = self.temp_attentions[i](self.attentions[i](x_BCTHW))
        for change in (*self.downsamplers, *self.upsamplers):
            x_BCTHW = change(x_BCTHW)
        return x_BCTHW


class Middle(nn.Module):
    """Two residual blocks around attention in space and in time."""

    def __init__(self, channels: int) -> None:
        """Make the block."""
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([FrameAttention(channels, over_time=False)])
        self.temp_attentions = nn.ModuleList([FrameAttention(channels, over_time=True)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        x_BCTHW = self.temp_attentions[0](self.attentions[0](self.resnets[0](x_BCTHW)))
        out: Tensor = self.resnets[1](x_BCTHW)
        return out


class Encoder(nn.Module):
    """Haar bands to latents."""

    def __init__(self, config: CausalHaarConfig) -> None:
        """Make the encoder."""
        super().__init__()
        space, time = config.halvings()
        widths, side = config.encoder_channels, config.resolution // config.patch
        self.conv_in = FactorisedConv(3 * config.patch**3, widths[0])
        self.down_blocks = nn.ModuleList()
        for i in range(len(widths) - 1):
            stage = Stage(widths[i], widths[i + 1], blocks=config.blocks, attend=side in config.attention_resolutions)
            if i < len(widths) - 2:
                stage.downsamplers.append(Downsample(widths[i + 1], space=i < space, time=i < time))
                side //= 2
            self.down_blocks.append(stage)
        self.mid_block = Middle(widths[-1])
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = FactorisedConv(widths[-1], config.latent_channels)

    def forward(self, y_BCTHW: Tensor) -> Tensor:
        """Bands [B, 3 patch**3, T', H', W'] -> [B, c, T'', h, w]."""
        y_BCTHW = self.conv_in(y_BCTHW)
        for stage in self.down_blocks:
            y_BCTHW = stage(y_BCTHW)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid_block(y_BCTHW))))
        return out


class Decoder(nn.Module):
    """Latents to Haar bands."""

    def __init__(self, config: CausalHaarConfig) -> None:
        """Make the decoder."""
        super().__init__()
        space, time = config.halvings()
        widths = config.decoder_channels[::-1]
        side = config.resolution // config.patch // 2 ** (len(widths) - 2)
        self.conv_in = FactorisedConv(config.latent_channels, widths[0])
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.ModuleList()
        for i in range(len(widths) - 1):
            attend = side in config.attention_resolutions
            stage = Stage(widths[i], widths[i + 1], blocks=config.blocks + 1, attend=attend)
            if i < len(widths) - 2:
                in_time = 0 < i < time + 1
                stage.upsamplers.append(
                    Upsample(widths[i + 1], space=in_time or (i < space and space > time), time=in_time)
                )
                side *= 2
            self.up_blocks.append(stage)
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = FactorisedConv(widths[-1], 3 * config.patch**3)

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, T'', h, w] -> bands [B, 3 patch**3, T', H', W']."""
        z_BCTHW = self.mid_block(self.conv_in(z_BCTHW))
        for stage in self.up_blocks:
            z_BCTHW = stage(z_BCTHW)
        out: Tensor = self.conv_out(F.silu(self.norm_out(z_BCTHW)))
        return out


class CausalHaarTokenizer(nn.Module):
    """Encode 1 + k * temporal frames into 1 + k latents, and draw them back."""

    def __init__(self, config: CausalHaarConfig) -> None:
        """Make an untrained tokenizer.

        Raises:
            InvalidInputError: The sizes of the config do not fit together.
        """
        super().__init__()
        check_divisible(config.image_size, config.spatial)
        self.config = config
        self.levels = int(math.log2(config.patch))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = CausalConv3d(config.latent_channels, config.latent_channels, kernel=(1, 1, 1))
        self.post_quant_conv = CausalConv3d(config.latent_channels, config.latent_channels, kernel=(1, 1, 1))

    family: LatentFamily = "grid"

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""
        return self.config.temporal

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        height, width = (side // self.config.spatial for side in self.config.image_size)
        return (self.config.latent_channels, height, width)

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Frames [B, 3, 1 + k * temporal, H, W] in [-1, 1] -> latents [B, c, 1 + k, h, w].

        Raises:
            InvalidInputError: Frames of another size, or a clip of another length.
        """
        if tuple(x_BCTHW.shape[-2:]) != self.config.image_size or x_BCTHW.ndim != 5:
            height, width = self.config.image_size
            raise InvalidInputError(f"Expected frames [B, 3, T, {height}, {width}]; got {tuple(x_BCTHW.shape)}.")
        check_frames(x_BCTHW.shape[2], self.config.temporal)
        bands = haar_3d(x_BCTHW, levels=self.levels) / 8 ** (self.levels / 2)  # Cosmos rescales each level by 2 sqrt(2)
        out: Tensor = self.quant_conv(self.encoder(bands))
        return out

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, 1 + k, h, w] -> frames [B, 3, 1 + k * temporal, H, W], about [-1, 1]."""
        bands = self.decoder(self.post_quant_conv(z_BCTHW))
        return haar_3d_inverse(bands * 8 ** (self.levels / 2), levels=self.levels)

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean absolute colour error of the round trip, and of the newest frames drawn from the last two latents alone.

        Worlds draw a step that way (`worldsim.tokenizers.base.decoded_latents`), so it is trained too.
        """
        z_BCTHW = self.encode(x_BCTHW)
        drawn = self.decode(z_BCTHW)
        loss = (drawn - x_BCTHW).abs().mean()
        if z_BCTHW.shape[2] > 2:
            newest = self.decode(z_BCTHW[:, :, -2:])[:, :, -self.temporal_stride :]
            loss = loss + (newest - x_BCTHW[:, :, -self.temporal_stride :]).abs().mean()
        mse = float((drawn.detach() - x_BCTHW).square().mean())
        return loss, {"psnr_db": -10 * math.log10(max(mse / 4, 1e-12))}
