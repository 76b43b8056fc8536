"""Haar and PCA: a tokenizer in closed form, with a small learned decoder for what the linear part leaves out.

Each patch of 2**levels pixels is turned into Haar bands and projected onto their principal components. Haar is orthonormal, so
the projection is the best linear code of that size (Eckart and Young, 1936), and encoding is one strided convolution. Because the
encoder never trains, latents can be cached once; the residual decoder trains beside everything else.

For scenes of any kind; a scene of a few flat rigid things is better served by `worldsim.tokenizers.layers.tokenizer`.

Shape legend: N B frames, C latent channels, R=3 colours, T time, H W pixels, h w grid, P patch side, D = 3 P**2 bands.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import LatentFamily
from worldsim.tokenizers.haar import check_divisible, haar_2d, haar_2d_inverse

CHUNK = 256
"""Frames per block when statistics are gathered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HaarPCAConfig:
    """Shape of a Haar and PCA tokenizer.

    Attributes:
        image_size: H, W in pixels, multiples of 2**levels.
        levels: Haar levels; 3 gives an 8 times coarser grid, 2 a 4 times coarser one.
        channels: Principal components kept, C <= 3 * 4**levels.
        width: Channels of the residual decoder's trunk; 0 for no residual decoder.
        depth: Residual blocks of the trunk, two 3x3 convolutions each.
        fine_width: Channels of the residual decoder's last stage, on a grid 4 times coarser than the pixels.
        moving_weight: Extra weight, in the loss, of pixels that depart from the background or move.
        moving_threshold: Colour change, in [-1, 1] units, from which a pixel counts as such.
    """

    image_size: tuple[int, int]
    levels: int = 3
    channels: int = 24
    width: int = 72
    depth: int = 2
    fine_width: int = 28
    moving_weight: float = 2.0
    moving_threshold: float = 0.1


class ResidualDecoder(nn.Module):
    """A small convolutional network from latents to a correction of the linear picture; it starts at exactly zero."""

    def __init__(self, *, channels: int, width: int, depth: int, fine_width: int, patch: int) -> None:
        """Make the network; most of it runs on the latent grid, where it is cheap."""
        super().__init__()
        self.tail = min(4, patch)
        lift = patch // self.tail
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.second = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.lift = nn.Conv2d(width, fine_width * lift**2, 1)
        self.shuffle = nn.PixelShuffle(lift)
        self.fine = nn.Conv2d(fine_width, fine_width, 3, padding=1)
        self.leave = nn.Conv2d(fine_width, 3 * self.tail**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, z_NChw: Tensor) -> Tensor:
        """Latents [N, C, h, w] -> correction [N, 3, H, W]."""
        y = self.enter(z_NChw.contiguous(memory_format=torch.channels_last))
        for first, second in zip(self.first, self.second, strict=True):
            y = y + second(F.silu(first(F.silu(y))))
        y = F.silu(self.shuffle(self.lift(F.silu(y))))
        y = F.silu(self.fine(y)) + y
        return F.pixel_shuffle(self.leave(y), self.tail)


