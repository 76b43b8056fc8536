"""Causal building blocks of the convolutional tokenizer: no frame ever sees a later one.

Factorised into space and time and laid out as in the Cosmos tokenizers (arXiv 2501.03575, section 4.1): convolutions pad time on the left
by repeating the first frame, normalisation and spatial attention work per frame, temporal attention is masked. Parameter names
follow diffusers' `AutoencoderKLCosmos`, so public weights fit.

Shape legend: B batch, C channels, T time, H W grid, S tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv3d(nn.Conv3d):
    """Convolution that looks back in time only, and pads space with zeros on both sides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        """Make the convolution; odd spatial kernels keep the size at stride 1."""
        super().__init__(in_channels, out_channels, kernel, stride=stride)
        self.past = kernel[0] - 1 + 1 - stride[0]
        down = stride[1] > 1
        self.margin = (0, 0, 0, 0) if down else (kernel[2] // 2, kernel[2] // 2, kernel[1] // 2, kernel[1] // 2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T', H', W']."""
        if x_BCTHW.shape[2] == 1 and self.stride[0] == 1:
            return self._image(x_BCTHW[:, :, 0])[:, :, None]
        if self.past:
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1].expand(-1, -1, self.past, -1, -1), x_BCTHW], dim=2)
        return super().forward(F.pad(x_BCTHW, (*self.margin, 0, 0)))

    def _image(self, x_BCHW: Tensor) -> Tensor:
        """A clip of one frame, whose past is itself: the taps along time add up, and a flat convolution is several times faster."""
        weight = self.weight.sum(2)
        return F.conv2d(F.pad(x_BCHW, self.margin), weight, self.bias, (self.stride[1], self.stride[2]))


class FrameNorm(nn.Module):
    """GroupNorm with one group over each frame by itself, so that statistics do not leak through time."""

    def __init__(self, channels: int) -> None:
        """Make the norm of `channels` features."""
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        frames = self.norm(x_BCTHW.transpose(1, 2).flatten(0, 1))
        out: Tensor = frames.unflatten(0, (x_BCTHW.shape[0], -1)).transpose(1, 2)
        return out


class FactorisedConv(nn.Module):
    """A 3x3 convolution in space, then a causal one over three frames."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Make both convolutions."""
        super().__init__()
        self.conv_s = CausalConv3d(in_channels, out_channels, kernel=(1, 3, 3))
        self.conv_t = CausalConv3d(out_channels, out_channels, kernel=(3, 1, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T, H, W]."""
        out: Tensor = self.conv_t(self.conv_s(x_BCTHW))
        return out


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Make the block; the shortcut is learned where the width changes."""
        super().__init__()
        self.norm1 = FrameNorm(in_channels)
        self.conv1 = FactorisedConv(in_channels, out_channels)
        self.norm2 = FrameNorm(out_channels)
        self.conv2 = FactorisedConv(out_channels, out_channels)
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else CausalConv3d(in_channels, out_channels, kernel=(1, 1, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T, H, W]."""
        h = self.conv1(F.silu(self.norm1(x_BCTHW)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + self.conv_shortcut(x_BCTHW)
        return out


class FrameAttention(nn.Module):
    """Single-head attention over the places of each frame, or over the past of each place."""

    def __init__(self, channels: int, *, over_time: bool) -> None:
        """Make the attention.

        Args:
            channels: Features.
            over_time: Attend causally along time at each place; otherwise along space in each frame.
        """
        super().__init__()
        self.over_time = over_time
        self.norm = FrameNorm(channels)
        self.to_q = CausalConv3d(channels, channels, kernel=(1, 1, 1))
        self.to_k = CausalConv3d(channels, channels, kernel=(1, 1, 1))
        self.to_v = CausalConv3d(channels, channels, kernel=(1, 1, 1))
        self.to_out = nn.ModuleList([CausalConv3d(channels, channels, kernel=(1, 1, 1))])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        height, width = x_BCTHW.shape[-2:]
        h = self.norm(x_BCTHW)
        q, k, v = (self._tokens(layer(h)) for layer in (self.to_q, self.to_k, self.to_v))
        mixed_BGSC = F.scaled_dot_product_attention(q, k, v, is_causal=self.over_time)
        if self.over_time:  # groups are places, tokens are frames
            mixed = mixed_BGSC.unflatten(1, (height, width)).permute(0, 4, 3, 1, 2)
        else:
            mixed = mixed_BGSC.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)
        out: Tensor = x_BCTHW + self.to_out[0](mixed)
        return out

    def _tokens(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, groups, tokens, C]."""
        if self.over_time:
            return x_BCTHW.flatten(3).permute(0, 3, 2, 1)
        return x_BCTHW.flatten(3).permute(0, 2, 3, 1)


class Downsample(nn.Module):
    """Halve space, time or both: a strided convolution beside average pooling."""

    def __init__(self, channels: int, *, space: bool, time: bool) -> None:
        """Make the convolutions that are needed."""
        super().__init__()
        self.space, self.time = space, time
        self.conv1 = CausalConv3d(channels, channels, kernel=(1, 3, 3), stride=(1, 2, 2)) if space else nn.Identity()
        self.conv2 = CausalConv3d(channels, channels, kernel=(3, 1, 1), stride=(2, 1, 1)) if time else nn.Identity()
        self.conv3 = CausalConv3d(channels, channels, kernel=(1, 1, 1)) if space or time else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C, 1 + (T - 1) / 2, H / 2, W / 2], where halved."""
        if self.space:
            padded = F.pad(x_BCTHW, (0, 1, 0, 1))
            x_BCTHW = self.conv1(padded) + F.avg_pool3d(padded, (1, 2, 2))
        if self.time:
            doubled = torch.cat([x_BCTHW[:, :, :1], x_BCTHW], dim=2)
            x_BCTHW = self.conv2(doubled) + F.avg_pool3d(doubled, (2, 1, 1))
        out: Tensor = self.conv3(x_BCTHW)
        return out


class Upsample(nn.Module):
    """Double space, time or both by repetition, then a residual convolution; the first frame is not doubled."""

    def __init__(self, channels: int, *, space: bool, time: bool) -> None:
        """Make the convolutions that are needed."""
        super().__init__()
        self.space, self.time = space, time
        self.conv1 = CausalConv3d(channels, channels, kernel=(3, 1, 1)) if time else nn.Identity()
        self.conv2 = CausalConv3d(channels, channels, kernel=(1, 3, 3)) if space else nn.Identity()
        self.conv3 = CausalConv3d(channels, channels, kernel=(1, 1, 1)) if space or time else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C, 1 + 2 (T - 1), 2 H, 2 W], where doubled."""
        if self.time:
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:].repeat_interleave(2, dim=2)], dim=2)
            x_BCTHW = self.conv1(x_BCTHW) + x_BCTHW
        if self.space:
            x_BCTHW = x_BCTHW.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x_BCTHW = self.conv2(x_BCTHW) + x_BCTHW
        out: Tensor = self.conv3(x_BCTHW)
        return out
