"""What a predictor is: from a few past latents and actions to the next latent, behind one interface.

Shape legend: B batch, K history, T time, C H W latent, P proprio, A action.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldsim.data.windows import Clip


@runtime_checkable
class Predictor(Protocol):
    """An `nn.Module` that predicts one step.

    An ensemble may also offer `members()`, each of its members as a predictor of its own.
    """

    @property
    def config(self) -> Any:
        """The config dataclass beside the class; it has `latent_shape`, `history`, `action_dim` and `proprio_dim`."""

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        """Shape of one episode's noise per step, None for a deterministic predictor."""

    def predict_with_spread(
        self, z_BKCHW: Tensor, proprio_BKP: Tensor, action_BKA: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Predict the next latent.

        Args:
            z_BKCHW: Past latents, newest last; repeated at the front at the start of an episode.
            proprio_BKP: Past proprioception, physical units.
            action_BKA: Actions in [-1, 1]; the last leads to the frame predicted, earlier ones led to the history.
            noise: [B, *noise_shape] standard normal, None where `noise_shape` is None.

        Returns:
            Next latent [B, c, h, w] and its uncertainty [B], >= 0.
        """

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Training loss of an `unroll`-step rollout on the predictor's own output, and figures to log.

        Args:
            clip: At least history + unroll frames, actions in [-1, 1].
            unroll: How many steps it is fed its own output.
            generator: Source of training noise.
        """

    def calibrate(self, clip: Clip) -> None:
        """Measure the data's statistics on a clip of short windows, before training."""
