"""What a predictor is: a state of its own, and a step from it to the next latent frames, behind one interface.

Shape legend: B batch, K history, T time, n latent frames per step, C H W latent, P proprio, E encoded action.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from worldsim.conditions import Conditions
from worldsim.core import Rows
from worldsim.data.windows import Clip
from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context(Rows):
    """What is known of B episodes when they begin."""

    z: Tensor  # [B, C, H, W], the first latent frame
    proprio: Tensor  # [B, P], physical units
    action: Tensor  # [B, E], the idle action in network units; it stands for those before the first
    conditions: Conditions = dataclasses.field(default_factory=Conditions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction(Rows):
    """What follows."""

    z: Tensor  # [B, n, C, H, W], the next latent frames
    uncertainty: Tensor  # [B], >= 0


@runtime_checkable
class Predictor(Protocol):
    """An `nn.Module` that predicts `frames_per_step` latent frames from a carry of its own.

    The carry (history, key/value cache, queue) is a `worldsim.core.Rows` value, so that episodes can be indexed, branched
    and stored; nothing is kept in the module.
    """

    @property
    def config(self) -> Any:
        """The config dataclass beside the class; it has `latent_shape`, `history`, `action_dim` (E) and `proprio_dim`."""

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        """Shape of one episode's noise per step, None for a deterministic predictor."""

    @property
    def frames_per_step(self) -> int:
        """Latent frames n that one step predicts."""

    @property
    def reads(self) -> frozenset[str]:
        """Fields of `Conditions` that change what is predicted."""

    def start(self, context: Context) -> Rows:
        """The carry of B episodes that stand still at their first frame."""

    def step(
        self, carry: Rows, action_BE: Tensor, proprio_BP: Tensor, conditions: Conditions, noise: Tensor | None
    ) -> tuple[Rows, Prediction]:
        """Predict the next latent frames.

        Args:
            carry: As returned by `start`, `step` or `observe`.
            action_BE: The actions of this step in network units, flattened.
            proprio_BP: Proprioception now, physical units.
            conditions: What else is known.
            noise: [B, *noise_shape] standard normal, None where `noise_shape` is None.
        """

    def observe(self, carry: Rows, z_BCHW: Tensor, action_BE: Tensor, proprio_BP: Tensor) -> Rows:
        """The carry one step later, by the latent frame that was really seen after `action_BE`.

        `proprio_BP` is the proprioception before that action.
        """

    def loss(
        self, clip: Clip, unroll: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Training loss, a scalar, of an `unroll`-step rollout on the predictor's own output, and figures to log.

        Args:
            clip: At least history + unroll frames, actions in network units.
            unroll: How many steps it is fed its own output.
            generator: Source of training noise.
        """

    def calibrate(self, clip: Clip) -> None:
        """Measure the data's statistics on a clip of short windows, before training."""


@runtime_checkable
class Tracking(Predictor, Protocol):
    """A predictor that follows things, and so knows more of what was seen than the latent of one frame."""

    def latent(self, carry: Rows) -> Tensor:
        """The latent frame [B, C, H, W] of where episodes stand, by what was seen and what was expected."""


@runtime_checkable
class EnsemblePredictor(Predictor, Protocol):
    """A predictor of several members."""

    def members(self) -> tuple[Predictor, ...]:
        """Each member as a predictor of its own that continues the same carries, its weights shared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window(Rows):
    """The carry of predictors that look at the last K latent frames."""

    z: Tensor  # [B, K, C, H, W], newest last
    proprio: Tensor  # [B, K - 1, P], of the frames before the newest
    action: Tensor  # [B, K - 1, E], the actions that led from each remembered frame to the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class History(Rows):
    """What predictors of the last K latent frames are given: a `Window`, and the proprioception and action of now."""

    z: Tensor  # [B, K, C, H, W], newest last
    proprio: Tensor  # [B, K, P], physical units
    action: Tensor  # [B, K, E], network units; each leads from its frame to the next, the last to the one predicted

    @classmethod
    def at(cls, clip: Clip, index: int, z_BKCHW: Tensor) -> "History":
        """What a clip has of the K steps from `index` on, with K latent frames that may be a predictor's own."""
        rows = slice(index, index + z_BKCHW.shape[1])
        return cls(z=z_BKCHW, proprio=clip.proprio_BTP[:, rows], action=clip.action_BTA[:, rows])

    def followed_by(self, z_BCHW: Tensor) -> Window:
        """The window one frame later."""
        z_BKCHW = torch.cat([self.z[:, 1:], z_BCHW[:, None]], dim=1)
        return Window(z=z_BKCHW, proprio=self.proprio[:, 1:], action=self.action[:, 1:])


class WindowPredictor(nn.Module):
    """Base of predictors of one latent frame from the last K: subclasses give `predict`, this gives the carry.

    The first frame is repeated at the start of an episode.
    """

    config: Any
    noise_shape: tuple[int, ...] | None = None
    frames_per_step = 1
    reads: frozenset[str] = frozenset()

    def predict(
        self, past: History, noise: Tensor | None = None, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict one latent frame.

        Args:
            past: The last K frames and what belongs to each.
            noise: [B, *noise_shape] standard normal, None where `noise_shape` is None.
            conditions: What else is known; None for nothing.

        Returns:
            Next latent [B, C, H, W] and its uncertainty [B], >= 0.
        """
        raise NotImplementedError

    def start(self, context: Context) -> Window:
        """See `Predictor.start`."""
        k = self.config.history
        return Window(
            z=context.z[:, None].expand(-1, k, *context.z.shape[1:]),
            proprio=context.proprio[:, None].expand(-1, k - 1, -1),
            action=context.action[:, None].expand(-1, k - 1, -1),
        )

    def step(
        self, carry: Rows, action_BE: Tensor, proprio_BP: Tensor, conditions: Conditions, noise: Tensor | None
    ) -> tuple[Window, Prediction]:
        """See `Predictor.step`."""
        past = _history(carry, action_BE, proprio_BP)
        z_BCHW, uncertainty_B = self.predict(past, noise, conditions)
        return past.followed_by(z_BCHW), Prediction(z=z_BCHW[:, None], uncertainty=uncertainty_B)

    def observe(self, carry: Rows, z_BCHW: Tensor, action_BE: Tensor, proprio_BP: Tensor) -> Window:
        """See `Predictor.observe`."""
        return _history(carry, action_BE, proprio_BP).followed_by(z_BCHW)


def _history(carry: Rows, action_BE: Tensor, proprio_BP: Tensor) -> History:
    if not isinstance(carry, Window):
        raise InvalidInputError(
            f"A predictor continues its own carries; expected a Window, got a {type(carry).__name__}."
        )
    return History(
        z=carry.z,
        proprio=torch.cat([carry.proprio, proprio_BP[:, None]], dim=1),
        action=torch.cat([carry.action, action_BE[:, None]], dim=1),
    )
