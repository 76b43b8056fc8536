"""What a tokenizer is: frames to latents and back, behind one interface.

Shape legend: B batch, C channels, T time, H W pixels or latent cells.
"""

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

LatentFamily = Literal["grid", "layers", "structured", "vector"]
"""What the numbers of a latent are: features on a grid, poses of rigid layers, proprioception and poses, or a plain state vector."""


@runtime_checkable
class LatentSpace(Protocol):
    """What a predictor must know of latents: where they come from one camera (`Tokenizer`) or several."""

    @property
    def config(self) -> Any:
        """The config dataclass beside the class; rebuilds it but its weights."""

    @property
    def family(self) -> LatentFamily:
        """What its latents are, by which a predictor is chosen."""

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame; where it is above 1, a clip of 1 + k * stride frames has 1 + k latent frames."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent frame."""


@runtime_checkable
class Tokenizer(LatentSpace, Protocol):
    """An `nn.Module` that encodes frames in [-1, 1] into latents and draws them back."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> latents [B, c, T', h, w]."""

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, T', h, w] -> frames [B, 3, T, H, W], about [-1, 1]."""

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Training loss of the learned parts on frames, and figures to log."""


@runtime_checkable
class ProprioTokenizer(LatentSpace, Protocol):
    """An `nn.Module` that needs proprioception to encode a frame, and whose latents hold it."""

    def encode_with(self, x_BCTHW: Tensor, proprio_BTP: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] and proprioception in physical units -> latents [B, c, T, h, w]."""

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, T, h, w] -> frames [B, 3, T, H, W], about [-1, 1]."""

    def proprio(self, z_BCHW: Tensor) -> Tensor:
        """The proprioception [B, P] of latents [B, c, h, w], in physical units."""


@runtime_checkable
class Tracker(LatentSpace, Protocol):
    """A tokenizer that encodes frames alone, and needs their order to say which of several things is which."""

    def track(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, c, T, h, w] of frames that were encoded alone, as those of clips in order."""


@runtime_checkable
class ClosedForm(Tokenizer, Protocol):
    """A tokenizer with a part that is fitted rather than trained."""

    def fit_frames(self, x_NCHW: Tensor) -> None:
        """Fit that part on frames [N, 3, H, W] in [-1, 1]."""


@runtime_checkable
class Layered(LatentSpace, Protocol):
    """Latents that are poses of rigid layers."""

    @property
    def orders(self) -> tuple[int, ...]:
        """Rotational symmetry of each layer, 0 for round ones."""


@runtime_checkable
class Placed(LatentSpace, Protocol):
    """Latents that say where things are in the picture."""

    def places(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, c, h, w] -> where K things are, [B, K, 2] in pixels from the centre, and whether in view, bool [B, K]."""


def decoded_latents(tokenizer: LatentSpace) -> int:
    """Latent frames before the newest that `decode` needs to draw its frames: 1 where time is compressed, else 0."""
    return 1 if tokenizer.temporal_stride > 1 else 0
