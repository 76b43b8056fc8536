"""PixelPolicy: a small convolutional network from the camera frame and proprioception to actions.

A strided convolution to a quarter of the size, two more at that size, and a spatial softmax: where in the picture each
of C features is, which is what pushing needs and costs few weights (Finn et al., "Deep spatial autoencoders for
visuomotor learning", ICRA 2016). Not for training (`worldsim.train.recipes.policy`).

Shape legend: m rows, C features, h w feature map, H W image, P proprio, K chunk, A action.
"""

import dataclasses
import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldsim.core import IMAGE, STATE, Observation
from worldsim.errors import InvalidInputError
from worldsim.policies.trained import TrainedPolicy, TrainedPolicyConfig, mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPolicyConfig(TrainedPolicyConfig):
    """Sizes of a pixel policy; the default has 67 thousand weights.

    Attributes:
        image_size: H, W in pixels, multiples of `stride_px`.
        channels: Features after each convolution; the first has a kernel of twice its stride, the others 3x3.
        stride_px: Stride of the first convolution.
        hidden: Width of the two layers after the spatial softmax.

    Raises:
        InvalidInputError: A size that is not positive, or an image that the stride does not divide.
    """

    image_size: tuple[int, int] = (64, 64)
    channels: tuple[int, ...] = (16, 32, 32)
    stride_px: int = 4
    hidden: int = 192

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (*self.image_size, *self.channels, self.stride_px, self.hidden)
        if not self.channels or not all(v > 0 for v in sizes) or self.stride_px % 2:
            raise InvalidInputError(f"Sizes of a pixel policy must be positive and stride_px even; got {self}.")
        if len(self.image_size) != 2 or any(side % self.stride_px for side in self.image_size):
            raise InvalidInputError(
                f"image_size must be H, W in multiples of stride_px {self.stride_px}; got {self.image_size}."
            )


class PixelPolicy(TrainedPolicy):
    """Actions from pixels; see `PixelPolicyConfig`.

    Reads IMAGE uint8 [n, H, W, 3] and STATE float32 [n, P].
    """

    kind: ClassVar[str] = "pixel"
    config_class: ClassVar[type[TrainedPolicyConfig]] = PixelPolicyConfig
    needs: ClassVar[frozenset[str]] = frozenset({IMAGE, STATE})
    config: PixelPolicyConfig

    def __init__(self, config: PixelPolicyConfig, *, name: str = "") -> None:
        super().__init__(config, name=name)
        c = config
        layers: list[nn.Module] = [nn.Conv2d(3, c.channels[0], 2 * c.stride_px, c.stride_px, c.stride_px // 2)]
        for width_in, width_out in itertools.pairwise(c.channels):
            layers += [nn.ReLU(inplace=True), nn.Conv2d(width_in, width_out, 3, 1, 1)]
        self.convolutions = nn.Sequential(*layers)
        self.where = SpatialSoftmax(c.image_size[0] // c.stride_px, c.image_size[1] // c.stride_px)
        features = 2 * c.channels[-1] + self.proprio_dim
        self.head = mlp((features, c.hidden, c.hidden, c.chunk * c.action.dim))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def image_size(self) -> tuple[int, int]:
        """H, W in pixels of the frames it reads."""
        return self.config.image_size

    def forward(self, observation: Observation) -> Tensor:
        """Predict chunks of actions, [m, K, A] in units of [-1, 1] (not clipped)."""
        image_mhwc, p_mp = observation[IMAGE], self.normalized_proprio(observation)
        x_mchw = (
            image_mhwc.permute(0, 3, 1, 2).to(p_mp.dtype).mul_(1 / 127.5).sub_(1)
        )  # NHWC bytes are channels_last already
        features = torch.cat([self.where(self.convolutions(x_mchw)), p_mp], dim=1)
        unit: Tensor = self.head(features)
        return unit.reshape(-1, self.config.chunk, self.action_dim)

    def check_observation(self, observation: Observation, n: int) -> None:
        """Check the frame's size and type, and the proprioception's width.

        Raises:
            PolicyError: Another size than trained on.
        """
        super().check_observation(observation, n)
        self.expect(observation, IMAGE, (n, *self.config.image_size, 3), dtype=torch.uint8)


class SpatialSoftmax(nn.Module):
    """The mean position of each feature under a softmax over the map: [m, C, h, w] -> [m, 2C], each in -1..1.

    Args:
        height: h.
        width: w.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        self.register_buffer("grid_2s", torch.stack([x.flatten(), y.flatten()]), persistent=False)

    def forward(self, x_mchw: Tensor) -> Tensor:
        """Compute the positions, all x first."""
        weight_msc = x_mchw.permute(0, 2, 3, 1).flatten(1, 2).softmax(dim=1)  # a view of channels_last maps, no copy
        where_m2c: Tensor = self.get_buffer("grid_2s") @ weight_msc
        return where_m2c.flatten(1)


def _centres(cells: int) -> Tensor:
    """Centres of `cells` equal cells of [-1, 1]."""
    return (torch.arange(cells) + 0.5) * (2 / cells) - 1