class HaarPCATokenizer(nn.Module):
    """Encode frames one by one into [C, h, w] latents and draw them back.

    Latent channel i has a standard deviation proportional to the square root of its component's, and the mean variance over
    channels is 1: strong components keep more weight than whitening would give them, and less than their raw energy.
    """

    family: LatentFamily = "grid"
    temporal_stride = 1

    kernel_CRPP: Tensor
    mean_RPP: Tensor
    scale_C: Tensor
    background_RHW: Tensor

    def __init__(self, config: HaarPCAConfig) -> None:
        """Make an unfitted tokenizer: its components are the first Haar bands until `fit` or loaded weights replace them.

        Raises:
            InvalidInputError: The image does not divide into patches, or there are more channels than bands.
        """
        super().__init__()
        self.config = config
        patch, bands = 2**config.levels, 3 * 4**config.levels
        check_divisible(config.image_size, patch)
        if not 1 <= config.channels <= bands:
            raise InvalidInputError(f"channels must be 1..{bands} with levels={config.levels}; got {config.channels}.")
        self.patch = patch
        self.register_buffer("kernel_CRPP", _to_kernel(torch.eye(bands)[: config.channels], config.levels))
        self.register_buffer("mean_RPP", torch.zeros(3, patch, patch))
        self.register_buffer("scale_C", torch.ones(config.channels))
        self.register_buffer("background_RHW", torch.zeros(3, *config.image_size))
        self.residual: ResidualDecoder | None = None
        if config.width:
            self.residual = ResidualDecoder(
                channels=config.channels,
                width=config.width,
                depth=config.depth,
                fine_width=config.fine_width,
                patch=patch,
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        height, width = self.config.image_size
        return (self.config.channels, height // self.patch, width // self.patch)

    @property
    def basis(self) -> Tensor:
        """The principal components in Haar bands, orthonormal rows [C, D]."""
        return haar_2d(self.kernel_CRPP, levels=self.config.levels).flatten(1)

    @torch.no_grad()
    def fit_frames(self, x_NRHW: Tensor) -> None:
        """Find mean, components, scales and background in closed form.

        Args:
            x_NRHW: Frames [N, 3, H, W] in [-1, 1], at least 2.

        Raises:
            InvalidInputError: Wrong shape, too few frames, or frames without any variation.
        """
        expected = (3, *self.config.image_size)
        if x_NRHW.ndim != 4 or tuple(x_NRHW.shape[1:]) != expected or len(x_NRHW) < 2:
            raise InvalidInputError(f"fit needs at least 2 frames [N, {expected}]; got {tuple(x_NRHW.shape)}.")
        mean_D, covariance_DD = band_statistics(x_NRHW, levels=self.config.levels)
        variance_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        if float(variance_D[-1]) <= 1e-12:
            raise InvalidInputError("All patches of all frames are the same: there is nothing to encode.")
        basis_CD = vectors_DD.flip(1).T[: self.config.channels]
        sign = torch.where(basis_CD.gather(1, basis_CD.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)  # make it unique
        deviation_C = variance_D.flip(0)[: self.config.channels].clamp_min(1e-12).sqrt()
        self.kernel_CRPP.copy_(_to_kernel((basis_CD * sign).float(), self.config.levels))
        self.mean_RPP.copy_(_to_kernel(mean_D[None].float(), self.config.levels)[0])
        self.scale_C.copy_(deviation_C.sqrt() * deviation_C.mean().sqrt())
        self.background_RHW.copy_(x_NRHW[:: max(1, len(x_NRHW) // CHUNK)][:CHUNK].median(0).values)

    def encode(self, x_BRTHW: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> latents [B, C, T, h, w]; every frame alone.

        Raises:
            InvalidInputError: Frames of another size.
        """
        if tuple(x_BRTHW.shape[-2:]) != self.config.image_size or x_BRTHW.ndim != 5:
            raise InvalidInputError(
                f"Expected frames [B, 3, T, {self.config.image_size[0]}, {self.config.image_size[1]}]; got {tuple(x_BRTHW.shape)}."
            )
        weight = self.kernel_CRPP / self.scale_C[:, None, None, None]
        bias = -(weight * self.mean_RPP).sum((1, 2, 3))
        x_NRHW = x_BRTHW.transpose(1, 2).flatten(0, 1)
        z_NChw = F.conv2d(x_NRHW, weight, bias, stride=self.patch)
        z_BCThw: Tensor = z_NChw.unflatten(0, (x_BRTHW.shape[0], -1)).transpose(1, 2)
        return z_BCThw

    def decode(self, z_BCThw: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] -> frames [B, 3, T, H, W], about [-1, 1]."""
        z_NChw = z_BCThw.transpose(1, 2).flatten(0, 1)
        x_NRHW = self.decode_linear(z_NChw)
        if self.residual is not None:
            x_NRHW = x_NRHW + self.residual(z_NChw)
        x_BRTHW: Tensor = x_NRHW.unflatten(0, (z_BCThw.shape[0], -1)).transpose(1, 2)
        return x_BRTHW

    def decode_linear(self, z_NChw: Tensor) -> Tensor:
        """The part of `decode` that is linear: [N, C, h, w] -> [N, 3, H, W]."""
        weight_DC = (self.kernel_CRPP * self.scale_C[:, None, None, None]).flatten(1).T
        patches_NDhw = F.conv2d(z_NChw, weight_DC[:, :, None, None], self.mean_RPP.flatten())
        return F.pixel_shuffle(patches_NDhw, self.patch)

    def loss(self, x_BRTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the decoded frames, with extra weight on what departs from the background or moves.

        Only the residual decoder learns from it.
        """
        with torch.no_grad():
            z_BCThw = self.encode(x_BRTHW)
            weight = 1 + self.config.moving_weight * self.moving(x_BRTHW)
        error = (self.decode(z_BCThw) - x_BRTHW).square()
        plain = float(error.detach().mean())
        return (error * weight).mean(), {"psnr_db": -10 * math.log10(max(plain / 4, 1e-12))}

    def moving(self, x_BRTHW: Tensor) -> Tensor:
        """1 where a pixel departs from the background, or from the frame before it, else 0: [B, 1, T, H, W]."""
        away = (x_BRTHW - self.background_RHW[None, :, None]).abs().amax(1, keepdim=True)
        step = F.pad((x_BRTHW[:, :, 1:] - x_BRTHW[:, :, :-1]).abs().amax(1, keepdim=True), (0, 0, 0, 0, 1, 0))
        return (torch.maximum(away, step) > self.config.moving_threshold).to(x_BRTHW.dtype)


def band_statistics(x_NRHW: Tensor, *, levels: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of the Haar bands over all patches, in float64."""
    bands = 3 * 4**levels
    total = torch.zeros(bands, dtype=torch.float64, device=x_NRHW.device)
    outer = torch.zeros(bands, bands, dtype=torch.float64, device=x_NRHW.device)
    count = 0
    for block in x_NRHW.split(CHUNK):
        rows_MD = haar_2d(block, levels=levels).movedim(1, -1).reshape(-1, bands).double()
        total += rows_MD.sum(0)
        outer += rows_MD.T @ rows_MD
        count += len(rows_MD)
    mean = total / count
    return mean, outer / count - mean[:, None] * mean


def _to_kernel(basis_CD: Tensor, levels: int) -> Tensor:
    """Vectors in Haar bands [C, D] -> the same vectors as pixel patches [C, 3, P, P]."""
    return haar_2d_inverse(basis_CD[:, :, None, None], levels=levels)
