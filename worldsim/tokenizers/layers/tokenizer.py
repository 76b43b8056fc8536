"""Layers: a frame as a background and a few rigid sprites, each with a pose; the latent is the poses.

Moving what is there instead of repainting it (layered representation: Wang and Adelson, "Representing moving images with
layers", 1994): a decoded block stays as rigid as the block is. Layers are discovered without labels from what departs
from the median frame; encoding is closed-form registration; only the sprites' pixels are learned.

For fixed cameras and flat rigid things of one colour each, seen roughly from above. Not for articulated or deforming
things, textures, or moving cameras: `LayersTokenizer.fit` says how much of a scene it explains, and the Haar
tokenizers serve the rest.

Shape legend: N B frames, C=3 colour, T time, H W pixels, L layers, S sprite side in pixels, R render oversampling.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import LatentFamily
from worldsim.tokenizers.layers.discovery import Sprite, discover
from worldsim.tokenizers.layers.registration import Aligner, centroid, coarse_angle, compose, coverage, crop

POSE = 4
"""Latent channels of a layer: x, y (image half-widths from the centre), cos and sin of order * angle."""
ABSENT = 4.0
"""x and y of a layer that is not in view: far outside, so that nothing is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Shape of a fitted layer tokenizer.

    Attributes:
        image_size: H, W in pixels.
        orders: Rotational symmetry of each layer: 1 none, n for n-fold, 0 round. Its length is the number of layers.
        sprite_px: Side S of the sprites.
        oversample: R, sprite pixels per frame pixel when drawing.
        max_layers: Most layers that `fit` may discover.
    """

    image_size: tuple[int, int]
    orders: tuple[int, ...] = ()
    sprite_px: int = 1
    oversample: int = 2
    max_layers: int = 4


class LayersTokenizer(nn.Module):
    """Encode frames into poses [4 L, 1, 1] and draw them back."""

    family: LatentFamily = "layers"
    temporal_stride = 1

    background_CHW: Tensor
    color_LC: Tensor
    alpha_LSS: Tensor
    mass_L: Tensor

    def __init__(self, config: LayersConfig) -> None:
        """Make an empty tokenizer of the configured shape; `fit` or loaded weights fill it."""
        super().__init__()
        self.config = config
        count, side = len(config.orders), config.sprite_px
        self.register_buffer("background_CHW", torch.zeros(3, *config.image_size))
        self.register_buffer("color_LC", torch.zeros(count, 3))
        self.register_buffer("alpha_LSS", torch.zeros(count, side, side))  # for registration, one value a pixel
        self.register_buffer("mass_L", torch.ones(count))
        self.scene = nn.Parameter(torch.zeros(3, *config.image_size))
        self.sprite = nn.Parameter(torch.zeros(count, POSE, side * config.oversample, side * config.oversample))

    @property
    def orders(self) -> tuple[int, ...]:
        """Rotational symmetry of each layer, 0 for round ones."""
        return self.config.orders

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(4 L, 1, 1)."""
        return (POSE * len(self.config.orders), 1, 1)

    @classmethod
    def fit(cls, x_NCHW: Tensor, *, max_layers: int = 4, oversample: int = 2) -> "LayersTokenizer":
        """Discover background and layers in closed form.

        Args:
            x_NCHW: At least 64 frames in [-1, 1], of one scene, with the movable things in many places.
            max_layers: Most layers to look for.
            oversample: Sprite pixels per frame pixel when drawing.

        Raises:
            InvalidInputError: Too few frames, or nothing moves, or nothing rigid was found.
        """
        if x_NCHW.ndim != 4 or x_NCHW.shape[0] < 64 or x_NCHW.shape[1] != 3:
            raise InvalidInputError(f"fit needs at least 64 RGB frames [N, 3, H, W]; got {tuple(x_NCHW.shape)}.")
        background, sprites = discover(x_NCHW, max_layers=max_layers)
        if not sprites:
            raise InvalidInputError(
                "No rigid moving layer was found in these frames. Use tokenizer=haar_pca for this scene."
            )
        config = LayersConfig(
            image_size=(x_NCHW.shape[2], x_NCHW.shape[3]),
            orders=tuple(s.order for s in sprites),
            sprite_px=max(s.alpha_SS.shape[0] for s in sprites),
            oversample=oversample,
            max_layers=max_layers,
        )
        made = cls(config)
        made._adopt(background, sprites)
        return made

    @torch.no_grad()
    def _adopt(self, background_CHW: Tensor, sprites: list[Sprite]) -> None:
        """Take over what was discovered; sprites are centred in the common window."""
        self.background_CHW.copy_(background_CHW)
        self.scene.copy_(background_CHW)
        for i, sprite in enumerate(sprites):
            gap = self.config.sprite_px - sprite.alpha_SS.shape[0]
            alpha = F.pad(sprite.alpha_SS, (gap // 2, gap - gap // 2, gap // 2, gap - gap // 2))
            self.alpha_LSS[i], self.color_LC[i] = alpha, sprite.color_C
            self.mass_L[i] = alpha.sum()
            size = self.sprite.shape[-2:]
            opacity = F.interpolate(alpha[None, None], size=size, mode="bilinear", align_corners=False)[0]
            self.sprite[i] = torch.cat([sprite.color_C[:, None, None] * opacity, opacity])

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Register every layer in every frame: [B, 3, T, H, W] in [-1, 1] -> [B, 4 L, T, 1, 1].

        Sums over pixels need the digits of float32, whatever the weights' dtype; the latent has the frames' dtype.
        """
        batch, _, time = x_BCTHW.shape[:3]
        x_NCHW = x_BCTHW.transpose(1, 2).flatten(0, 1).float()
        with torch.no_grad():
            poses = [self._register(x_NCHW, i) for i in range(len(self.config.orders))]
        return torch.cat(poses, dim=1).to(x_BCTHW.dtype).reshape(batch, time, -1).transpose(1, 2)[..., None, None]

    def _register(self, x_NCHW: Tensor, layer: int) -> Tensor:
        """Pose of one layer in every frame, as latent channels [N, 4]."""
        order, alpha_SS = self.config.orders[layer], self.alpha_LSS[layer].float()
        a_NHW = coverage(x_NCHW, self.background_CHW.float(), self.color_LC[layer].float())
        center_N2, mass_N = centroid(a_NHW)
        pose_N3 = F.pad(center_N2, (0, 1))
        if order != 0:
            patch = crop(a_NHW[:, None], pose_N3, alpha_SS.shape[-1])[:, 0]
            pose_N3 = torch.cat([center_N2, coarse_angle(patch, alpha_SS)[0][:, None]], dim=1)
        pose_N3 = Aligner(alpha_SS, round_layer=order == 0).refine(a_NHW, pose_N3)
        return self._to_latent(pose_N3, order, mass_N > 0.1 * self.mass_L[layer])

    def _to_latent(self, pose_N3: Tensor, order: int, present_N: Tensor) -> Tensor:
        """[N, 3] pixels and radians -> [N, 4] latent channels."""
        height, width = self.config.image_size
        x, y = pose_N3[:, 0] * 2 / width, pose_N3[:, 1] * 2 / height
        latent = torch.stack([x, y, (order * pose_N3[:, 2]).cos(), (order * pose_N3[:, 2]).sin()], dim=1)
        absent = latent.new_tensor([ABSENT, ABSENT, 1.0, 0.0])
        return torch.where(present_N[:, None], latent, absent)

    def pose(self, z_BLP: Tensor) -> Tensor:
        """Latent channels [..., L, 4] -> poses [..., L, 3] in pixels from the image centre and radians."""
        height, width = self.config.image_size
        order = z_BLP.new_tensor([max(o, 1) for o in self.config.orders])
        angle = torch.atan2(z_BLP[..., 3], z_BLP[..., 2]) / order
        return torch.stack([z_BLP[..., 0] * width / 2, z_BLP[..., 1] * height / 2, angle], dim=-1)

    def places(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Where the layers of latents [B, 4 L, 1, 1] are; see `worldsim.tokenizers.base.Placed`."""
        z_BLP = z_BCHW[..., 0, 0].unflatten(-1, (-1, POSE))
        return self.pose(z_BLP)[..., :2], z_BLP[..., 0].abs() < ABSENT / 2

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Draw poses: [B, 4 L, T, 1, 1] -> [B, 3, T, H, W] in [-1, 1]."""
        batch, channels, time = z_BCTHW.shape[:3]
        z_NLP = z_BCTHW[..., 0, 0].transpose(1, 2).reshape(batch * time, channels // POSE, POSE)
        pose_NL3 = self.pose(z_NLP)
        x_NCHW = self.scene[None].expand(batch * time, -1, -1, -1)
        for layer in range(len(self.config.orders)):
            drawn = self._draw(self.sprite[layer], pose_NL3[:, layer])
            x_NCHW = x_NCHW * (1 - drawn[:, 3:]) + drawn[:, :3]  # premultiplied over
        return x_NCHW.reshape(batch, time, *x_NCHW.shape[1:]).transpose(1, 2)

    def _draw(self, sprite_PSS: Tensor, pose_N3: Tensor) -> Tensor:
        """Resample one sprite onto the frame at each pose: [N, 4, H, W], colour premultiplied by opacity.

        Positions are pixels, and half precision has too few digits for them: they are computed in float32.
        """
        pose_N3 = pose_N3.float()
        height, width = self.config.image_size
        xs = torch.arange(width, device=pose_N3.device) - (width - 1) / 2
        ys = torch.arange(height, device=pose_N3.device) - (height - 1) / 2
        dx, dy = xs[None, None, :] - pose_N3[:, 0, None, None], ys[None, :, None] - pose_N3[:, 1, None, None]
        cos, sin = pose_N3[:, 2].cos()[:, None, None], pose_N3[:, 2].sin()[:, None, None]
        scale = 2 / self.config.sprite_px
        grid = torch.stack([(cos * dx + sin * dy) * scale, (cos * dy - sin * dx) * scale], dim=-1)
        sprite_NPSS = sprite_PSS.float()[None].expand(pose_N3.shape[0], -1, -1, -1)
        return F.grid_sample(sprite_NPSS, grid, align_corners=False).to(sprite_PSS.dtype)

    @torch.no_grad()
    def explained(self, x_NCHW: Tensor) -> float:
        """Share of the frames' departure from the background (squared) that the layers draw; 1 is all of it."""
        drawn = self.decode(self.encode(x_NCHW[:, :, None]))[:, :, 0]
        missed = (drawn - x_NCHW).square().sum()
        return 1 - float(missed / (x_NCHW - self.background_CHW).square().sum().clamp_min(1e-9))

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the drawn frames, with weight on what departs from the background; poses are not learned."""
        drawn = self.decode(self.encode(x_BCTHW))
        moving = (x_BCTHW - self.background_CHW[None, :, None]).abs().amax(1, keepdim=True) > 0.1
        error = (drawn - x_BCTHW).square()
        loss = (error * (1 + 9 * moving)).mean()
        psnr = -10 * math.log10(max(float(error.detach().mean()) / 4, 1e-12))
        return loss, {"psnr_db": psnr}


def apply_motion(z_BLP: Tensor, motion_BL3: Tensor, orders: tuple[int, ...]) -> Tensor:
    """Move each layer by a motion given in its own frame.

    Args:
        z_BLP: Latent poses [B, L, 4].
        motion_BL3: Displacement (image half-widths) and turn (radians), in the layer's frame.
        orders: Rotational symmetry per layer, as in the config.

    Returns:
        Latent poses [B, L, 4] with unit cos and sin.
    """
    order = z_BLP.new_tensor([max(o, 1) for o in orders])
    phase = torch.atan2(z_BLP[..., 3], z_BLP[..., 2])
    pose = torch.stack([z_BLP[..., 0], z_BLP[..., 1], phase / order], dim=-1)
    moved = compose(pose.flatten(0, 1), motion_BL3.flatten(0, 1)).unflatten(0, z_BLP.shape[:2])
    turned = moved[..., 2] * order
    return torch.stack([moved[..., 0], moved[..., 1], turned.cos(), turned.sin()], dim=-1)
