"""What a tokenizer is: frames to latents and back, behind one interface.

Shape legend: B batch, C channels, T time, H W pixels or latent cells.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """An `nn.Module` that encodes frames in [-1, 1] into latents and draws them back."""

    @property
    def config(self) -> Any:
        """The config dataclass beside the class; rebuilds the tokenizer but its weights."""

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent frame."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> latents [B, c, T', h, w]."""

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, T', h, w] -> frames [B, 3, T, H, W], about [-1, 1]."""

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Training loss of the learned parts on frames, and figures to log."""
