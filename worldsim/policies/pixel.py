"""PixelPolicy: a small convolutional network from camera frames and proprioception to actions.

Per camera a strided convolution to a quarter of the size, two more at that size, and a spatial softmax: where in the
picture each of C features is, which is what pushing needs and costs few weights (Finn et al., "Deep spatial autoencoders
for visuomotor learning", ICRA 2016).

Shape legend: M rows, C features, h w feature map, S = h w cells, H W image, P proprio, K chunk, A action, E encoded action.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldsim.core import IMAGE, STATE, Camera, Observation
from worldsim.errors import InvalidInputError
from worldsim.policies.contract import Contract
from worldsim.policies.trained import TrainedPolicy, TrainedPolicyConfig, mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPolicyConfig(TrainedPolicyConfig):
    """Sizes of a pixel policy; the default has 67 thousand weights.

    Attributes:
        camera: Observation key of the main camera.
        image_size: H, W of its frames in pixels, multiples of `stride_px`.
        more_cameras: Further cameras it looks through, each by convolutions of its own; sizes as for the main one.
        channels: Features after each convolution; the first has a kernel of twice its stride, the others 3x3.
        stride_px: Stride of the first convolution.
        hidden: Width of the two layers after the spatial softmax.

    Raises:
        InvalidInputError: A size that is not positive, or an image that the stride does not divide.
    """

    camera: str = IMAGE
    image_size: tuple[int, int] = (64, 64)
    more_cameras: tuple[Camera, ...] = ()
    channels: tuple[int, ...] = (16, 32, 32)
    stride_px: int = 4
    hidden: int = 192

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (*self.image_size, *self.channels, self.stride_px, self.hidden)
        if not self.channels or not all(v > 0 for v in sizes) or self.stride_px % 2:
            raise InvalidInputError(f"Sizes of a pixel policy must be positive and stride_px even; got {self}.")
        if len(self.image_size) != 2:
            raise InvalidInputError(f"image_size must be H, W; got {self.image_size}.")
        keys = [camera.key for camera in self.cameras]
        if len(set(keys)) != len(keys):
            raise InvalidInputError(f"Cameras of a pixel policy must have different keys; got {keys}.")
        for camera in self.cameras:
            if any(side % self.stride_px for side in camera.size):
                raise InvalidInputError(
                    f"image_size of {camera.key} must be H, W in multiples of stride_px {self.stride_px}; got {camera.size}."
                )

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """All cameras, the main one first."""
        height, width = self.image_size
        return (Camera(key=self.camera, height=height, width=width), *self.more_cameras)


class PixelPolicy(TrainedPolicy):
    """Actions from pixels; see `PixelPolicyConfig`.

    Reads uint8 [n, H, W, 3] of each of its cameras and STATE float32 [n, P].
    """

    kind: ClassVar[str] = "pixel"
    config_class: ClassVar[type[TrainedPolicyConfig]] = PixelPolicyConfig
    config: PixelPolicyConfig

    def __init__(self, config: PixelPolicyConfig, *, name: str = "") -> None:
        super().__init__(config, name=name)
        c = config
        self.convolutions, self.where = _convolutions(c), _spatial_softmax(c, c.cameras[0])
        self.more = nn.ModuleList(
            nn.Sequential(_convolutions(c), _spatial_softmax(c, camera)) for camera in c.more_cameras
        )
        features = 2 * c.channels[-1] * len(c.cameras) + self.proprio_dim
        self.head = mlp((features, c.hidden, c.hidden, c.chunk * c.action.encoded_dim))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def reads(cls, cameras: Sequence[str]) -> frozenset[str]:
        """The cameras and the proprioception."""
        return frozenset({STATE, *cameras})

    @property
    def needs(self) -> frozenset[str]:
        """Its own cameras and the proprioception."""
        return self.reads([camera.key for camera in self.config.cameras])

    @property
    def image_size(self) -> tuple[int, int]:
        """H, W in pixels of the main camera's frames."""
        return self.config.image_size

    @property
    def contract(self) -> Contract:
        """What it was trained for, its cameras among it."""
        return dataclasses.replace(super().contract, cameras=self.config.cameras)

    def forward(self, observation: Observation) -> Tensor:
        """Predict chunks of actions, [M, K, E], as `ActionSpec.normalize` encodes them (not clipped)."""
        p_MP = self.normalized_proprio(observation)
        main, *more = (_pixels(observation[camera.key], p_MP.dtype) for camera in self.config.cameras)
        parts = [self.where(self.convolutions(main))]
        parts += [encoder(x_MCHW) for encoder, x_MCHW in zip(self.more, more, strict=True)]
        features = torch.cat([*parts, p_MP], dim=1)
        encoded: Tensor = self.head(features)
        return encoded.reshape(-1, self.config.chunk, self.config.action.encoded_dim)

    def check_observation(self, observation: Observation, n: int) -> None:
        """Check the frames' sizes and types, and the proprioception's width.

        Raises:
            PolicyError: Another size than trained on.
        """
        super().check_observation(observation, n)
        for camera in self.config.cameras:
            self.expect(observation, camera.key, (n, *camera.size, 3), dtype=torch.uint8)


def _convolutions(config: PixelPolicyConfig) -> nn.Sequential:
    """Frames [M, 3, H, W] -> feature maps [M, C, h, w]."""
    first = nn.Conv2d(3, config.channels[0], 2 * config.stride_px, config.stride_px, config.stride_px // 2)
    layers: list[nn.Module] = [first]
    for width_in, width_out in itertools.pairwise(config.channels):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(width_in, width_out, 3, 1, 1)]
    return nn.Sequential(*layers)


def _spatial_softmax(config: PixelPolicyConfig, camera: Camera) -> "SpatialSoftmax":
    return SpatialSoftmax(camera.height // config.stride_px, camera.width // config.stride_px)


def _pixels(image_MHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames uint8 -> [M, 3, H, W] in [-1, 1].

    Multiplies where `worldsim.video.to_model` divides: the last bits differ, and trained policies know these.
    """
    return image_MHWC.permute(0, 3, 1, 2).to(dtype).mul_(1 / 127.5).sub_(1)  # NHWC bytes are channels_last already


class SpatialSoftmax(nn.Module):
    """The mean position of each feature under a softmax over the map: [M, C, h, w] -> [M, 2C], each in -1..1.

    Args:
        height: h.
        width: w.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        self.register_buffer("grid_2s", torch.stack([x.flatten(), y.flatten()]), persistent=False)

    def forward(self, x_MChw: Tensor) -> Tensor:
        """Compute the positions, all x first: [M, C, h, w] -> [M, 2C]."""
        weight_MSC = x_MChw.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1)  # a view of channels_last maps, no copy
        where_M2C: Tensor = self.get_buffer("grid_2s") @ weight_MSC
        return where_M2C.flatten(1)


def _centres(cells: int) -> Tensor:
    """Centres of `cells` equal cells of [-1, 1]."""
    return (torch.arange(cells) + 0.5) * (2 / cells) - 1
